package modcache_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// forgettable are the things that a program can make with a runtime, and never close. Each is made
// in a way that leads back to the runtime, where there is one.
var forgettable = []struct {
	name string
	make func(t *testing.T, r wazero.Runtime)
}{
	{"runtime", func(*testing.T, wazero.Runtime) {}},
	{"compiled module", func(t *testing.T, r wazero.Runtime) { compile(t, r, forgotten) }},
	{"released module", func(t *testing.T, r wazero.Runtime) { require.NoError(t, compile(t, r, forgotten).Close(bg)) }},
	{"module of its own", func(t *testing.T, r wazero.Runtime) { compile(t, r, wasmtest.Sum(50, forgottenAlone.Add(1))) }},
	{"instance", func(t *testing.T, r wazero.Runtime) {
		mod, err := r.InstantiateWithConfig(bg, forgotten, anonymous())
		require.NoError(t, err)
		callF(t, mod)
	}},
	{"closed instance", func(t *testing.T, r wazero.Runtime) {
		mod, err := r.InstantiateWithConfig(bg, forgotten, anonymous())
		require.NoError(t, err)
		require.NoError(t, mod.Close(bg))
	}},
	{"listener", func(t *testing.T, r wazero.Runtime) {
		var j journal
		compiled, err := r.CompileModule(withListeners(bg, &j), forgotten)
		require.NoError(t, err)
		_, err = r.InstantiateModule(bg, compiled, anonymous())
		require.NoError(t, err)
	}},
	{"host module", func(t *testing.T, r wazero.Runtime) {
		_, err := hostFor(r).Instantiate(bg)
		require.NoError(t, err)
	}},
	{"compiled host module", func(t *testing.T, r wazero.Runtime) {
		_, err := hostFor(r).Compile(bg)
		require.NoError(t, err)
	}},
	{"compiled host module, and closed", func(t *testing.T, r wazero.Runtime) {
		_, err := hostFor(r).Compile(bg)
		require.NoError(t, err)
		require.NoError(t, r.Close(bg))
	}},
	{"compiled and instantiated host module", func(t *testing.T, r wazero.Runtime) {
		compiled, err := hostFor(r).Compile(bg)
		require.NoError(t, err)
		_, err = r.InstantiateModule(bg, compiled, wazero.NewModuleConfig())
		require.NoError(t, err)
	}},
	{"WASI and a guest", func(t *testing.T, r wazero.Runtime) {
		wasi_snapshot_preview1.MustInstantiate(bg, r)
		_, err := hostFor(r).Instantiate(bg)
		require.NoError(t, err)
		var m wasmtest.Module
		m.Import("host", "f", m.Type(nil, nil))
		m.Memory(1)
		m.Func(m.Type(nil, nil), "_start", 0x10, 0)
		_, err = r.InstantiateWithConfig(bg, m.Bytes(), anonymous())
		require.NoError(t, err)
	}},
	{"template", func(t *testing.T, r wazero.Runtime) { forgetTemplate(t, r, false) }},
	{"instances of a template", func(t *testing.T, r wazero.Runtime) { forgetTemplate(t, r, true) }},
	{"slot host", func(t *testing.T, r wazero.Runtime) {
		h, err := modcache.NewSlotHost[wazero.Runtime](bg, r)
		require.NoError(t, err)
		m, err := h.Instantiate(bg, compile(t, r, forgotten), anonymous(), nil)
		require.NoError(t, err)
		_, err = m.Table().Insert(r)
		require.NoError(t, err)
	}},
}

var (
	forgotten      = wasmtest.Sum(200, 0)
	forgottenAlone atomic.Int32
)

// forgetTemplate makes a template with an Init that leads to the runtime, and instances of it; of plain
// wazero instances of the module.
func forgetTemplate(t *testing.T, r wazero.Runtime, instances bool) {
	make := func() (api.Module, error) { return r.InstantiateWithConfig(bg, statefulModule(), anonymous()) }
	if r, ok := r.(*modcache.Runtime); ok {
		tmpl, err := r.NewTemplate(bg, modcache.NewModule(statefulModule()), &modcache.TemplateOptions{Init: func(ctx context.Context, mod api.Module) error {
			_ = r.Module("host")
			_, err := mod.ExportedFunction("set").Call(ctx, 7)
			return err
		}})
		require.NoError(t, err)
		make = func() (api.Module, error) { return tmpl.Instantiate(bg, nil) }
	}
	for range 3 {
		if mod, err := make(); !instances {
			require.NoError(t, err)
			require.NoError(t, mod.Close(bg))
		}
	}
}

// hostFor returns a host module whose function leads to the runtime.
func hostFor(r wazero.Runtime) wazero.HostModuleBuilder {
	return r.NewHostModuleBuilder("host").NewFunctionBuilder().
		WithFunc(func(context.Context, api.Module) { _ = r.Module("host") }).Export("f")
}

// TestRuntimeThatIsForgotten is collected, as wazero's own is, with all that it had.
func TestRuntimeThatIsForgotten(t *testing.T) {
	if _, err := executableBytes(); err != nil {
		t.Skip("mappings show in /proc only:", err)
	}
	cachetest.NeedsCompiler(t)
	n := 60
	if cachetest.RaceEnabled {
		n = 15
	}
	// cycle makes n runtimes, and returns what was there before.
	cycle := func(open func() wazero.Runtime, use func(*testing.T, wazero.Runtime)) (mappings, heap int64) {
		use(t, open())
		mappings, heap = settle(t)
		for range n {
			use(t, open())
		}
		return mappings, heap
	}
	for _, kind := range forgettable {
		t.Run(kind.name, func(t *testing.T) {
			before, heapBefore := cycle(func() wazero.Runtime { return wazero.NewRuntime(bg) }, kind.make)
			plain, plainHeap := settle(t)
			plain, plainHeap = plain-before, plainHeap-heapBefore
			store := &storetest.Fake{}
			c := newCache(t, store, &modcache.Options{OffHeapMemory: true})
			compile(t, newRuntime(t, c, nil), wasmtest.Const(1)) // one that stays
			var open atomic.Int32
			before, heapBefore = cycle(func() wazero.Runtime {
				r, err := c.NewRuntime(bg, nil)
				require.NoError(t, err)
				open.Add(1)
				runtime.AddCleanup(r, func(open *atomic.Int32) { open.Add(-1) }, &open)
				return r
			}, kind.make)
			cachetest.GivesBack(t, func() bool { return open.Load() == 0 }, "runtimes stay")
			var left, heap, retained int64
			requireSettles(t, func(mappings, now int64) bool {
				left, heap, retained = mappings-before, now-heapBefore, int64(c.Metrics().Retained) // which may be late, too
				return left <= plain*12/10+retained*32<<10 && heap <= max(plainHeap, 0)*12/10+int64(store.Len()+1)*16<<10+256<<10
			})
			t.Logf("%d runtimes leave mappings of %d KiB, %d KiB of heap, and %d modules retained; plain: %d and %d KiB",
				n, left>>10, heap>>10, retained, plain>>10, plainHeap>>10)
		})
	}
}

// TestRuntimeModuleThatIsForgotten counts as released once it is collected, though its runtime is open. What
// is small isn't retained then: a program that forgets such modules makes them up.
func TestRuntimeModuleThatIsForgotten(t *testing.T) {
	needsCompiler(t)
	const n = 40
	for _, kind := range []struct {
		name     string
		module   func(i int32) []byte
		small    int
		retained uint64
	}{
		{"small", wasmtest.Const, -1, 0},
		{"of one use", wasmtest.Const, 1, 0},
		{"others", func(i int32) []byte { return wasmtest.Sum(1000, i) }, -1, n},
	} {
		t.Run(kind.name, func(t *testing.T) {
			c := newCache(t, modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: 1}), &modcache.Options{SmallModules: kind.small})
			r := newRuntime(t, c, nil)
			kept := compile(t, r, kind.module(1))
			mod, err := r.InstantiateWithConfig(bg, kind.module(2), anonymous())
			require.NoError(t, err)
			result := callF(t, mod)
			_, heapBefore := settle(t)
			for i := range int32(n) {
				compile(t, r, kind.module(100+i))
			}
			requireSettles(t, func(_, heap int64) bool {
				return c.Metrics().Retained == kind.retained && (kind.retained > 0 || heap-heapBefore < n*wazeroHeapOfModule/2)
			})
			require.Equal(t, result, callF(t, mod), "an instance keeps its module")
			again, err := r.InstantiateModule(bg, kept, anonymous())
			require.NoError(t, err, "and so does a handle")
			callF(t, again)
			require.NoError(t, kept.Close(bg))
			require.NoError(t, kept.Close(bg))
			require.LessOrEqual(t, c.Metrics().Retained, kind.retained+1)
		})
	}
}

// wazeroHeapOfModule is less than wazero has on the heap for the smallest module.
const wazeroHeapOfModule = 1 << 10
