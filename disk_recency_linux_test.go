package modcache_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// TestDiskLeavesImagesAlone uses entries that came with a container's image, on a real
// overlay file system.
func TestDiskLeavesImagesAlone(t *testing.T) {
	base := t.TempDir()
	mount := func(target, kind, options string) {
		t.Helper()
		if err := syscall.Mount(kind, target, kind, 0, options); err != nil {
			t.Skipf("NOT TESTED: what a hit copies in a container: can't mount a file system of type %s: %v", kind, err)
		}
		t.Cleanup(func() { require.NoError(t, syscall.Unmount(target, syscall.MNT_DETACH)) })
	}
	mount(base, "tmpfs", "") // the upper directory of an overlay can't be on one
	dirs := map[string]string{}
	for _, name := range []string{"image", "upper", "work", "container"} {
		dirs[name] = filepath.Join(base, name)
		require.NoError(t, os.Mkdir(dirs[name], 0o755))
	}
	const size, entries = 100_000, 4
	clock := newDiskClock()
	o := &modcache.DiskOptions{Now: clock.Now, MaxBytes: (entries + 1) * onDisk(size), MinFree: -1}
	baked := openTrimmed(t, filepath.Join(dirs["image"], "cache"), o)
	for i := range uint64(entries) {
		require.NoError(t, baked.Add(bg, diskKey(i), diskArtifact(i, size)))
		clock.Advance(time.Minute)
	}
	require.NoError(t, baked.Close())
	mount(dirs["container"], "overlay", "lowerdir="+dirs["image"]+",upperdir="+dirs["upper"]+",workdir="+dirs["work"])

	clock.Advance(30 * time.Minute)
	dir := filepath.Join(dirs["container"], "cache")
	copied := func() (bytes int64) {
		_, bytes = diskUsage(t, filepath.Join(dirs["upper"], "cache"))
		return bytes
	}
	for range 3 {
		d := openDisk(t, dir, o)
		requireHit(t, d, diskKey(0), diskCode(0, size))
		e, ok, err := d.Stat(bg, diskKey(0))
		require.NoError(t, err)
		require.True(t, ok)
		require.WithinDuration(t, clock.Now(), e.Used, 0)
		require.Zero(t, copied(), "a hit copies the entry out of the image")
		clock.Advance(5 * time.Minute)
		require.NoError(t, d.Close())
	}
	d := openDisk(t, dir, o)
	for i := range uint64(2) {
		require.NoError(t, d.Add(bg, diskKey(90+i), diskArtifact(90+i, size)))
		clock.Advance(time.Minute)
	}
	requireHit(t, d, diskKey(0), diskCode(0, size)) // used later than what was made later
	requireMiss(t, d, diskKey(1))
	require.NoError(t, d.Delete(bg, diskKey(0)))
	r, err := d.Trim(bg)
	require.NoError(t, err)
	require.Equal(t, 1, r.Reaped, "its time of use")
}
