package modcache_test

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestRuntimeHandleReleasesItself closes handles in every improper way.
func TestRuntimeHandleReleasesItself(t *testing.T) {
	s := &storetest.Fake{}
	c := newCache(t, s, &modcache.Options{Retain: -1})
	r := newRuntime(t, c, nil)
	wasm := wasmtest.Sum(5, 0)
	mine, theirs := compile(t, r, wasm), compile(t, r, wasm)
	require.Equal(t, 1, s.Calls().Get)

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { _ = mine.Close(bg) })
	}
	wg.Wait()
	require.NoError(t, mine.Close(bg))
	_, err := r.InstantiateModule(bg, mine, anonymous())
	require.ErrorIs(t, err, modcache.ErrClosed)

	require.EqualValues(t, 15, call(t, r, theirs))
	before := s.Calls().Get
	require.NoError(t, compile(t, r, wasm).Close(bg))
	require.Equal(t, before, s.Calls().Get, "it was in use, and yet loaded again")
	require.NoError(t, theirs.Close(bg))
	require.NoError(t, compile(t, r, wasm).Close(bg))
	require.Greater(t, s.Calls().Get, before, "nothing was to be retained")
	require.Zero(t, c.Metrics().Retained)
	require.Zero(t, c.Metrics().RetainedMaxBytes)
}

// TestRuntimeRetainedCodeSurvivesIt makes a runtime per request, closing things in
// each order there is.
func TestRuntimeRetainedCodeSurvivesIt(t *testing.T) {
	wasm := wasmtest.Sum(5, 0)
	s := &storetest.Fake{}
	c := newCache(t, s, nil)
	for i := range 12 {
		r := newRuntime(t, c, nil)
		compiled := compile(t, r, wasm)
		mod, err := r.InstantiateModule(bg, compiled, anonymous())
		require.NoError(t, err)
		require.EqualValues(t, 15, callF(t, mod))
		steps := []func() error{
			func() error { return compiled.Close(bg) },
			func() error { return mod.Close(bg) },
			func() error { return r.Close(bg) },
		}
		for j := range steps { // all rotations, and their reverse
			k := (i + j) % len(steps)
			if i%2 == 1 {
				k = len(steps) - 1 - k
			}
			require.NoError(t, steps[k]())
		}
		require.EqualValues(t, 1, c.Metrics().Retained, "round %d", i)
	}
	require.EqualValues(t, 1, c.Metrics().Compiles)
	require.EqualValues(t, 1, c.Metrics().Lookups, "one lookup for all runtimes")
	require.NoError(t, c.Close(bg))
	require.Zero(t, c.Metrics().Retained)
	require.Zero(t, c.Metrics().RetainedBytes)
	require.EqualValues(t, 256<<20, c.Metrics().RetainedMaxBytes, "the default")
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(64 << 20))
	require.EqualValues(t, 16<<20, newCache(t, modcache.NewMemory(nil), nil).Metrics().RetainedMaxBytes)
}

// TestRuntimeRetainIsLRU gives room for two and a half of three modules.
func TestRuntimeRetainIsLRU(t *testing.T) {
	needsCompiler(t)
	modules := [][]byte{wasmtest.Sum(1000, 1000), wasmtest.Sum(1000, 2000), wasmtest.Sum(1000, 3000)}
	s := &storetest.Fake{}
	roomy := newCache(t, s, nil)
	for _, wasm := range modules {
		require.NoError(t, compile(t, newRuntime(t, roomy, nil), wasm).Close(bg))
	}
	c := newCache(t, s, &modcache.Options{Retain: int64(roomy.Metrics().RetainedBytes) / 3 * 5 / 2})
	r := newRuntime(t, c, nil)
	use := func(i int) (lookups uint64) {
		before := c.Metrics().Lookups
		require.NoError(t, compile(t, r, modules[i]).Close(bg))
		return c.Metrics().Lookups - before
	}
	for _, step := range []struct {
		module int
		loaded uint64
	}{{0, 1}, {1, 1}, {0, 0}, {2, 1}, {0, 0}, {1, 1}, {0, 0}, {2, 1}, {1, 1}, {2, 0}, {1, 0}, {0, 1}} {
		require.Equal(t, step.loaded, use(step.module), "module %d", step.module)
		require.LessOrEqual(t, c.Metrics().Retained, uint64(2))
	}
}

// TestRuntimeRetainBoundsSmallModules, which take up little but pages and mappings, of
// which a process may have some ten thousand only, and modules without any code.
func TestRuntimeRetainBoundsSmallModules(t *testing.T) {
	c := newCache(t, &storetest.Fake{}, &modcache.Options{Retain: 1 << 20})
	r := newRuntime(t, c, nil)
	for i := range int32(300) {
		require.NoError(t, compile(t, r, wasmtest.Const(i)).Close(bg))
		var m wasmtest.Module
		m.Memory(1)
		m.Data([]byte{byte(i), byte(i >> 8)})
		require.NoError(t, compile(t, r, m.Bytes()).Close(bg))
		got := c.Metrics()
		require.LessOrEqual(t, got.Retained, uint64(1<<20/(4<<10)))
		require.Positive(t, got.RetainedBytes)
		require.LessOrEqual(t, got.RetainedBytes, got.RetainedMaxBytes)
		require.EqualValues(t, 1<<20, got.RetainedMaxBytes)
	}
	require.Greater(t, c.Metrics().Retained, uint64(100))
}

// chain instantiates three modules, of which the last calls the second, which calls the
// first, which traps.
func chain(t *testing.T, r wazero.Runtime, instantiate func(wasm []byte, name string) api.Module) api.Module {
	t.Helper()
	var a, b, c wasmtest.Module
	a.Func(a.Type(nil, nil), "trap", 0x00)
	a.Custom("name", []byte("\x01\x09\x01\x00\x06bottom"))
	b.Func(b.Type(nil, nil), "mid", 0x10, byte(b.Import("a", "trap", 0)))
	b.Custom("name", []byte("\x01\x0a\x01\x01\x07between"))
	c.Func(c.Type(nil, nil), "f", 0x10, byte(c.Import("b", "mid", 0)))
	instantiate(a.Bytes(), "a")
	instantiate(b.Bytes(), "b")
	return instantiate(c.Bytes(), "c")
}

// TestRuntimeInstancesPinTheirModules: wazero finds the frames of a trace in the engine, so
// whatever is instantiated must be there, though no handle is left and
// nothing is retained.
func TestRuntimeInstancesPinTheirModules(t *testing.T) {
	plain := wazero.NewRuntime(bg)
	defer plain.Close(bg)
	_, want := chain(t, plain, func(wasm []byte, name string) api.Module {
		mod, err := plain.InstantiateWithConfig(bg, wasm, wazero.NewModuleConfig().WithName(name))
		require.NoError(t, err)
		return mod
	}).ExportedFunction("f").Call(bg)
	require.ErrorContains(t, want, "bottom")
	require.ErrorContains(t, want, "between")

	for name, listening := range map[string]bool{"cached": false, "listeners": true} {
		t.Run(name, func(t *testing.T) {
			ctx := bg
			if listening {
				ctx = withListeners(bg, &journal{})
			}
			s := &storetest.Fake{}
			c := newCache(t, s, &modcache.Options{Retain: -1})
			for i := range 2 {
				r := newRuntime(t, c, nil)
				var all []api.Module
				last := chain(t, r, func(wasm []byte, name string) api.Module {
					mod, err := r.InstantiateWithConfig(ctx, wasm, wazero.NewModuleConfig().WithName(name))
					require.NoError(t, err)
					all = append(all, mod)
					return mod
				})
				_, err := last.ExportedFunction("f").Call(bg)
				require.EqualError(t, err, want.Error())
				if i == 0 {
					for _, mod := range all {
						require.NoError(t, mod.Close(bg))
					}
				}
				require.NoError(t, r.Close(bg))
				require.Zero(t, c.Metrics().Retained)
			}
			if !listening {
				require.GreaterOrEqual(t, s.Calls().Get, 6, "what nobody used was loaded again")
			}
		})
	}
}

// TestRuntimeInstanceOutlivesEverything: wazero runs a function of a closed instance, and only
// then says that it is closed. The machine code must still be there.
func TestRuntimeInstanceOutlivesEverything(t *testing.T) {
	var m wasmtest.Module
	m.Func(m.Type(nil, []byte{wasmtest.I32}), "f", 0x41, 1)
	m.Func(m.Type(nil, nil), "trap", 0x00)
	calls := func(r wazero.Runtime, end func()) (errs []string) {
		mod, err := r.InstantiateWithConfig(bg, m.Bytes(), anonymous())
		require.NoError(t, err)
		f, trap := mod.ExportedFunction("f"), mod.ExportedFunction("trap")
		require.NoError(t, r.Close(bg))
		end()
		for range 3 {
			runtime.GC() // unmaps what nobody refers to
		}
		for _, fn := range []api.Function{f, trap, mod.ExportedFunction("f")} {
			_, err := fn.Call(bg)
			errs = append(errs, errorText(err))
		}
		return errs
	}
	want := calls(wazero.NewRuntime(bg), func() {})
	c := newCache(t, &storetest.Fake{}, &modcache.Options{Retain: -1})
	require.Equal(t, want, calls(newRuntime(t, c, nil), func() { require.NoError(t, c.Close(bg)) }))
}

// TestRuntimeInstancesThatEndAtOnce don't pin anything: they were closed before they
// could be told to release it.
func TestRuntimeInstancesThatEndAtOnce(t *testing.T) {
	c := newCache(t, &storetest.Fake{}, &modcache.Options{Retain: -1})
	r := newRuntime(t, c, nil)
	host := r.NewHostModuleBuilder("host")
	host.NewFunctionBuilder().WithFunc(func(ctx context.Context, m api.Module, code uint32) {
		_ = m.CloseWithExitCode(ctx, code)
	}).Export("exit")
	_, err := host.Instantiate(bg)
	require.NoError(t, err)

	for code := range byte(2) {
		var m wasmtest.Module
		exit := m.Import("host", "exit", m.Type([]byte{wasmtest.I32}, nil))
		m.Func(m.Type(nil, nil), "_start", 0x41, code, 0x10, byte(exit))
		before := c.Metrics().Lookups
		for i := range 3 {
			_, err := r.InstantiateWithConfig(bg, m.Bytes(), anonymous())
			if code != 0 {
				require.ErrorContains(t, err, "exit_code(1)")
			}
			require.EqualValues(t, before+uint64(i)+1, c.Metrics().Lookups, "it is still loaded")
		}
	}

	var m wasmtest.Module // that doesn't link
	m.Func(m.Type(nil, nil), "f", 0x10, byte(m.Import("nobody", "f", 0)))
	before := c.Metrics().Lookups
	for i := range 3 {
		_, err := r.InstantiateWithConfig(bg, m.Bytes(), anonymous())
		require.ErrorContains(t, err, "module[nobody] not instantiated")
		require.EqualValues(t, before+uint64(i)+1, c.Metrics().Lookups, "it is still loaded")
	}
}

// TestRuntimeClosesAmidInstantiation has instances come to life, close, and be
// closed with their runtime, all at once.
func TestRuntimeClosesAmidInstantiation(t *testing.T) {
	wasm := wasmtest.Sum(5, 0)
	c := warmCache(t, nil, &modcache.Options{Retain: -1}, wasm)
	for range 50 {
		r, err := c.NewRuntime(bg, nil)
		require.NoError(t, err)
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range 4 {
			wg.Go(func() {
				<-start
				for range 20 {
					mod, err := r.InstantiateWithConfig(bg, wasm, anonymous())
					if err != nil {
						return
					}
					if i%2 == 0 {
						_ = mod.Close(bg)
					}
				}
			})
		}
		wg.Go(func() {
			<-start
			_ = r.Close(bg)
		})
		close(start)
		wg.Wait()
		require.NoError(t, r.Close(bg))
		_, err = r.Instantiate(bg, wasm)
		require.Error(t, err)
	}
	// Had a pin or a handle been lost, the code would still be in memory.
	before := c.Metrics().Lookups
	r := newRuntime(t, c, nil)
	require.EqualValues(t, 15, call(t, r, compile(t, r, wasm)))
	require.Equal(t, before+1, c.Metrics().Lookups)
}

// TestRuntimesCloseAmidCompiles: some runtimes close while they compile, load, and wait for
// others that do. A runtime that stays open must always get its modules, and
// the others those or ErrClosed.
func TestRuntimesCloseAmidCompiles(t *testing.T) {
	c := newCache(t, &storetest.Fake{}, &modcache.Options{Retain: -1, MaxCompiles: -1})
	stays := newRuntime(t, c, nil)
	for round := range int32(100) {
		wasm := wasmtest.Sum(20, round)
		start := make(chan struct{})
		var wg sync.WaitGroup
		check := func(r *modcache.Runtime, mayFail bool) {
			<-start
			compiled, err := r.CompileModule(bg, wasm)
			if err == nil && r == stays {
				if got := call(t, r, compiled); got != 210+uint64(round) {
					t.Errorf("f returned %d", got)
				}
			}
			if err == nil {
				_ = compiled.Close(bg)
			} else if !mayFail || !errors.Is(err, modcache.ErrClosed) {
				t.Error(err)
			}
		}
		for range 3 {
			closes, err := c.NewRuntime(bg, nil)
			require.NoError(t, err)
			wg.Go(func() { check(closes, true) })
			wg.Go(func() { check(closes, true) })
			wg.Go(func() {
				<-start
				for range round % 50 {
					runtime.Gosched()
				}
				_ = closes.Close(bg)
			})
			wg.Go(func() { check(stays, false) })
		}
		close(start)
		wg.Wait()
		// A hold that was lost would keep the code in memory.
		before := c.Metrics().Lookups
		require.NoError(t, compile(t, stays, wasm).Close(bg))
		require.Equal(t, before+1, c.Metrics().Lookups)
	}
	require.Zero(t, c.Metrics().Retained)
	require.Zero(t, c.Metrics().StoreErrors)
}

// TestRuntimeClosesAmidDecoding: wazero panics if a runtime loses its types while a
// module is decoded. Nobody's goroutine may.
func TestRuntimeClosesAmidDecoding(t *testing.T) {
	wasm := modcache.NewModule(wasmtest.Sum(5000, 0)) // takes a while
	c := warmCache(t, nil, nil, wasm.Bytes())
	_, err := newRuntime(t, c, nil).Compile(bg, wasm)
	require.NoError(t, err)
	for round := range 200 {
		r, err := c.NewRuntime(bg, nil)
		require.NoError(t, err)
		done := make(chan error)
		go func() {
			_, err := r.Compile(bg, wasm)
			done <- err
		}()
		for range 10 * round {
			runtime.Gosched()
		}
		require.NoError(t, r.Close(bg))
		if err := <-done; err != nil {
			require.ErrorIs(t, err, modcache.ErrClosed)
		}
	}
}

// TestRuntimeInstanceEndsWithItsContext: such a one frees its module as any other does.
func TestRuntimeInstanceEndsWithItsContext(t *testing.T) {
	c := newCache(t, &storetest.Fake{}, &modcache.Options{Retain: -1})
	newRuntime(t, c, nil)
	r := newRuntime(t, c, wazero.NewRuntimeConfig().WithCloseOnContextDone(true))
	var m wasmtest.Module
	m.Func(m.Type(nil, nil), "f", 0x03, 0x40, 0x0c, 0, 0x0b) // loop forever
	for i := range uint64(3) {
		mod, err := r.InstantiateWithConfig(bg, m.Bytes(), anonymous())
		require.NoError(t, err)
		require.Equal(t, i+1, c.Metrics().Lookups, "it is still loaded")
		ctx, cancel := context.WithTimeout(bg, time.Millisecond)
		_, err = mod.ExportedFunction("f").Call(ctx)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
}
