package modcache_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/emscripten"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// mapStore is the simplest store there can be. Its hooks run before the
// operation and may fail or block it.
type mapStore struct {
	mu     sync.Mutex
	m      map[modcache.Key]*modcache.Artifact
	onGet  func(context.Context, modcache.Key) error
	onAdd  func(context.Context, modcache.Key) error
	adds   int
	gets   int
	delete int
}

func (s *mapStore) Get(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	s.mu.Lock()
	s.gets++
	hook := s.onGet
	s.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, key); err != nil {
			return nil, false, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.m[key]
	return a, a != nil, nil
}

func (s *mapStore) Add(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
	s.mu.Lock()
	hook := s.onAdd
	s.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, key); err != nil {
			return err
		}
	}
	b, err := a.Bytes()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adds++
	if s.m == nil {
		s.m = make(map[modcache.Key]*modcache.Artifact)
	}
	s.m[key] = modcache.NewArtifact(slices.Clone(b), a.Info())
	return nil
}

func (s *mapStore) Delete(_ context.Context, key modcache.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delete++
	delete(s.m, key)
	return nil
}

func (s *mapStore) Flush(context.Context) error { return nil }

func (s *mapStore) Metrics() modcache.Metrics { return modcache.Metrics{} }

func (s *mapStore) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.m)
}

// newCache returns a Cache over a store that is closed with the test.
func newCache(t testing.TB, s modcache.Store, o *modcache.Options) *modcache.Cache {
	t.Helper()
	c, err := modcache.New(s, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(bg)) })
	return c
}

// newRuntime returns a runtime that is closed with the test. It skips the test
// where wazero has no compiler.
func newRuntime(t testing.TB, c *modcache.Cache, config wazero.RuntimeConfig) *modcache.Runtime {
	t.Helper()
	needsCompiler(t)
	r, err := c.NewRuntime(bg, config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close(bg)) })
	return r
}

// warmCache returns a new Cache over a store in which the modules are.
func warmCache(t testing.TB, config wazero.RuntimeConfig, o *modcache.Options, modules ...[]byte) *modcache.Cache {
	t.Helper()
	s := &mapStore{}
	cold := newCache(t, s, nil)
	r := newRuntime(t, cold, config)
	for _, wasm := range modules {
		compiled, err := r.CompileModule(bg, wasm)
		require.NoError(t, err)
		require.NoError(t, compiled.Close(bg))
	}
	require.NoError(t, cold.Close(bg))
	return newCache(t, s, o)
}

func compile(t testing.TB, r wazero.Runtime, wasm []byte) wazero.CompiledModule {
	t.Helper()
	compiled, err := r.CompileModule(bg, wasm)
	require.NoError(t, err)
	return compiled
}

// anonymous allows several instances in one runtime.
func anonymous() wazero.ModuleConfig { return wazero.NewModuleConfig().WithName("") }

// call instantiates the module and calls its export f.
func call(t testing.TB, r wazero.Runtime, compiled wazero.CompiledModule) uint64 {
	t.Helper()
	mod, err := r.InstantiateModule(bg, compiled, anonymous())
	require.NoError(t, err)
	defer mod.Close(bg)
	return callF(t, mod)
}

func callF(t testing.TB, mod api.Module) uint64 {
	t.Helper()
	results, err := mod.ExportedFunction("f").Call(bg)
	require.NoError(t, err)
	require.Len(t, results, 1)
	return results[0]
}

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
			s, wasm := &mapStore{}, wasmtest.Sum(50, 7)
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
			require.Equal(t, 1, s.adds)
		})
	}
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
	s := &mapStore{}
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
	require.Zero(t, s.gets+s.adds)
}

// TestRuntimeIgnoresTheConfigsCache: an engine is either wazero's with files of its
// own, or ours.
func TestRuntimeIgnoresTheConfigsCache(t *testing.T) {
	dir := t.TempDir()
	cc, err := wazero.NewCompilationCacheWithDir(dir)
	require.NoError(t, err)
	defer cc.Close(bg)
	c := newCache(t, &mapStore{}, nil)
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
	s := &mapStore{onGet: func(ctx context.Context, _ modcache.Key) error {
		seen = experimental.GetCompilationWorkers(ctx)
		return nil
	}}
	r := newRuntime(t, newCache(t, s, nil), nil)
	_, err := r.CompileModule(experimental.WithCompilationWorkers(bg, 3), wasmtest.Sum(10, 0))
	require.NoError(t, err)
	require.Equal(t, 3, seen)
}

// TestRuntimeHandlesTellWhatTheyImport to packages that build hosts to measure.
func TestRuntimeHandlesTellWhatTheyImport(t *testing.T) {
	r := newRuntime(t, newCache(t, &mapStore{}, nil), nil)
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
	c := newCache(t, &mapStore{}, nil)
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
	c := newCache(t, &mapStore{}, nil)
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
			s := &mapStore{}
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

// describe tells all that can be asked of a compiled module.
func describe(m wazero.CompiledModule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "name %q\n", m.Name())
	for i, f := range m.ImportedFunctions() {
		fmt.Fprintf(&b, "import %d %s\n", i, describeFunction(f))
	}
	for i, mem := range m.ImportedMemories() {
		fmt.Fprintf(&b, "import memory %d %s\n", i, describeMemory(mem))
	}
	for _, name := range sortedKeys(m.ExportedFunctions()) {
		fmt.Fprintf(&b, "export %q %s\n", name, describeFunction(m.ExportedFunctions()[name]))
	}
	for _, name := range sortedKeys(m.ExportedMemories()) {
		fmt.Fprintf(&b, "export memory %q %s\n", name, describeMemory(m.ExportedMemories()[name]))
	}
	for _, s := range m.CustomSections() {
		fmt.Fprintf(&b, "custom %q %x\n", s.Name(), s.Data())
	}
	return b.String()
}

func describeFunction(f api.FunctionDefinition) string {
	module, name, imported := f.Import()
	return fmt.Sprint(f.ModuleName(), " ", f.Index(), " ", f.Name(), " ", f.DebugName(), " ", f.ExportNames(),
		" ", f.ParamTypes(), " ", f.ParamNames(), " ", f.ResultTypes(), " ", f.ResultNames(), " ", module, " ", name, " ", imported)
}

func describeMemory(m api.MemoryDefinition) string {
	module, name, imported := m.Import()
	most, bounded := m.Max()
	return fmt.Sprint(m.ModuleName(), " ", m.Index(), " ", m.ExportNames(), " ", m.Min(), " ", most, " ", bounded, " ", module, " ", name, " ", imported)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
