package modcache_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/modcache/modcache"
)

type slotBenchObject struct{ n uint64 }

// peer is what a host could use in place of a SlotTable.
type slotPeer interface {
	Insert(v *slotBenchObject) uint64
	Get(h uint64) (*slotBenchObject, bool)
	Remove(h uint64)
}

type slotTablePeer struct {
	t *modcache.SlotTable[*slotBenchObject]
}

func (p slotTablePeer) Insert(v *slotBenchObject) uint64 {
	h, err := p.t.Insert(v)
	if err != nil {
		panic(err)
	}
	return uint64(h)
}
func (p slotTablePeer) Get(h uint64) (*slotBenchObject, bool) { return p.t.Get(modcache.Handle(h)) }
func (p slotTablePeer) Remove(h uint64)                       { _ = p.t.Remove(modcache.Handle(h)) }

type slotMapPeer struct {
	mu   sync.RWMutex
	last uint64
	m    map[uint64]*slotBenchObject
}

func (p *slotMapPeer) Insert(v *slotBenchObject) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	p.m[p.last] = v
	return p.last
}

func (p *slotMapPeer) Get(h uint64) (*slotBenchObject, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	v, ok := p.m[h]
	return v, ok
}

func (p *slotMapPeer) Remove(h uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.m, h)
}

type slotSyncMapPeer struct {
	mu   sync.Mutex
	next uint64
	m    sync.Map
}

func (p *slotSyncMapPeer) Insert(v *slotBenchObject) uint64 {
	p.mu.Lock()
	p.next++
	h := p.next
	p.mu.Unlock()
	p.m.Store(h, v)
	return h
}

func (p *slotSyncMapPeer) Get(h uint64) (*slotBenchObject, bool) {
	v, ok := p.m.Load(h)
	if !ok {
		return nil, false
	}
	return v.(*slotBenchObject), true
}
func (p *slotSyncMapPeer) Remove(h uint64) { p.m.Delete(h) }

type slotXsyncPeer struct {
	mu   sync.Mutex
	next uint64
	m    *xsync.Map[uint64, *slotBenchObject]
}

func (p *slotXsyncPeer) Insert(v *slotBenchObject) uint64 {
	p.mu.Lock()
	p.next++
	h := p.next
	p.mu.Unlock()
	p.m.Store(h, v)
	return h
}
func (p *slotXsyncPeer) Get(h uint64) (*slotBenchObject, bool) { return p.m.Load(h) }
func (p *slotXsyncPeer) Remove(h uint64)                       { p.m.Delete(h) }

type slotPeerMaker struct {
	name string
	make func() slotPeer
}

var slotPeers = []slotPeerMaker{
	{"SlotTable", func() slotPeer { return slotTablePeer{modcache.NewSlotTable[*slotBenchObject](nil)} }},
	{"map+RWMutex", func() slotPeer { return &slotMapPeer{m: map[uint64]*slotBenchObject{}} }},
	{"sync.Map", func() slotPeer { return &slotSyncMapPeer{} }},
	{"xsync.Map", func() slotPeer { return &slotXsyncPeer{m: xsync.NewMap[uint64, *slotBenchObject]()} }},
}

const slotBenchSize = 1024

func fillSlots(p slotPeer) []uint64 {
	hs := make([]uint64, slotBenchSize)
	for i := range hs {
		hs[i] = p.Insert(&slotBenchObject{uint64(i)})
	}
	return hs
}

func drainSlots(p slotPeer, hs []uint64) {
	for _, h := range hs {
		p.Remove(h)
	}
}

// BenchmarkSlotGet looks up 1024 live handles, in order or at random. Every peer is called
// through the same interface, which costs each the same 1-2 ns.
func BenchmarkSlotGet(b *testing.B) {
	for _, order := range []string{"sequential", "random"} {
		for _, threads := range []int{1, 2} {
			for _, pr := range slotPeers {
				b.Run(fmt.Sprintf("%s/threads=%d/%s", order, threads, pr.name), func(b *testing.B) {
					p := pr.make()
					hs := fillSlots(p)
					defer drainSlots(p, hs)
					if order == "random" {
						rand.Shuffle(len(hs), func(i, j int) { hs[i], hs[j] = hs[j], hs[i] })
					}
					b.ReportAllocs()
					slotBenchThreads(b, threads, func(n int) uint64 {
						var sum uint64
						for i := range n {
							v, ok := p.Get(hs[i%slotBenchSize])
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
	for _, pr := range slotPeers {
		b.Run(pr.name, func(b *testing.B) {
			p := pr.make()
			hs := fillSlots(p)
			defer drainSlots(p, hs)
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				v := &slotBenchObject{}
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
			slotBenchThreads(b, 1, func(n int) uint64 {
				var sum uint64
				for i := range n {
					v, ok := p.Get(hs[i%slotBenchSize])
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
	for _, pr := range slotPeers {
		b.Run(pr.name, func(b *testing.B) {
			p := pr.make()
			hs := fillSlots(p)
			defer drainSlots(p, hs)
			v := &slotBenchObject{}
			b.ReportAllocs()
			for b.Loop() {
				p.Remove(p.Insert(v))
			}
		})
	}
}

// BenchmarkSlotDirect is the table alone, without the interface that the peers need.
func BenchmarkSlotDirect(b *testing.B) {
	t := modcache.NewSlotTable[*slotBenchObject](nil)
	hs := make([]modcache.Handle, slotBenchSize)
	for i := range hs {
		hs[i], _ = t.Insert(&slotBenchObject{uint64(i)})
	}
	random := make([]modcache.Handle, slotBenchSize)
	for i, j := range rand.Perm(slotBenchSize) {
		random[i] = hs[j]
	}
	get := func(hs []modcache.Handle) func(b *testing.B) {
		return func(b *testing.B) {
			var sum uint64
			for i := 0; b.Loop(); i++ {
				v, ok := t.Get(hs[i%slotBenchSize])
				if ok {
					sum += v.n
				}
			}
			slotBenchSink = sum
		}
	}
	b.Run("Get/sequential", get(hs))
	b.Run("Get/random", get(random))
	b.Run("BorrowRelease", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			h := hs[i%slotBenchSize]
			if _, ok := t.Borrow(h); ok {
				_ = t.Release(h)
			}
		}
	})
	b.Run("InsertRemove", func(b *testing.B) {
		v := &slotBenchObject{}
		b.ReportAllocs()
		for b.Loop() {
			h, _ := t.Insert(v)
			_ = t.Remove(h)
		}
	})
	b.Run("SlotAs", func(b *testing.B) {
		t := modcache.NewSlotTable[any](nil)
		for i := range hs {
			hs[i], _ = t.Insert(&slotBenchObject{uint64(i)})
		}
		var sum uint64
		for i := 0; b.Loop(); i++ {
			v, ok := modcache.SlotAs[*slotBenchObject](t, hs[i%slotBenchSize])
			if ok {
				sum += v.n
			}
		}
		slotBenchSink = sum
	})
}

// BenchmarkSlotClose reports the cost of Close, and the memory, per live slot.
func BenchmarkSlotClose(b *testing.B) {
	const n = 100_000
	v := &slotBenchObject{}
	var bytes uint64
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		before := slotHeapBytes()
		t := modcache.NewSlotTable[*slotBenchObject](nil)
		for range n {
			if _, err := t.Insert(v); err != nil {
				b.Fatal(err)
			}
		}
		bytes += slotHeapBytes() - before
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
			tables := make([]*modcache.SlotTable[*slotBenchObject], 1000)
			v := &slotBenchObject{}
			var bytes uint64
			for range b.N {
				clear(tables)
				before := slotHeapBytes()
				for i := range tables {
					tables[i] = modcache.NewSlotTable[*slotBenchObject](nil)
					for range slots {
						_, _ = tables[i].Insert(v)
					}
				}
				bytes += slotHeapBytes() - before
			}
			b.ReportMetric(float64(bytes)/float64(b.N)/float64(len(tables)), "B/table")
			runtime.KeepAlive(tables)
		})
	}
}

var slotBenchSink uint64

func slotHeapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// benchThreads has each of the goroutines run b.N operations: ns/op is what one of them waits for one.
func slotBenchThreads(b *testing.B, threads int, run func(n int) uint64) {
	var wg sync.WaitGroup
	sums := make([]uint64, threads*16)
	b.ResetTimer()
	for i := range threads {
		wg.Go(func() { sums[i*16] = run(b.N) })
	}
	wg.Wait()
	slotBenchSink = sums[0]
}
