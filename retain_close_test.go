package modcache_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestRuntimeClosesAfterItsHandles has code that was idle already given back once
// more by the runtime.
func TestRuntimeClosesAfterItsHandles(t *testing.T) {
	c, err := modcache.Open(t.TempDir(), nil)
	require.NoError(t, err)
	rt, err := c.NewRuntime(t.Context(), wazero.NewRuntimeConfig())
	require.NoError(t, err)
	for i := range int32(3) {
		cm, err := rt.CompileModule(t.Context(), wasmtest.Const(i))
		require.NoError(t, err)
		require.NoError(t, cm.Close(t.Context()))
	}
	require.NoError(t, rt.Close(t.Context()))
	require.NoError(t, c.Close(t.Context()))
}
