package modcache_test

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/dirfs/dirfstest"
)

// TestDiskReplace puts entries of other lengths in the place of one that is being read.
func TestDiskReplace(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, nil)
	require.NoError(t, d.Replace(bg, diskKey(1), diskArtifact(1, 200_000)), "of nothing")
	older, ok, err := d.Get(bg, diskKey(1))
	require.NoError(t, err)
	require.True(t, ok)
	defer older.Close()
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(2, 10)))
	requireHit(t, d, diskKey(1), diskCode(1, 200_000))
	for i, size := range []int{300_000, 10, 100_000} {
		want := uint64(2 + i)
		require.NoError(t, d.Replace(bg, diskKey(1), diskArtifact(want, size)))
		requireHit(t, d, diskKey(1), diskCode(want, size))
		entries, bytes := diskUsage(t, dir)
		m := d.Metrics()
		require.EqualValues(t, 1, m.Entries)
		require.EqualValues(t, bytes, m.Bytes)
		require.Equal(t, 1, entries)
		require.Equal(t, 1, d.DurabilityReport().Pending)
	}
	b, err := older.Bytes()
	require.NoError(t, err)
	require.True(t, string(diskCode(1, 200_000)) == string(b))
	require.NoError(t, d.Flush(bg))
	require.True(t, d.DurabilityReport().Durable)

	readOnly := openDisk(t, dir, &modcache.DiskOptions{ReadOnly: true})
	require.ErrorIs(t, readOnly.Replace(bg, diskKey(1), diskArtifact(1, 10)), modcache.ErrReadOnly)
	ended, cancel := context.WithCancel(bg)
	cancel()
	require.ErrorIs(t, d.Replace(ended, diskKey(1), diskArtifact(1, 10)), context.Canceled)
	requireHit(t, d, diskKey(1), diskCode(4, 100_000))
}

// TestDiskReplaceThatFails keeps the older entry, whatever fails.
func TestDiskReplaceThatFails(t *testing.T) {
	for _, op := range dirfstest.Ops {
		for n, fired := 1, 1; fired > 0; n++ {
			var armed atomic.Bool // a trim in the background may ask at any time
			count := 0
			var faulty *dirfstest.Faulty
			d, err := modcache.OpenDiskOn(memDir(t), func(tree dirfs.FS) dirfs.FS {
				faulty = dirfstest.NewFaulty(tree, func(o dirfstest.Op, _ int) error {
					if !armed.Load() || o != op {
						return nil
					}
					if count++; count == n {
						return syscall.EIO
					}
					return nil
				})
				return faulty
			}, nil)
			require.NoError(t, err)
			_, err = d.Trim(bg) // or one in the background meets the fault
			require.NoError(t, err)
			require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100_000)))
			armed.Store(true)
			err = d.Replace(bg, diskKey(1), diskArtifact(2, 90_000))
			armed.Store(false)
			fired = faulty.Heal()
			if err != nil {
				requireHit(t, d, diskKey(1), diskCode(1, 100_000))
			} else {
				requireHit(t, d, diskKey(1), diskCode(2, 90_000))
			}
			require.NoError(t, d.Close())
		}
	}
}
