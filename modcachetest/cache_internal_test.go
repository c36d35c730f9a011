package modcachetest

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
)

// TestCacheWhoseDirectoryHangs has a home directory on a server that doesn't answer.
func TestCacheWhoseDirectoryHangs(t *testing.T) {
	t.Setenv("HOME", t.TempDir()) // or there is no directory to open, where XDG_CACHE_HOME isn't set either
	synctest.Test(t, func(t *testing.T) {
		ever := make(chan struct{})
		defer close(ever)
		s, err := openTestStore(func(string, *modcache.DiskOptions) (*modcache.Disk, error) { <-ever; return nil, nil })
		require.ErrorIs(t, err, bounded.ErrNoAnswer)
		require.IsType(t, &modcache.Memory{}, s)
	})
}
