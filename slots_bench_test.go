package modcache_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/cgo"
	"sync"
	"testing"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/modcache/modcache"
)

type benchObject struct{ n uint64 }

// peer is what a host could use in place of a SlotTable.
type peer interface {
	Insert(v *benchObject) uint64
	Get(h uint64) (*benchObject, bool)
	Remove(h uint64)
}

type tablePeer struct {
	t *modcache.SlotTable[*benchObject]
}

func (p tablePeer) Insert(v *benchObject) uint64 {
	h, err := p.t.Insert(v)
	if err != nil {
		panic(err)
	}
	return uint64(h)
}
func (p tablePeer) Get(h uint64) (*benchObject, bool) { return p.t.Get(modcache.Handle(h)) }
func (p tablePeer) Remove(h uint64)                   { _ = p.t.Remove(modcache.Handle(h)) }

type mapPeer struct {
	mu   sync.RWMutex
	last uint64
	m    map[uint64]*benchObject
}

func (p *mapPeer) Insert(v *benchObject) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	p.m[p.last] = v
	return p.last
}

func (p *mapPeer) Get(h uint64) (*benchObject, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	v, ok := p.m[h]
	return v, ok
}

func (p *mapPeer) Remove(h uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.m, h)
}

type syncMapPeer struct {
	last xsync.Counter
	next uint64
	mu   sync.Mutex
	m    sync.Map
}

func (p *syncMapPeer) Insert(v *benchObject) uint64 {
	p.mu.Lock()
	p.next++
	h := p.next
	p.mu.Unlock()
	p.m.Store(h, v)
	return h
}

func (p *syncMapPeer) Get(h uint64) (*benchObject, bool) {
	v, ok := p.m.Load(h)
	if !ok {
		return nil, false
	}
	return v.(*benchObject), true
}
func (p *syncMapPeer) Remove(h uint64) { p.m.Delete(h) }

type xsyncPeer struct {
	mu   sync.Mutex
	next uint64
	m    *xsync.Map[uint64, *benchObject]
}

func (p *xsyncPeer) Insert(v *benchObject) uint64 {
	p.mu.Lock()
	p.next++
	h := p.next
	p.mu.Unlock()
	p.m.Store(h, v)
	return h
}
func (p *xsyncPeer) Get(h uint64) (*benchObject, bool) { return p.m.Load(h) }
func (p *xsyncPeer) Remove(h uint64)                   { p.m.Delete(h) }

type cgoPeer struct{}

func (cgoPeer) Insert(v *benchObject) uint64 { return uint64(cgo.NewHandle(v)) }
func (cgoPeer) Get(h uint64) (*benchObject, bool) {
	v, ok := cgo.Handle(h).Value().(*benchObject)
	return v, ok
}
func (cgoPeer) Remove(h uint64) { cgo.Handle(h).Delete() }

var peers = []struct {
	name string
	make func() peer
}{
	{"SlotTable", func() peer { return tablePeer{modcache.NewSlotTable[*benchObject](nil)} }},
	{"map+RWMutex", func() peer { return &mapPeer{m: map[uint64]*benchObject{}} }},
	{"sync.Map", func() peer { return &syncMapPeer{} }},
	{"xsync.Map", func() peer { return &xsyncPeer{m: xsync.NewMap[uint64, *benchObject]()} }},
	{"cgo.Handle", func() peer { return cgoPeer{} }},
}

const benchSlots = 1024

func fill(p peer) []uint64 {
	hs := make([]uint64, benchSlots)
	for i := range hs {
		hs[i] = p.Insert(&benchObject{uint64(i)})
	}
	return hs
}

func drain(p peer, hs []uint64) {
	for _, h := range hs {
		p.Remove(h)
	}
}

// BenchmarkSlotGet looks up 1024 live handles, in order or at random. Every peer is called
// through the same interface, which costs each the same 1-2 ns.
func BenchmarkSlotGet(b *testing.B) {
	for _, order := range []string{"sequential", "random"} {
		for _, threads := range []int{1, 2} {
			for _, pr := range peers {
				b.Run(fmt.Sprintf("%s/threads=%d/%s", order, threads, pr.name), func(b *testing.B) {
					p := pr.make()
					hs := fill(p)
					defer drain(p, hs)
					if order == "random" {
						rand.Shuffle(len(hs), func(i, j int) { hs[i], hs[j] = hs[j], hs[i] })
					}
					b.ReportAllocs()
					benchThreads(b, threads, func(n int) uint64 {
						var sum uint64
						for i := range n {
							v, ok := p.Get(hs[i%benchSlots])
							if ok {
								sum += v.n
							}
						}
						return sum
					})
				})
			}
		}
	}
}

// BenchmarkSlotGetChurn looks up while another goroutine removes and inserts without pause.
func BenchmarkSlotGetChurn(b *testing.B) {
	for _, pr := range peers {
		b.Run(pr.name, func(b *testing.B) {
			p := pr.make()
			hs := fill(p)
			defer drain(p, hs)
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				v := &benchObject{}
				for {
					select {
					case <-stop:
						return
					default:
						for range 64 {
							p.Remove(p.Insert(v))
						}
					}
				}
			}()
			benchThreads(b, 1, func(n int) uint64 {
				var sum uint64
				for i := range n {
					v, ok := p.Get(hs[i%benchSlots])
					if ok {
						sum += v.n
					}
				}
				return sum
			})
			b.StopTimer()
			close(stop)
			<-done
		})
	}
}

// BenchmarkSlotInsertRemove is one Insert and one Remove per operation.
func BenchmarkSlotInsertRemove(b *testing.B) {
	for _, pr := range peers {
		b.Run(pr.name, func(b *testing.B) {
			p := pr.make()
			hs := fill(p)
			defer drain(p, hs)
			v := &benchObject{}
			b.ReportAllocs()
			for b.Loop() {
				p.Remove(p.Insert(v))
			}
		})
	}
}

// BenchmarkSlotDirect is the table alone, without the interface that the peers need.
func BenchmarkSlotDirect(b *testing.B) {
	t := modcache.NewSlotTable[*benchObject](nil)
	hs := make([]modcache.Handle, benchSlots)
	for i := range hs {
		hs[i], _ = t.Insert(&benchObject{uint64(i)})
	}
	random := make([]modcache.Handle, benchSlots)
	for i, j := range rand.Perm(benchSlots) {
		random[i] = hs[j]
	}
	get := func(hs []modcache.Handle) func(b *testing.B) {
		return func(b *testing.B) {
			var sum uint64
			for i := 0; b.Loop(); i++ {
				v, ok := t.Get(hs[i%benchSlots])
				if ok {
					sum += v.n
				}
			}
			benchSink = sum
		}
	}
	b.Run("Get/sequential", get(hs))
	b.Run("Get/random", get(random))
	b.Run("BorrowRelease", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			h := hs[i%benchSlots]
			if _, ok := t.Borrow(h); ok {
				_ = t.Release(h)
			}
		}
	})
	b.Run("InsertRemove", func(b *testing.B) {
		v := &benchObject{}
		b.ReportAllocs()
		for b.Loop() {
			h, _ := t.Insert(v)
			_ = t.Remove(h)
		}
	})
	b.Run("SlotAs", func(b *testing.B) {
		t := modcache.NewSlotTable[any](nil)
		for i := range hs {
			hs[i], _ = t.Insert(&benchObject{uint64(i)})
		}
		var sum uint64
		for i := 0; b.Loop(); i++ {
			v, ok := modcache.SlotAs[*benchObject](t, hs[i%benchSlots])
			if ok {
				sum += v.n
			}
		}
		benchSink = sum
	})
}

// BenchmarkSlotClose reports the cost of Close, and the memory, per live slot.
func BenchmarkSlotClose(b *testing.B) {
	const n = 100_000
	v := &benchObject{}
	var bytes uint64
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		before := heapBytes()
		t := modcache.NewSlotTable[*benchObject](nil)
		for range n {
			if _, err := t.Insert(v); err != nil {
				b.Fatal(err)
			}
		}
		bytes += heapBytes() - before
		b.StartTimer()
		if err := t.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/slot")
	b.ReportMetric(float64(bytes)/float64(b.N)/n, "B/slot")
}

// BenchmarkSlotIdle reports the memory of a table without slots, and with one.
func BenchmarkSlotIdle(b *testing.B) {
	for _, slots := range []int{0, 1} {
		b.Run(fmt.Sprintf("slots=%d", slots), func(b *testing.B) {
			tables := make([]*modcache.SlotTable[*benchObject], 1000)
			v := &benchObject{}
			var bytes uint64
			for range b.N {
				clear(tables)
				before := heapBytes()
				for i := range tables {
					tables[i] = modcache.NewSlotTable[*benchObject](nil)
					for range slots {
						_, _ = tables[i].Insert(v)
					}
				}
				bytes += heapBytes() - before
			}
			b.ReportMetric(float64(bytes)/float64(b.N)/float64(len(tables)), "B/table")
			runtime.KeepAlive(tables)
		})
	}
}

var benchSink uint64

func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// benchThreads has each of the goroutines run b.N operations: ns/op is what one of them waits for one.
func benchThreads(b *testing.B, threads int, run func(n int) uint64) {
	var wg sync.WaitGroup
	sums := make([]uint64, threads*16)
	b.ResetTimer()
	for i := range threads {
		wg.Go(func() { sums[i*16] = run(b.N) })
	}
	wg.Wait()
	benchSink = sums[0]
}
