package modcache_test

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/emscripten"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

func TestWarmStoresEachModuleOnce(t *testing.T) {
	s := &mapStore{}
	var mu sync.Mutex
	events := make(map[modcache.EventKind]int)
	c := newCache(t, s, &modcache.Options{MaxCompiles: -1, OnEvent: func(e modcache.Event) {
		mu.Lock()
		defer mu.Unlock()
		events[e.Kind]++
	}})
	r := newRuntime(t, c, nil)
	one, two := modcache.NewModule(wasmtest.Const(1)), modcache.NewModule(wasmtest.Const(2))
	require.NoError(t, c.Warm(bg, nil))
	require.NoError(t, c.Warm(bg, nil, one, two, one, one))
	require.Equal(t, 2, s.adds)
	require.Equal(t, 2, events[modcache.EventCompileStarted])
	require.Equal(t, 2, events[modcache.EventCompileFinished])
	require.Equal(t, 2, events[modcache.EventStored])

	// It is in memory, but the store has lost it.
	require.NoError(t, s.Delete(bg, r.Key(one)))
	require.NoError(t, c.Warm(bg, nil, one, two))
	require.Equal(t, 3, s.adds)
	require.Equal(t, 2, s.len())

	next := newCache(t, s, nil)
	require.NoError(t, next.Warm(bg, nil, one, two))
	require.Zero(t, next.Metrics().Compiles)
}

// TestWarmReportsAllErrors and stores what it can.
func TestWarmReportsAllErrors(t *testing.T) {
	s := &mapStore{}
	c := newCache(t, s, nil)
	newRuntime(t, c, nil)
	good, bad, worse := modcache.NewModule(wasmtest.Const(1)), modcache.NewModule([]byte("\x00asm")), modcache.NewModule(nil)
	err := c.Warm(bg, nil, bad, good, worse)
	require.ErrorContains(t, err, bad.Fingerprint().String())
	require.ErrorContains(t, err, worse.Fingerprint().String())
	require.NotContains(t, err.Error(), good.Fingerprint().String())
	require.Equal(t, 1, s.len())

	require.NoError(t, c.Close(bg))
	require.ErrorIs(t, c.Warm(bg, nil, good), modcache.ErrClosed)

	g := newGate()
	c = newCache(t, s, g.at(modcache.EventCompileStarted))
	ended, cancel := context.WithCancel(bg)
	cancel()
	require.ErrorIs(t, c.Warm(ended, nil, modcache.NewModule(wasmtest.Const(2))), context.Canceled)
	close(g.open)
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

// TestWorkersOfTheCaller reach the compile, which runs detached from the caller's
// context.
func TestWorkersOfTheCaller(t *testing.T) {
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

// TestHandlesTellWhatTheyImport to packages that build hosts to measure.
func TestHandlesTellWhatTheyImport(t *testing.T) {
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
