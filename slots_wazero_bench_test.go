package modcache_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
)

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
