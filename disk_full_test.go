package modcache_test

import (
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/dirfs/dirfstest"
)

// TestDiskMakesSpaceForEachOnAFullFileSystem has two Adds meet a full file system at once.
// What one evicts makes no space for the other.
func TestDiskMakesSpaceForEachOnAFullFileSystem(t *testing.T) {
	var full atomic.Bool
	evicting, release := make(chan modcache.Key, 2), make(chan struct{})
	d, err := modcache.OpenDiskOn(t.TempDir(), func(tree dirfs.FS) dirfs.FS {
		return dirfstest.NewFaulty(tree, func(o dirfstest.Op, _ int) error {
			if o == dirfstest.Write && full.Swap(false) {
				return syscall.ENOSPC
			}
			return nil
		})
	}, &modcache.DiskOptions{OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventEvicted {
			evicting <- e.Key
			<-release
		}
	}})
	require.NoError(t, err)
	defer d.Close()
	_, err = d.Trim(bg)
	require.NoError(t, err)
	for i := range uint64(2) {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, 1000)))
	}
	errs := make(chan error, 2)
	for i := range uint64(2) {
		full.Store(true)
		go func() { errs <- d.Add(bg, diskKey(10+i), diskArtifact(10+i, 1000)) }()
		select {
		case <-evicting:
		case err := <-errs:
			t.Fatalf("an Add evicted nothing before it tried again: %v", err)
		}
	}
	close(release)
	for range 2 {
		require.NoError(t, <-errs)
	}
}
