package modcache_test

import (
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/dirfs/dirfstest"
)

// freeSpace is a file system that has as much free space as it is told.
type freeSpace struct {
	dirfs.FS
	free atomic.Int64
}

func (f *freeSpace) Space() (free, total int64, err error) { return f.free.Load(), 1 << 40, nil }

// TestDiskWaitsForSpaceAsLongAsOthersMakeIt has several evictions under way, which end
// one by one. The space that the last Add wants is there after all of them.
func TestDiskWaitsForSpaceAsLongAsOthersMakeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const evicting, minFree = 6, 1 << 20
		var tree freeSpace
		tree.free.Store(1 << 30)
		var evictions atomic.Int64
		release := make(chan struct{})
		d, err := modcache.OpenDiskOn(t.TempDir(), func(real dirfs.FS) dirfs.FS {
			tree.FS = real
			return &tree
		}, &modcache.DiskOptions{MinFree: minFree, MaxBytes: -1, OnEvent: func(e modcache.Event) {
			if e.Kind == modcache.EventEvicted && evictions.Add(1) <= evicting {
				<-release
			}
		}})
		require.NoError(t, err)
		defer d.Close()
		for i := range uint64(4 * evicting) {
			require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, 1000)))
		}
		_, err = d.Trim(bg)
		require.NoError(t, err)

		size := d.Metrics().Bytes / (4 * evicting)
		missing := func(entries int) { tree.free.Store(minFree + int64(size)*int64(1-entries)) }
		errs := make(chan error, evicting+1)
		add := func(i uint64) { errs <- d.Add(bg, diskKey(i), diskArtifact(i, 1000)) }
		for i := range evicting {
			missing(i + 1)
			go add(uint64(100 + i))
			synctest.Wait()
		}
		require.EqualValues(t, evicting, evictions.Load())
		go add(200)
		synctest.Wait()
		for i := range evicting {
			missing(evicting - 1 - i)
			release <- struct{}{}
			synctest.Wait()
		}
		for range evicting + 1 {
			require.NoError(t, <-errs)
		}
		require.EqualValues(t, evicting, evictions.Load())
	})
}

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
