// Package slots measures modcache.SlotTable beside what a host could use instead.
//
//	go test -run xxx -bench . ./slots
package slots

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/modcache/modcache"
	"github.com/puzpuzpuz/xsync/v4"
)

type object struct{ n uint64 }

// peer is what a host could use in place of a SlotTable.
type peer interface {
	Insert(v *object) uint64
	Get(h uint64) (*object, bool)
	Remove(h uint64)
}

type tablePeer struct {
	t *modcache.SlotTable[*object]
}

func (p tablePeer) Insert(v *object) uint64 {
	h, err := p.t.Insert(v)
	if err != nil {
		panic(err)
	}
	return uint64(h)
}
func (p tablePeer) Get(h uint64) (*object, bool) { return p.t.Get(modcache.Handle(h)) }
func (p tablePeer) Remove(h uint64)              { _ = p.t.Remove(modcache.Handle(h)) }

type mapPeer struct {
	mu   sync.RWMutex
	last uint64
	m    map[uint64]*object
}

func (p *mapPeer) Insert(v *object) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	p.m[p.last] = v
	return p.last
}

func (p *mapPeer) Get(h uint64) (*object, bool) {
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
	mu   sync.Mutex
	next uint64
	m    sync.Map
}

func (p *syncMapPeer) Insert(v *object) uint64 {
	p.mu.Lock()
	p.next++
	h := p.next
	p.mu.Unlock()
	p.m.Store(h, v)
	return h
}

func (p *syncMapPeer) Get(h uint64) (*object, bool) {
	v, ok := p.m.Load(h)
	if !ok {
		return nil, false
	}
	return v.(*object), true
}
func (p *syncMapPeer) Remove(h uint64) { p.m.Delete(h) }

type xsyncPeer struct {
	mu   sync.Mutex
	next uint64
	m    *xsync.Map[uint64, *object]
}

func (p *xsyncPeer) Insert(v *object) uint64 {
	p.mu.Lock()
	p.next++
	h := p.next
	p.mu.Unlock()
	p.m.Store(h, v)
	return h
}
func (p *xsyncPeer) Get(h uint64) (*object, bool) { return p.m.Load(h) }
func (p *xsyncPeer) Remove(h uint64)              { p.m.Delete(h) }

type peerMaker struct {
	name string
	make func() peer
}

var peers = []peerMaker{
	{"SlotTable", func() peer { return tablePeer{modcache.NewSlotTable[*object](nil)} }},
	{"map+RWMutex", func() peer { return &mapPeer{m: map[uint64]*object{}} }},
	{"sync.Map", func() peer { return &syncMapPeer{} }},
	{"xsync.Map", func() peer { return &xsyncPeer{m: xsync.NewMap[uint64, *object]()} }},
}

const size = 1024

func fill(p peer) []uint64 {
	hs := make([]uint64, size)
	for i := range hs {
		hs[i] = p.Insert(&object{uint64(i)})
	}
	return hs
}

func drain(p peer, hs []uint64) {
	for _, h := range hs {
		p.Remove(h)
	}
}

// BenchmarkGet looks up 1024 live handles, in order or at random. Every peer is called
// through the same interface, which costs each the same 1-2 ns.
func BenchmarkGet(b *testing.B) {
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
					inThreads(b, threads, func(n int) uint64 {
						var sum uint64
						for i := range n {
							v, ok := p.Get(hs[i%size])
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

// BenchmarkGetChurn looks up while another goroutine removes and inserts without pause.
func BenchmarkGetChurn(b *testing.B) {
	for _, pr := range peers {
		b.Run(pr.name, func(b *testing.B) {
			p := pr.make()
			hs := fill(p)
			defer drain(p, hs)
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				v := &object{}
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
			inThreads(b, 1, func(n int) uint64 {
				var sum uint64
				for i := range n {
					v, ok := p.Get(hs[i%size])
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

// BenchmarkInsertRemove is one Insert and one Remove per operation.
func BenchmarkInsertRemove(b *testing.B) {
	for _, pr := range peers {
		b.Run(pr.name, func(b *testing.B) {
			p := pr.make()
			hs := fill(p)
			defer drain(p, hs)
			v := &object{}
			b.ReportAllocs()
			for b.Loop() {
				p.Remove(p.Insert(v))
			}
		})
	}
}

// inThreads has each of the goroutines run b.N operations: ns/op is what one of them waits for one.
func inThreads(b *testing.B, threads int, run func(n int) uint64) {
	var wg sync.WaitGroup
	sums := make([]uint64, threads*16)
	b.ResetTimer()
	for i := range threads {
		wg.Go(func() { sums[i*16] = run(b.N) })
	}
	wg.Wait()
	sink = sums[0]
}

var sink uint64
