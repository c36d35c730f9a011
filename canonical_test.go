package modcache_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

func TestCanonical(t *testing.T) {
	for _, wasm := range []string{debugBuild, releaseBuild} {
		canonical, err := modcache.Canonicalize([]byte(wasm))
		require.NoError(t, err)
		again, err := modcache.Canonicalize(canonical)
		require.NoError(t, err)
		require.Equal(t, canonical, again)
		f, err := modcache.Canonical([]byte(wasm))
		require.NoError(t, err)
		require.Equal(t, modcache.Sum(canonical), f)
	}
	for _, wasm := range []string{"", "\x00asm\x01\x00\x00", releaseBuild + "\x0e\x00", releaseBuild[:len(releaseBuild)-1]} {
		_, err := modcache.Canonicalize([]byte(wasm))
		require.Error(t, err)
		_, err = modcache.Canonical([]byte(wasm))
		require.ErrorContains(t, err, "modcache: ")
	}
}
