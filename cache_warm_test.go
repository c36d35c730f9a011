package modcache_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

func TestCacheWarmStoresEachModuleOnce(t *testing.T) {
	s := &storetest.Fake{}
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
	require.Equal(t, 2, s.Calls().Add)
	require.Equal(t, 2, events[modcache.EventCompileStarted])
	require.Equal(t, 2, events[modcache.EventCompileFinished])
	require.Equal(t, 2, events[modcache.EventStored])

	// It is in memory, but the store has lost it.
	require.NoError(t, s.Delete(bg, r.Key(one)))
	require.NoError(t, c.Warm(bg, nil, one, two))
	require.Equal(t, 3, s.Calls().Add)
	require.Equal(t, 2, s.Len())

	next := newCache(t, s, nil)
	require.NoError(t, next.Warm(bg, nil, one, two))
	require.Zero(t, next.Metrics().Compiles)
}

// TestCacheWarmReportsAllErrors and stores what it can.
func TestCacheWarmReportsAllErrors(t *testing.T) {
	s := &storetest.Fake{}
	c := newCache(t, s, nil)
	newRuntime(t, c, nil)
	good, bad, worse := modcache.NewModule(wasmtest.Const(1)), modcache.NewModule([]byte("\x00asm")), modcache.NewModule(nil)
	err := c.Warm(bg, nil, bad, good, worse)
	require.ErrorContains(t, err, bad.Fingerprint().String())
	require.ErrorContains(t, err, worse.Fingerprint().String())
	require.NotContains(t, err.Error(), good.Fingerprint().String())
	require.Equal(t, 1, s.Len())

	require.NoError(t, c.Close(bg))
	require.ErrorIs(t, c.Warm(bg, nil, good), modcache.ErrClosed)

	g := newGate()
	c = newCache(t, s, g.at(modcache.EventCompileStarted))
	ended, cancel := context.WithCancel(bg)
	cancel()
	require.ErrorIs(t, c.Warm(ended, nil, modcache.NewModule(wasmtest.Const(2))), context.Canceled)
	close(g.open)
}

// TestCacheWarmEach tells what was compiled, what was there, and what failed.
func TestCacheWarmEach(t *testing.T) {
	s := &storetest.Fake{}
	c := newCache(t, s, nil)
	r := newRuntime(t, c, nil)
	one, two, bad := modcache.NewModule(wasmtest.Const(1)), modcache.NewModule(wasmtest.Const(2)), modcache.NewModule(nil)
	require.NoError(t, c.Warm(bg, nil, one))
	warm := func(c *modcache.Cache, modules ...*modcache.Module) map[*modcache.Module]modcache.WarmResult {
		results := make(map[*modcache.Module]modcache.WarmResult)
		for w := range c.WarmEach(bg, nil, modules...) {
			require.NotContains(t, results, w.Module)
			results[w.Module] = w
		}
		require.Len(t, results, len(modules))
		return results
	}
	for range 2 {
		for m, w := range warm(c, one, two, bad) {
			require.Equal(t, r.Key(m), w.Key)
			if m == bad {
				require.ErrorContains(t, w.Err, "modcache: warm module "+bad.Fingerprint().String()+": ")
				require.Zero(t, w.Size)
				continue
			}
			require.NoError(t, w.Err)
			require.Equal(t, s.Entry(w.Key).Size(), w.Size)
			require.Equal(t, m == two, w.Compiled)
			require.Positive(t, w.Duration)
		}
		c = newCache(t, s, nil)
		require.NoError(t, s.Delete(bg, r.Key(two)))
	}

	for m, w := range warm(newCache(t, &storetest.Fake{}, &modcache.Options{ReadOnly: true}), one) {
		require.Equal(t, modcache.WarmResult{Module: m, Key: r.Key(m), Compiled: true, Duration: w.Duration}, w)
	}
	for _, w := range warm(newCache(t, &storetest.Fake{}, &modcache.Options{RequireHit: true}), one) {
		require.ErrorIs(t, w.Err, modcache.ErrMiss)
		require.False(t, w.Compiled)
	}
	failing := &storetest.Fake{OnAdd: func(context.Context, modcache.Key, *modcache.Artifact) error { return errors.New("full") }}
	for _, w := range warm(newCache(t, failing, nil), one) {
		require.ErrorContains(t, w.Err, "did not keep it")
		require.True(t, w.Compiled)
	}
	require.NoError(t, c.Close(bg))
	for _, w := range warm(c, one, two) {
		require.ErrorIs(t, w.Err, modcache.ErrClosed)
	}
	for w := range c.WarmEach(bg, wazero.NewRuntimeConfigInterpreter(), one, two) {
		require.Error(t, w.Err)
		break
	}
}

// TestCacheWarmEachEndsEarly cancels what is under way, and starts nothing more.
func TestCacheWarmEachEndsEarly(t *testing.T) {
	needsCompiler(t)
	var modules []*modcache.Module
	for i := range int32(200) {
		modules = append(modules, modcache.NewModule(wasmtest.Const(i)))
	}
	c := newCache(t, &storetest.Fake{}, &modcache.Options{MaxCompiles: 1})
	for w := range c.WarmEach(bg, nil, modules...) {
		require.NoError(t, w.Err)
		break
	}
	require.LessOrEqual(t, c.Metrics().Compiles, uint64(10))
	require.NoError(t, c.Close(bg))
}

// TestRuntimeStored asks for code that is there, isn't, is damaged, is another
// spelling's, and that nobody can tell of.
func TestRuntimeStored(t *testing.T) {
	needsCompiler(t)
	s, all := &storetest.Fake{}, spellings(t)
	s.OnMetrics = func() modcache.Metrics { return modcache.Metrics{} } // which count what only asks, too
	stored := func(c *modcache.Cache, wasm []byte) (bool, error) {
		return newRuntime(t, c, nil).Stored(bg, modcache.NewModule(wasm))
	}
	c := newCache(t, s, nil)
	for _, wasm := range [][]byte{all[0], nil, {1}} {
		found, err := stored(c, wasm)
		require.NoError(t, err)
		require.False(t, found)
	}
	require.NoError(t, c.Warm(bg, nil, modcache.NewModule(all[0])))
	before := c.Metrics()
	for _, wasm := range all {
		found, err := stored(c, wasm)
		require.NoError(t, err)
		require.True(t, found)
	}
	found, err := stored(c, wasmtest.Const(1))
	require.NoError(t, err)
	require.False(t, found)
	other, err := newRuntime(t, c, wazero.NewRuntimeConfig().WithCloseOnContextDone(true)).Stored(bg, modcache.NewModule(all[0]))
	require.NoError(t, err)
	require.False(t, other)
	require.Equal(t, before, c.Metrics(), "asking is neither a hit nor a miss")

	key := newRuntime(t, c, nil).Key(modcache.NewModule(all[0]))
	b, err := s.Entry(key).Bytes()
	require.NoError(t, err)
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	s.Set(key, modcache.NewArtifact(b, s.Entry(key).Info()))
	found, err = stored(c, all[0])
	require.NoError(t, err)
	require.False(t, found, "it is damaged")

	gone := errors.New("no route to host")
	s.OnGet = func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) { return nil, false, gone }
	_, err = stored(c, all[0])
	require.ErrorIs(t, err, gone)
	require.ErrorContains(t, err, "modcache: look up left (key "+key.String()[:12]+"…): no route")
	_, err = newRuntime(t, c, wazero.NewRuntimeConfigInterpreter()).Stored(bg, modcache.NewModule(all[0]))
	require.ErrorIs(t, err, modcache.ErrUnsupportedWazero)
	r := newRuntime(t, c, nil)
	require.NoError(t, c.Close(bg))
	_, err = r.Stored(bg, modcache.NewModule(all[0]))
	require.ErrorIs(t, err, modcache.ErrClosed)
}
