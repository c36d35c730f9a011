package modcache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/puzpuzpuz/xsync/v4"
	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

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

// BenchmarkSlotHostCall is a guest's call of a host function: an empty one, one that looks a handle
// up in a table or a map that it knows, and ones made by SlotHost.Func, which find the table by the
// calling module first.
func BenchmarkSlotHostCall(b *testing.B) {
	ctx := context.Background()
	r := wazero.NewRuntime(ctx)
	defer r.Close(ctx)
	host, err := modcache.NewSlotHost[*slotBenchObject](ctx, r)
	require.NoError(b, err)
	known := modcache.NewSlotTable[*slotBenchObject](nil)
	knownHandle, err := known.Insert(&slotBenchObject{1})
	require.NoError(b, err)
	locked := &slotMapPeer{m: map[uint64]*slotBenchObject{}}
	lockedHandle := locked.Insert(&slotBenchObject{1})
	words := []api.ValueType{api.ValueTypeI64}
	env := r.NewHostModuleBuilder("env")
	for name, f := range map[string]api.GoModuleFunc{
		"empty": func(_ context.Context, _ api.Module, stack []uint64) { stack[0] = 1 },
		"table": func(_ context.Context, _ api.Module, stack []uint64) {
			o, _ := known.Get(known.Handle(stack[0]))
			stack[0] = o.n
		},
		"map+RWMutex": func(_ context.Context, _ api.Module, stack []uint64) {
			o, _ := locked.Get(stack[0])
			stack[0] = o.n
		},
	} {
		env.NewFunctionBuilder().WithGoModuleFunction(f, words, words).Export(name)
	}
	env.NewFunctionBuilder().WithGoModuleFunction(host.Func(
		func(_ context.Context, _ api.Module, t *modcache.SlotTable[*slotBenchObject], stack []uint64) {
			o, _ := t.Get(t.Handle(stack[0]))
			stack[0] = o.n
		}), words, words).Export("Func")
	_, err = env.Instantiate(ctx)
	require.NoError(b, err)

	// spin(h, n) calls its import n times.
	imports := []string{"empty", "table", "map+RWMutex", "Func"}
	var im []wasmImport
	var funcs []wasmFunc
	for i, name := range imports {
		im = append(im, wasmImport{"env", name, slotWord, slotWord})
		funcs = append(funcs, wasmFunc{name: name, params: []byte{wasmTypeI64, wasmTypeI64}, body: slices.Concat(
			[]byte{0x03, 0x40}, // loop
			wasmGet(0), wasmCall(i), wasmDrop,
			wasmGet(1), wasmI64(1), []byte{0x7d, 0x22, 1}, // n--
			[]byte{0x50, 0x45, 0x0d, 0x00, 0x0b})}) // while n != 0
	}
	compiled, err := r.CompileModule(ctx, wasmModule(im, funcs, wasmNoStart))
	require.NoError(b, err)
	instantiate := func() (api.Module, modcache.Handle) {
		t := modcache.NewSlotTable[*slotBenchObject](nil)
		mod, err := host.Instantiate(ctx, compiled, wazero.NewModuleConfig().WithName(""), t)
		require.NoError(b, err)
		h, err := t.Insert(&slotBenchObject{1})
		require.NoError(b, err)
		return mod, h
	}
	older, olderHandle := instantiate()
	for range 100 {
		instantiate()
	}
	newest, newestHandle := instantiate()
	for _, c := range []struct {
		name string
		mod  api.Module
		f    string
		h    uint64
	}{
		{"empty", newest, "empty", 0},
		{"table", newest, "table", uint64(knownHandle)},
		{"map+RWMutex", newest, "map+RWMutex", lockedHandle},
		{"Func/newest instance", newest, "Func", uint64(newestHandle)},
		{"Func/one of 100 instances", older, "Func", uint64(olderHandle)},
	} {
		b.Run(c.name, func(b *testing.B) {
			f := c.mod.ExportedFunction(c.f)
			b.ReportAllocs()
			b.ResetTimer()
			_, err := f.Call(ctx, c.h, uint64(b.N))
			require.NoError(b, err)
		})
	}
}

// BenchmarkSlotInstantiate is what the table adds to the making of an instance.
func BenchmarkSlotInstantiate(b *testing.B) {
	ctx := context.Background()
	r := wazero.NewRuntime(ctx)
	defer r.Close(ctx)
	host, err := modcache.NewSlotHost[*slotBenchObject](ctx, r)
	require.NoError(b, err)
	compiled, err := r.CompileModule(ctx, wasmModule(nil, []wasmFunc{{name: "f"}}, wasmNoStart))
	require.NoError(b, err)
	config := wazero.NewModuleConfig().WithName("")
	b.Run("wazero", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			mod, err := r.InstantiateModule(ctx, compiled, config)
			require.NoError(b, err)
			_ = mod.Close(ctx)
		}
	})
	b.Run("SlotHost", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			mod, err := host.Instantiate(ctx, compiled, config, modcache.NewSlotTable[*slotBenchObject](nil))
			require.NoError(b, err)
			_ = mod.Close(ctx)
		}
	})
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
