package modcache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
)

type slotBenchObject struct{ n uint64 }

const slotBenchCount = 1024

// BenchmarkSlotTable is the table alone. The module bench compares it with others.
func BenchmarkSlotTable(b *testing.B) {
	t := modcache.NewSlotTable[*slotBenchObject](nil)
	hs := make([]modcache.Handle, slotBenchCount)
	for i := range hs {
		hs[i], _ = t.Insert(&slotBenchObject{uint64(i)})
	}
	random := make([]modcache.Handle, slotBenchCount)
	for i, j := range rand.Perm(slotBenchCount) {
		random[i] = hs[j]
	}
	get := func(hs []modcache.Handle) func(b *testing.B) {
		return func(b *testing.B) {
			var sum uint64
			for i := 0; b.Loop(); i++ {
				v, ok := t.Get(hs[i%slotBenchCount])
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
			h := hs[i%slotBenchCount]
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
			v, ok := modcache.SlotAs[*slotBenchObject](t, hs[i%slotBenchCount])
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
	var mu sync.RWMutex
	locked := map[uint64]*slotBenchObject{1: {1}}
	words := []api.ValueType{api.ValueTypeI64}
	env := r.NewHostModuleBuilder("env")
	for name, f := range map[string]api.GoModuleFunc{
		"empty": func(_ context.Context, _ api.Module, stack []uint64) { stack[0] = 1 },
		"table": func(_ context.Context, _ api.Module, stack []uint64) {
			o, _ := known.Get(known.Handle(stack[0]))
			stack[0] = o.n
		},
		"map+RWMutex": func(_ context.Context, _ api.Module, stack []uint64) {
			mu.RLock()
			o := locked[stack[0]]
			mu.RUnlock()
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
		{"map+RWMutex", newest, "map+RWMutex", 1},
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
