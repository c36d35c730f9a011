package modcache_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestRuntimeInAProcessWithoutExecutableMemory forbids its process to make memory executable. From then on, wazero interprets what would run on a stub's traps, or panics.
func TestRuntimeInAProcessWithoutExecutableMemory(t *testing.T) {
	if !cachetest.Apart(t) {
		return
	}
	ctx := context.Background()
	c, err := modcache.New(modcache.NewMemory(nil), nil)
	require.NoError(t, err)
	run := func() (string, error) {
		r, err := c.NewRuntime(ctx, nil)
		require.NoError(t, err)
		mod, err := r.InstantiateWithConfig(ctx, wasmtest.Const(9), anonymous())
		if err != nil {
			return "", err
		}
		return invoke(mod, "f"), nil
	}
	for range 3 {
		got, err := run()
		require.NoError(t, err)
		require.Equal(t, "[9]", got)
	}
	cachetest.DenyExecutable(t)
	if err := contain.Call(func() error { wazero.NewRuntime(ctx); return nil }); err != nil { // before v1.12
		_, err = c.NewRuntime(ctx, nil)
		require.ErrorIs(t, err, modcache.ErrUnsupportedWazero)
		require.ErrorContains(t, err, "MemoryDenyWriteExecute")
		require.Error(t, (<-c.Prepare(ctx, nil, modcache.NewModule(wasmtest.Const(10)))).Err)
		return
	}
	for range 3 {
		got, err := run()
		require.NoError(t, err)
		require.Equal(t, "[9]", got)
	}
}
