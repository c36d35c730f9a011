package modcache_test

import (
	"context"
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/emscripten"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestRuntimeRunsWhatItLoads compiles cold, then warm in what stands for another
// process, then from memory, and calls the module each time.
func TestRuntimeRunsWhatItLoads(t *testing.T) {
	for name, o := range map[string]modcache.Options{
		"default":     {},
		"full decode": {FullDecode: true},
		"no retain":   {Retain: -1},
		"workers":     {Workers: 2},
		"unlimited":   {MaxCompiles: -1},
	} {
		t.Run(name, func(t *testing.T) {
			s, wasm := &storetest.Fake{}, wasmtest.Sum(50, 7)
			for i, warm := range []bool{false, true} {
				c := newCache(t, s, &o)
				r := newRuntime(t, c, nil)
				for range 3 {
					compiled := compile(t, r, wasm)
					require.EqualValues(t, 50*51/2+7, call(t, r, compiled))
					require.NoError(t, compiled.Close(bg))
				}
				m := c.Metrics()
				require.EqualValues(t, 1-i, m.Compiles)
				if warm {
					require.NotZero(t, m.Hits)
				}
				if o.FullDecode {
					require.Zero(t, m.Stubbed)
				} else {
					require.NotZero(t, m.Stubbed)
				}
			}
			require.Equal(t, 1, s.Calls().Add)
		})
	}
}

// TestRuntimeFunc has a library's constructor make runtimes of one Cache. Where it can't, the
// interface itself is nil: libraries that compare it with nil must not see a nil *Runtime.
func TestRuntimeFunc(t *testing.T) {
	c := newCache(t, &storetest.Fake{}, nil)
	newRuntime := c.RuntimeFunc(nil, wasi_snapshot_preview1.Instantiate, func(ctx context.Context, r wazero.Runtime) (api.Closer, error) {
		return r.NewHostModuleBuilder("env").Instantiate(ctx)
	})
	for range 2 {
		r, err := newRuntime(bg)
		require.NoError(t, err)
		require.IsType(t, (*modcache.Runtime)(nil), r)
		require.NotNil(t, r.Module(wasi_snapshot_preview1.ModuleName))
		require.NotNil(t, r.Module("env"))
		require.NoError(t, r.Close(bg))
	}

	var made wazero.Runtime
	r, err := c.RuntimeFunc(nil, func(_ context.Context, r wazero.Runtime) (api.Closer, error) {
		made = r
		return nil, errInjected
	})(bg)
	require.Equal(t, errInjected, err)
	require.True(t, r == nil)
	_, err = made.Instantiate(bg, wasmtest.Const(1))
	require.Error(t, err, "it is closed, as nobody else can")

	require.NoError(t, c.Close(bg))
	r, err = newRuntime(bg)
	require.ErrorIs(t, err, modcache.ErrClosed)
	require.True(t, r == nil)
}

func TestRuntimeOverADisk(t *testing.T) {
	needsCompiler(t)
	dir, wasm := t.TempDir()+"/cache", wasmtest.Sum(10, 1)
	for i := range 2 {
		c, err := modcache.Open(dir, nil)
		require.NoError(t, err)
		r := newRuntime(t, c, nil)
		require.EqualValues(t, 56, call(t, r, compile(t, r, wasm)))
		require.EqualValues(t, i, c.Metrics().Hits)
		require.EqualValues(t, 1-i, c.Metrics().Compiles)
		require.NoError(t, c.Close(bg))
	}
}

// TestRuntimeWithoutCompiler is wazero's own.
func TestRuntimeWithoutCompiler(t *testing.T) {
	s := &storetest.Fake{}
	c := newCache(t, s, nil)
	r := newRuntime(t, c, wazero.NewRuntimeConfigInterpreter())
	require.Zero(t, r.Key(modcache.NewModule(wasmtest.Const(1))))
	compiled := compile(t, r, wasmtest.Const(1))
	require.EqualValues(t, 1, call(t, r, compiled))
	require.NoError(t, compiled.Close(bg))
	_, err := r.Compile(bg, modcache.NewModule(wasmtest.Const(1)))
	require.NoError(t, err)
	mod, err := r.InstantiateWithConfig(bg, wasmtest.Const(1), anonymous())
	require.NoError(t, err)
	require.EqualValues(t, 1, callF(t, mod))
	require.ErrorIs(t, c.Warm(bg, wazero.NewRuntimeConfigInterpreter(), modcache.NewModule(wasmtest.Const(1))), modcache.ErrUnsupportedWazero)
	require.Zero(t, s.Calls().Get+s.Calls().Add)
}

// TestRuntimeIgnoresTheConfigsCache: an engine is either wazero's with files of its
// own, or ours.
func TestRuntimeIgnoresTheConfigsCache(t *testing.T) {
	dir := t.TempDir()
	cc, err := wazero.NewCompilationCacheWithDir(dir)
	require.NoError(t, err)
	defer cc.Close(bg)
	c := newCache(t, &storetest.Fake{}, nil)
	newRuntime(t, c, nil)
	r := newRuntime(t, c, wazero.NewRuntimeConfig().WithCompilationCache(cc))
	require.EqualValues(t, 1, call(t, r, compile(t, r, wasmtest.Const(1))))
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, f := range files { // wazero makes a directory for its version
		inside, err := os.ReadDir(dir + "/" + f.Name())
		require.NoError(t, err)
		require.Empty(t, inside)
	}
}

// TestRuntimeWorkersOfTheCaller reach the compile, which runs detached from the caller's
// context.
func TestRuntimeWorkersOfTheCaller(t *testing.T) {
	seen := 0
	s := &storetest.Fake{OnGet: func(ctx context.Context, _ modcache.Key) (*modcache.Artifact, bool, error) {
		seen = experimental.GetCompilationWorkers(ctx)
		return nil, false, nil
	}}
	r := newRuntime(t, newCache(t, s, nil), nil)
	_, err := r.CompileModule(experimental.WithCompilationWorkers(bg, 3), wasmtest.Sum(10, 0))
	require.NoError(t, err)
	require.Equal(t, 3, seen)
}

// TestRuntimeHandlesTellWhatTheyImport to packages that build hosts to measure.
func TestRuntimeHandlesTellWhatTheyImport(t *testing.T) {
	r := newRuntime(t, newCache(t, &storetest.Fake{}, nil), nil)
	var m wasmtest.Module
	typ := m.Type([]byte{wasmtest.I32}, nil)
	m.Import("env", "invoke_v", typ)
	m.Func(m.Type(nil, []byte{wasmtest.I32}), "f", 0x41, 1)
	guest := compile(t, r, m.Bytes())
	_, err := emscripten.InstantiateForModule(bg, r, guest)
	require.NoError(t, err)
	require.EqualValues(t, 1, call(t, r, guest))
}

// TestRuntimeTakesHostModules runs guests that import what the usual packages
// define: they look at the concrete types of what a runtime returns.
func TestRuntimeTakesHostModules(t *testing.T) {
	c := newCache(t, &storetest.Fake{}, nil)
	for range 2 {
		r := newRuntime(t, c, nil)
		_, err := wasi_snapshot_preview1.Instantiate(bg, r)
		require.NoError(t, err)

		// As an embedder does who wants a handle on its host module.
		called := 0
		host, err := r.NewHostModuleBuilder("host").NewFunctionBuilder().
			WithFunc(func(context.Context) { called++ }).Export("hello").Compile(bg)
		require.NoError(t, err)
		_, err = r.InstantiateModule(bg, host, wazero.NewModuleConfig())
		require.NoError(t, err)
		require.NotNil(t, r.Module("host"))

		var m wasmtest.Module
		empty, i32 := m.Type(nil, nil), m.Type([]byte{wasmtest.I32}, nil)
		hello := m.Import("host", "hello", empty)
		exit := m.Import("wasi_snapshot_preview1", "proc_exit", i32)
		m.Func(empty, "_start", 0x10, byte(hello), 0x41, 3, 0x10, byte(exit))
		_, err = r.Instantiate(bg, m.Bytes())
		require.ErrorContains(t, err, "exit_code(3)")
		require.Equal(t, 1, called)
		require.NoError(t, r.Close(bg))
	}
}

// TestRuntimeRefusesForeignModules: a compiled module holds what its runtime
// numbered the function types with.
func TestRuntimeRefusesForeignModules(t *testing.T) {
	c := newCache(t, &storetest.Fake{}, nil)
	a, b := newRuntime(t, c, nil), newRuntime(t, c, nil)
	compiled := compile(t, a, wasmtest.Const(1))
	_, err := b.InstantiateModule(bg, compiled, anonymous())
	require.ErrorContains(t, err, "another Runtime")
	require.EqualValues(t, 1, call(t, a, compiled))
}

// TestRuntimeConfigsDoNotMeet compiles the same bytes under configurations that
// must not share machine code, or one of which must refuse them, in both orders.
func TestRuntimeConfigsDoNotMeet(t *testing.T) {
	needsCompiler(t)
	// (func (export "f") (param i64) (result i32) local.get 0 i32.wrap_i64 i32.extend8_s)
	var signExtend wasmtest.Module
	signExtend.Func(signExtend.Type([]byte{wasmtest.I64}, []byte{wasmtest.I32}), "f", 0x20, 0, 0xa7, 0xc0)
	var bigMemory wasmtest.Module
	bigMemory.Memory(100)
	bigMemory.Func(bigMemory.Type(nil, []byte{wasmtest.I32}), "f", 0x41, 1)

	base := wazero.NewRuntimeConfig()
	for name, test := range map[string]struct {
		wasm []byte
		a, b wazero.RuntimeConfig
	}{
		"features":          {signExtend.Bytes(), base, base.WithCoreFeatures(api.CoreFeaturesV1)},
		"memory limit":      {bigMemory.Bytes(), base, base.WithMemoryLimitPages(50)},
		"debug info":        {wasmtest.Const(1), base, base.WithDebugInfoEnabled(false)},
		"custom sections":   {wasmtest.Const(1), base, base.WithCustomSections(true)},
		"termination":       {wasmtest.Const(1), base, base.WithCloseOnContextDone(true)},
		"capacity from max": {bigMemory.Bytes(), base, base.WithMemoryCapacityFromMax(true)},
	} {
		t.Run(name, func(t *testing.T) {
			s := &storetest.Fake{}
			for range 2 { // the second Cache finds all that the first stored
				c := newCache(t, s, nil)
				for _, config := range []wazero.RuntimeConfig{test.a, test.b, test.a} {
					plain := wazero.NewRuntimeWithConfig(bg, config)
					want, wantErr := plain.CompileModule(bg, test.wasm)
					r := newRuntime(t, c, config)
					got, err := r.CompileModule(bg, test.wasm)
					require.Equal(t, wantErr, err)
					if err == nil {
						require.Equal(t, describe(want), describe(got))
					}
					require.NoError(t, plain.Close(bg))
				}
			}
			a, b := newRuntime(t, newCache(t, s, nil), test.a), newRuntime(t, newCache(t, s, nil), test.b)
			m := modcache.NewModule(test.wasm)
			require.NotEqual(t, a.Key(m), b.Key(m))
		})
	}
}

func TestRuntimeRequireHit(t *testing.T) {
	wasm := wasmtest.Sum(20, 0)
	c := warmCache(t, nil, &modcache.Options{RequireHit: true}, wasm)
	r := newRuntime(t, c, nil)
	require.EqualValues(t, 210, call(t, r, compile(t, r, wasm)))
	_, err := r.CompileModule(bg, wasmtest.Const(1))
	require.ErrorIs(t, err, modcache.ErrMiss)
	_, err = r.InstantiateWithConfig(bg, wasmtest.Const(1), anonymous())
	require.ErrorIs(t, err, modcache.ErrMiss)
	require.ErrorIs(t, c.Warm(bg, nil, modcache.NewModule(wasm), modcache.NewModule(wasmtest.Const(1))), modcache.ErrMiss)
	require.NoError(t, c.Warm(bg, nil, modcache.NewModule(wasm)))
	require.Zero(t, c.Metrics().Compiles)
}

func TestRuntimeReadOnly(t *testing.T) {
	s := &storetest.Fake{}
	c := newCache(t, s, &modcache.Options{ReadOnly: true})
	r := newRuntime(t, c, nil)
	require.EqualValues(t, 1, call(t, r, compile(t, r, wasmtest.Const(1))))
	require.NoError(t, c.Warm(bg, nil, modcache.NewModule(wasmtest.Const(2))))
	require.Zero(t, s.Calls().Add+s.Calls().Delete)
	require.EqualValues(t, 2, c.Metrics().Compiles)
}

// TestRuntimeMaxCompiles counts how many modules are compiled at the same time.
func TestRuntimeMaxCompiles(t *testing.T) {
	const limit = 2
	var now, most atomic.Int32
	c := newCache(t, &storetest.Fake{}, &modcache.Options{MaxCompiles: limit, OnEvent: func(e modcache.Event) {
		switch e.Kind {
		case modcache.EventCompileStarted:
			n := now.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			runtime.Gosched()
		case modcache.EventCompileFinished:
			now.Add(-1)
		}
	}})
	r := newRuntime(t, c, nil)
	var all []<-chan compiled
	for i := range int32(40) {
		all = append(all, begin(bg, r, wasmtest.Const(i)))
	}
	for _, done := range all {
		require.NoError(t, (<-done).err)
	}
	require.LessOrEqual(t, most.Load(), int32(limit))
	require.EqualValues(t, 40, c.Metrics().Compiles)
}

// TestRuntimeModifiedBytes changes a module behind its fingerprint. Nothing may be kept
// under the fingerprint of what it was.
func TestRuntimeModifiedBytes(t *testing.T) {
	s := &storetest.Fake{}
	c := newCache(t, s, nil)
	r := newRuntime(t, c, nil)
	wasm := wasmtest.Const(1)
	m := modcache.NewModule(wasm)
	copy(wasm, wasmtest.Const(2))
	_, err := r.Compile(bg, m)
	require.ErrorContains(t, err, "bytes were changed")
	require.Zero(t, s.Len())
	require.EqualValues(t, 1, call(t, r, compile(t, r, wasmtest.Const(1))))
}
