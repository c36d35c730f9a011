package modcache

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/wazerohook"
)

// TestKeysTellFormatsApart: the same wazero calls itself by its version in a program
// and "dev" in most tests, and refuses the entries of the other. Over one directory,
// each would delete what the other stored.
func TestKeysTellFormatsApart(t *testing.T) {
	r := internalRuntime(t, nil)
	engineKey, dropInKey := map[Key]bool{}, map[Key]bool{}
	for _, f := range []wazerohook.Format{{Version: "dev"}, {Version: "v1.12.0"}, {Version: "v1.12.0", CatchTable: true}} {
		c, err := New(nothing{}, &Options{EngineID: "the same"})
		require.NoError(t, err)
		defer c.Close(t.Context())
		w := *r.c.wazero
		w.Format = f
		c.wazero = &w
		e, err := c.engineFor(wazero.NewRuntimeConfig())
		require.NoError(t, err)
		engineKey[e.key(Fingerprint{})] = true
		dropInKey[c.dropInKey(wazerohook.WazeroKey{})] = true
	}
	require.Len(t, engineKey, 3)
	require.Len(t, dropInKey, 3)
}
