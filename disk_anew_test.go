package modcache_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// TestDiskDirectoryMadeAnew deletes the directory of an open Disk, which goes on storing.
func TestDiskDirectoryMadeAnew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "above", "cache")
	requireTrimmed(t, dir)
	d := openDisk(t, dir, nil)
	for n := range uint64(3) {
		require.NoError(t, d.Add(bg, diskKey(n), diskArtifact(n, 1000)))
		require.NoError(t, os.RemoveAll(filepath.Dir(dir)))
		_, ok, err := d.Get(bg, diskKey(n))
		require.NoError(t, err)
		require.False(t, ok)

		var adds sync.WaitGroup
		for i := range uint64(4) {
			adds.Go(func() { _ = d.Add(bg, diskKey(10+i), diskArtifact(10+i, 1000)) })
		}
		adds.Wait()
		require.NoError(t, d.Add(bg, diskKey(n), diskArtifact(n, 1000)))
		a, ok, err := d.Get(bg, diskKey(n))
		require.NoError(t, err)
		require.True(t, ok)
		require.NoError(t, a.Close())
		require.FileExists(t, filepath.Join(dir, "CACHEDIR.TAG"))
		require.NoError(t, d.Flush(bg))
	}
	require.NoError(t, os.RemoveAll(dir))
	unlock, err := d.Lock(bg, diskKey(1))
	require.NoError(t, err)
	unlock()
}

// TestDiskDirectoryMadeAnewIsChecked replaces the directory by one that others can write to.
func TestDiskDirectoryMadeAnewIsChecked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	var events diskEvents
	requireTrimmed(t, dir)
	d := openDisk(t, dir, &modcache.DiskOptions{OnEvent: events.observe})
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.Chmod(dir, 0o777))
	require.ErrorIs(t, d.Add(bg, diskKey(1), diskArtifact(1, 1000)), modcache.ErrInsecureDir)
	require.Len(t, events.list(modcache.EventStoreFailed), 1)
	require.NoError(t, os.Chmod(dir, 0o700))
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 1000)))
}

// requireTrimmed makes a directory in which no trim is due that could write to it.
func requireTrimmed(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "trimmed"), nil, 0o600))
}
