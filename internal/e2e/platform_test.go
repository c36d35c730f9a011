package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestWithoutCompiler runs where wazero only interprets: nothing can be cached,
// which is said once, and everything works.
func TestWithoutCompiler(t *testing.T) {
	var degraded []error
	o := &modcache.Options{OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventDegraded {
			degraded = append(degraded, e.Err)
		}
	}}
	c, err := modcache.Open(t.TempDir()+"/cache", o)
	require.NoError(t, err)
	defer c.Close(bg)
	if len(degraded) == 0 {
		t.Skip("wazero has a compiler for this platform")
	}
	require.ErrorIs(t, c.Attach(wazero.NewCompilationCache()), modcache.ErrUnsupportedWazero)
	plain := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCompilationCache(c.CompilationCache()))
	r, err := c.NewRuntime(bg, nil)
	require.NoError(t, err)
	wasm := wasmtest.Sum(30, 2)
	for range 2 {
		require.EqualValues(t, 30*31/2+2, call(t, plain, compile(t, plain, wasm)))
		require.EqualValues(t, 30*31/2+2, call(t, r, compile(t, r, wasm)))
	}
	require.Zero(t, r.Key(modcache.NewModule(wasm)))
	require.ErrorIs(t, c.Warm(bg, nil, modcache.NewModule(wasm)), modcache.ErrUnsupportedWazero)
	require.NoError(t, c.Flush(bg))
	require.NoError(t, r.Close(bg))
	require.NoError(t, plain.Close(bg))
	require.NoError(t, c.Close(bg))
	require.Len(t, degraded, 1)
	require.ErrorContains(t, degraded[0], "no compiler for this platform")
	require.Zero(t, c.Metrics().Lookups)

	_, err = modcache.Open(t.TempDir()+"/cache", &modcache.Options{RequireHit: true})
	require.ErrorIs(t, err, modcache.ErrUnsupportedWazero)
}
