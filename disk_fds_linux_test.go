package modcache_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// TestDiskHoldsFewFiles opens many Caches, as programs do whose plugins have one each.
func TestDiskHoldsFewFiles(t *testing.T) {
	const caches, entries = 50, 64
	files := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(open)
	}
	before := files()
	for range caches {
		c, err := modcache.Open(filepath.Join(t.TempDir(), "cache"), nil)
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close(bg)) }()
		for i := range uint64(entries) { // in all shards
			require.NoError(t, c.Store().Add(bg, diskKey(i), diskArtifact(i, 100)))
			requireHit(t, c.Store().(*modcache.Disk), diskKey(i), diskCode(i, 100))
		}
	}
	require.Eventually(t, func() bool { return files()-before <= 2*caches+8 }, time.Minute, time.Millisecond,
		"their first trims end, and eight are for what else runs meanwhile")
}
