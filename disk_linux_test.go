package modcache_test

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// TestDiskOnASmallFileSystem fills a real one.
func TestDiskOnASmallFileSystem(t *testing.T) {
	mount := t.TempDir()
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("can't mount a tmpfs:", err)
	}
	defer func() { require.NoError(t, syscall.Unmount(mount, syscall.MNT_DETACH)) }()
	for name, o := range map[string]modcache.DiskOptions{"headroom": {}, "full": {MinFree: -1}} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(mount, name)
			d := openDisk(t, dir, &o)
			for i := range uint64(40) {
				require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, 100_000)))
				requireHit(t, d, diskKey(i), diskCode(i, 100_000))
			}
			require.NotZero(t, d.Metrics().Evictions)
			require.Error(t, d.Add(bg, diskKey(99), diskArtifact(99, 2<<20)))
			left, err := os.ReadDir(filepath.Join(dir, "tmp"))
			require.NoError(t, err)
			require.Empty(t, left)
			require.NoError(t, os.RemoveAll(dir))
		})
	}
}

// TestDiskUnderAFileSizeLimit runs in a process of its own, which can't write files of
// more than 100 kB.
func TestDiskUnderAFileSizeLimit(t *testing.T) {
	const child = "MODCACHE_DISK_FILE_SIZE"
	dir := os.Getenv(child)
	if dir == "" {
		dir = t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^TestDiskUnderAFileSizeLimit$")
		cmd.Env = append(os.Environ(), child+"="+dir)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		requireHit(t, openDisk(t, dir, nil), diskKey(2), diskCode(2, 10_000))
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 100_000, Max: 100_000}))
	d := openDisk(t, dir, nil)
	err := d.Add(bg, diskKey(1), diskArtifact(1, 200_000))
	require.True(t, errors.Is(err, syscall.EFBIG), "%v", err)
	requireMiss(t, d, diskKey(1))
	require.NoError(t, d.Add(bg, diskKey(2), diskArtifact(2, 10_000)))
	requireHit(t, d, diskKey(2), diskCode(2, 10_000))
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	require.NoError(t, err)
	require.Empty(t, left)
}
