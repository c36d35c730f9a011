package modcache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

var stubbed, stubbedWant = wasmtest.Sum(300, 7), uint64(300*301/2 + 7)

// runStub compiles and calls a module in a runtime of wazero's own.
func runStub(t *testing.T, ctx context.Context, cc wazero.CompilationCache, config wazero.RuntimeConfig, wasm []byte) (uint64, error) {
	t.Helper()
	r := wazero.NewRuntimeWithConfig(bg, config.WithCompilationCache(cc))
	defer r.Close(bg)
	cm, err := r.CompileModule(ctx, wasm)
	if err != nil {
		return 0, err
	}
	defer cm.Close(bg)
	mod, err := r.InstantiateModule(bg, cm, cachetest.Anonymous())
	if err != nil {
		return 0, err
	}
	results, err := mod.ExportedFunction("f").Call(bg)
	if err != nil {
		return 0, err
	}
	return results[0], nil
}

// TestCacheStub runs in runtimes that know nothing of modcache but a CompilationCache: code that was
// stored by a Cache before, and code that the stub's making compiled.
func TestCacheStub(t *testing.T) {
	needsCompiler(t)
	config := wazero.NewRuntimeConfig().WithCloseOnContextDone(true).WithDebugInfoEnabled(false)
	for name, c := range map[string]*modcache.Cache{
		"stored": warmCache(t, config, nil, stubbed), "new": cachetest.New(t, &storetest.Fake{}, nil), "in memory": cachetest.New(t, modcache.NewMemory(nil), nil),
	} {
		t.Run(name, func(t *testing.T) {
			stub, err := c.Stub(bg, config, modcache.NewModule(stubbed))
			require.NoError(t, err)
			require.NotEqual(t, stubbed, stub)
			require.Less(t, len(stub), len(stubbed))
			again, err := c.Stub(bg, config, modcache.NewModule(stubbed))
			require.NoError(t, err)
			require.Equal(t, stub, again)
			before := c.Metrics()
			for range 2 {
				got, err := runStub(t, bg, c.CompilationCache(), config, stub)
				require.NoError(t, err)
				require.Equal(t, stubbedWant, got)
			}
			m := c.Metrics()
			require.Equal(t, before.Compiles, m.Compiles)
			require.EqualValues(t, 2, m.Hits-before.Hits)
			require.EqualValues(t, 2, m.Stubbed-before.Stubbed)
			// The module itself still is what it is, in the same wazero cache too.
			cc := c.CompilationCache()
			for _, wasm := range [][]byte{stub, stubbed, stub} {
				got, err := runStub(t, bg, cc, config, wasm)
				require.NoError(t, err)
				require.Equal(t, stubbedWant, got)
			}
		})
	}
}

// TestCacheStubLooksOnce asks a store for what isn't there: for a start, for the compile, and whether it was kept.
func TestCacheStubLooksOnce(t *testing.T) {
	needsCompiler(t)
	s := &storetest.Fake{}
	stub, err := cachetest.New(t, s, nil).Stub(bg, nil, modcache.NewModule(stubbed))
	require.NoError(t, err)
	require.NotEqual(t, stubbed, stub)
	require.Equal(t, storetest.Calls{Get: 3, Add: 1}, s.Calls())
}

// TestCacheStubOfAnotherSpelling shares the code of a module that differs in names.
func TestCacheStubOfAnotherSpelling(t *testing.T) {
	c := warmCache(t, nil, nil, stubbed)
	other := append(append([]byte(nil), stubbed...), wasmtest.CustomSection("note", []byte("x"))...)
	stub, err := c.Stub(bg, nil, modcache.NewModule(other))
	require.NoError(t, err)
	require.Zero(t, c.Metrics().Compiles)
	got, err := runStub(t, bg, c.CompilationCache(), wazero.NewRuntimeConfig(), stub)
	require.NoError(t, err)
	require.Equal(t, stubbedWant, got)
}

// TestCacheStubMisused fails the compile wherever that can be noticed, and the module itself goes on.
func TestCacheStubMisused(t *testing.T) {
	listening := func(some experimental.FunctionListener) context.Context {
		return experimental.WithFunctionListenerFactory(bg, experimental.FunctionListenerFactoryFunc(
			func(api.FunctionDefinition) experimental.FunctionListener { return some }))
	}
	some := experimental.FunctionListenerFunc(func(context.Context, api.Module, api.FunctionDefinition, []uint64, experimental.StackIterator) {})
	config := wazero.NewRuntimeConfig()
	for name, test := range map[string]struct {
		ctx    context.Context
		config wazero.RuntimeConfig
		spoil  func(c *modcache.Cache, key modcache.Key)
		want   error
		says   string
	}{
		"another configuration":     {bg, config.WithCloseOnContextDone(true), nil, nil, "another configuration"},
		"listeners":                 {listening(some), config, nil, nil, "without listeners"},
		"a factory of no listeners": {listening(nil), config, nil, nil, "without listeners"},
		"code that is gone": {bg, config, func(c *modcache.Cache, key modcache.Key) {
			require.NoError(t, c.Store().Delete(bg, key))
		}, modcache.ErrMiss, "make the stub again"},
		"damaged code": {bg, config, func(c *modcache.Cache, key modcache.Key) {
			a, _, err := c.Store().Get(bg, key)
			require.NoError(t, err)
			b, err := a.Bytes()
			require.NoError(t, err)
			require.NoError(t, c.Store().Delete(bg, key))
			damaged := append([]byte(nil), b...)
			damaged[len(damaged)/2] ^= 1
			require.NoError(t, c.Store().Add(bg, key, modcache.NewArtifact(damaged, a.Info())))
		}, modcache.ErrMiss, "make the stub again"},
		"a closed Cache": {bg, config, func(c *modcache.Cache, _ modcache.Key) { require.NoError(t, c.Close(bg)) }, modcache.ErrClosed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := warmCache(t, config, nil, stubbed)
			r := newRuntime(t, c, config)
			m := modcache.NewModule(stubbed)
			stub, err := c.Stub(bg, config, m)
			require.NoError(t, err)
			if test.spoil != nil {
				test.spoil(c, r.Key(m))
			}
			cc := c.CompilationCache()
			for range 2 {
				_, err = runStub(t, test.ctx, cc, test.config, stub)
				require.ErrorContains(t, err, test.says)
				if test.want != nil {
					require.ErrorIs(t, err, test.want)
				}
				var e *modcache.Error
				require.True(t, errors.As(err, &e))
				require.Equal(t, r.Key(m), e.Key)
			}
			got, err := runStub(t, bg, cc, test.config, stubbed)
			require.NoError(t, err)
			require.Equal(t, stubbedWant, got)
		})
	}
}

// TestCacheStubGivenToARuntime is refused: it would be compiled as it is.
func TestCacheStubGivenToARuntime(t *testing.T) {
	c := warmCache(t, nil, nil, stubbed)
	stub, err := c.Stub(bg, nil, modcache.NewModule(stubbed))
	require.NoError(t, err)
	r := newRuntime(t, c, nil)
	for name, ctx := range map[string]context.Context{"plain": bg, "listening": experimental.WithFunctionListenerFactory(bg,
		experimental.FunctionListenerFactoryFunc(func(api.FunctionDefinition) experimental.FunctionListener { return nil }))} {
		_, err = r.CompileModule(ctx, stub)
		require.ErrorContains(t, err, "needs the module itself", name)
	}
}

// TestCacheStubThatCantWork is the module itself.
func TestCacheStubThatCantWork(t *testing.T) {
	needsCompiler(t)
	empty := []byte("\x00asm\x01\x00\x00\x00")
	var pair wasmtest.Module // which the first version of WebAssembly doesn't have
	pair.Func(pair.Type(nil, []byte{wasmtest.I32, wasmtest.I32}), "f", 0x41, 1, 0x41, 2)
	for name, test := range map[string]struct {
		o      *modcache.Options
		config wazero.RuntimeConfig
		wasm   []byte
	}{
		"no functions":          {nil, nil, empty},
		"not a module":          {nil, nil, []byte("no")},
		"does not compile":      {nil, wazero.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV1), pair.Bytes()},
		"interpreter":           {nil, wazero.NewRuntimeConfigInterpreter(), stubbed},
		"full decode":           {&modcache.Options{FullDecode: true}, nil, stubbed},
		"nothing can be stored": {&modcache.Options{ReadOnly: true}, nil, stubbed},
	} {
		c := cachetest.New(t, &storetest.Fake{}, test.o)
		got, err := c.Stub(bg, test.config, modcache.NewModule(test.wasm))
		require.NoError(t, err, name)
		require.Equal(t, test.wasm, got, name)
	}
	c := cachetest.New(t, &storetest.Fake{}, &modcache.Options{RequireHit: true})
	_, err := c.Stub(bg, nil, modcache.NewModule(stubbed))
	require.ErrorIs(t, err, modcache.ErrMiss)
	require.NoError(t, c.Close(bg))
	_, err = c.Stub(bg, nil, modcache.NewModule(stubbed))
	require.ErrorIs(t, err, modcache.ErrClosed)
	ctx, cancel := context.WithCancel(bg)
	cancel()
	_, err = cachetest.New(t, &storetest.Fake{}, nil).Stub(ctx, nil, modcache.NewModule(stubbed))
	require.ErrorIs(t, err, context.Canceled)
}

// TestCacheStubsAtOnce are made and used by many goroutines, each with a wazero cache of its own.
func TestCacheStubsAtOnce(t *testing.T) {
	c := cachetest.New(t, &storetest.Fake{}, nil)
	needsCompiler(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			n := int32(i % 3)
			stub, err := c.Stub(bg, nil, modcache.NewModule(wasmtest.Const(n)))
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := runStub(t, bg, c.CompilationCache(), wazero.NewRuntimeConfig(), stub); err != nil || got != uint64(n) {
				t.Error(fmt.Errorf("%d: %v", got, err))
			}
		})
	}
	wg.Wait()
}
