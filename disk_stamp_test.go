package modcache_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/books"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/dirfs/dirfstest"
	"github.com/modcache/modcache/internal/layout"
)

// openTrimmed opens a Disk after a trim: none is under way in the background.
func openTrimmed(t testing.TB, dir string, o *modcache.DiskOptions) *modcache.Disk {
	t.Helper()
	d, err := modcache.OpenDisk(dir, o)
	require.NoError(t, err)
	_, err = d.Trim(bg)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	return openDisk(t, dir, o)
}

// TestDiskUsage is told to a process that looks at no entry.
func TestDiskUsage(t *testing.T) {
	const size = 1000
	clock := newDiskClock()
	dir := filepath.Join(t.TempDir(), "cache")
	o := &modcache.DiskOptions{Now: clock.Now, MaxBytes: 1 << 20}
	d := openTrimmed(t, dir, o)
	asOf := func(at time.Time, entries int) modcache.DiskUsage {
		return modcache.DiskUsage{Entries: entries, Bytes: int64(entries) * onDisk(size), MaxBytes: 1 << 20, AsOf: at.Truncate(time.Second)}
	}
	require.Equal(t, asOf(clock.Now(), 0), d.Usage())
	for i := range uint64(5) {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, size)))
	}
	require.Equal(t, 5, d.Usage().Entries)
	walked := clock.Now()
	clock.Advance(10 * time.Minute)
	require.NoError(t, d.Close())

	warm := openDisk(t, dir, o)
	requireHit(t, warm, diskKey(1), diskCode(1, size))
	require.Equal(t, asOf(walked, 5), warm.Usage())
	m := warm.Metrics()
	require.EqualValues(t, 5, m.Entries)
	require.EqualValues(t, 5*onDisk(size), m.Bytes)
	clock.Advance(40 * time.Minute)
	require.NoError(t, warm.Close())
	reader := openDisk(t, dir, &modcache.DiskOptions{Now: clock.Now, MaxBytes: 1 << 20, ReadOnly: true})
	require.Equal(t, asOf(walked, 5), reader.Usage())

	clock.Advance(20 * time.Minute) // an hour after the trim, whoever has closed it since
	late, err := modcache.OpenDisk(dir, o)
	require.NoError(t, err)
	_, err = late.Trim(bg)
	require.NoError(t, err)
	require.NoError(t, late.Close())
	require.Equal(t, asOf(clock.Now(), 5), openDisk(t, dir, o).Usage())

	// A directory without a stamp isn't asked for it at each look, but is after a while.
	fresh := t.TempDir()
	require.NoError(t, os.Chmod(fresh, 0o700))
	watcher := openDisk(t, fresh, &modcache.DiskOptions{Now: clock.Now, ReadOnly: true})
	require.Zero(t, watcher.Usage().AsOf)
	require.NoError(t, openTrimmed(t, fresh, o).Close())
	require.Zero(t, watcher.Usage().AsOf, "a moment later")
	clock.Advance(10 * time.Second)
	require.NotZero(t, watcher.Usage().AsOf)

	none := openDisk(t, filepath.Join(dir, "none"), &modcache.DiskOptions{ReadOnly: true, MaxBytes: -1})
	require.Equal(t, modcache.DiskUsage{MaxBytes: -1}, none.Usage())
	damaged := books.Stamp{AsOf: clock.Now(), Entries: 3}.String()
	for _, text := range []string{"", "rubbish", strings.Replace(damaged, ": 3", ": 4", 1), "since 1, as of 2: 3 entries, -4 bytes; evict from 0 free bytes, or from 0\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "trimmed"), []byte(text), 0o600))
		reader := openDisk(t, dir, &modcache.DiskOptions{MaxBytes: 1 << 20, ReadOnly: true})
		require.Equal(t, modcache.DiskUsage{MaxBytes: 1 << 20}, reader.Usage(), text)
	}
}

// TestDiskCountsBlocks compares with what the file system says.
func TestDiskCountsBlocks(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, nil)
	var lengths, taken int64
	for i := range uint64(50) {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, int(100+i*300))))
	}
	for _, file := range entryFiles(t, dir) {
		fi, err := os.Stat(file)
		require.NoError(t, err)
		lengths += fi.Size()
		taken += dirfs.Taken(fi)
	}
	require.Greater(t, taken, lengths)
	require.EqualValues(t, taken, d.Metrics().Bytes)
	r, err := d.Trim(bg)
	require.NoError(t, err)
	require.Equal(t, taken, r.Bytes)
	v, err := d.Verify(bg)
	require.NoError(t, err)
	require.Equal(t, taken, v.Bytes)
	require.Equal(t, taken, d.DurabilityReport().PendingBytes)

	half := openDisk(t, dir, &modcache.DiskOptions{MaxBytes: taken / 2})
	r, err = half.Trim(bg)
	require.NoError(t, err)
	_, left := diskUsage(t, dir)
	require.LessOrEqual(t, left, taken/2)
	require.Equal(t, left, r.Bytes)
}

// setTimes gives all that is in a directory one time, as builders of images do.
func setTimes(t testing.TB, dir string, to time.Time) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		require.NoError(t, err)
		return os.Chtimes(path, to, to)
	}))
}

// TestDiskTimesOfImages starts programs over a directory whose times say nothing.
func TestDiskTimesOfImages(t *testing.T) {
	const entries = 10
	long := 400 * 24 * time.Hour
	for name, to := range map[string]time.Time{
		"1970":      time.Unix(0, 0),
		"1980":      time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC),
		"a release": time.Now().Add(-long),
	} {
		t.Run(name, func(t *testing.T) {
			clock := newDiskClock()
			dir := filepath.Join(t.TempDir(), "cache")
			o := &modcache.DiskOptions{Now: clock.Now, MaxAge: 24 * time.Hour}
			d := openTrimmed(t, dir, o)
			for i := range uint64(entries) {
				require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, 100)))
			}
			require.NoError(t, d.Close())
			setTimes(t, dir, to)
			start := func() (left int) {
				d, err := modcache.OpenDisk(dir, o)
				require.NoError(t, err)
				requireHit(t, d, diskKey(1), diskCode(1, 100))
				require.NoError(t, waitForTrim(d, dir, clock.Now()))
				require.NoError(t, d.Close())
				left, _ = diskUsage(t, dir)
				return left
			}
			for range 11 { // over 22 hours
				require.Equal(t, entries, start())
				clock.Advance(2 * time.Hour)
			}
			clock.Advance(3 * time.Hour)
			require.Equal(t, 1, start(), "from when they were first seen, they age")
		})
	}
	t.Run("asked for", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "cache")
		d := openTrimmed(t, dir, nil)
		require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
		file := entryFile(t, dir, diskKey(1))
		require.NoError(t, os.Chtimes(file, time.Time{}, time.Unix(0, 0)))
		plan, _, err := d.PlanTrim(bg)
		require.NoError(t, err)
		require.Empty(t, plan)
		r, err := d.Trim(bg)
		require.NoError(t, err)
		require.Zero(t, r.Evicted)
	})
}

// waitForTrim waits for the trim in the background by sharing its walk, or doing another.
func waitForTrim(d *modcache.Disk, dir string, now time.Time) error {
	for {
		fi, err := os.Stat(filepath.Join(dir, "trimmed"))
		if err != nil {
			return err
		}
		if now.Sub(fi.ModTime()) < time.Hour {
			return nil
		}
		if _, _, err := d.PlanTrim(bg); err != nil {
			return err
		}
	}
}

// TestDiskClockThatIsBehind uses entries while the clock shows 1970, as on a machine that
// has just been switched on.
func TestDiskClockThatIsBehind(t *testing.T) {
	const size = 1000
	dir := filepath.Join(t.TempDir(), "cache")
	clock := newDiskClock()
	o := &modcache.DiskOptions{Now: clock.Now, MaxBytes: 4 * onDisk(size)}
	d := openTrimmed(t, dir, o)
	for i := range uint64(4) {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, size)))
		clock.Advance(time.Minute)
	}
	used := func(n uint64) time.Time {
		e, ok, err := d.Stat(bg, diskKey(n))
		require.NoError(t, err)
		require.True(t, ok)
		return e.Used
	}
	for _, behind := range []time.Duration{2 * time.Minute, 2 * time.Hour, 24 * 365 * time.Hour, time.Since(time.Unix(0, 0))} {
		before := used(3)
		wrong := openDisk(t, dir, &modcache.DiskOptions{MaxAge: -1, Now: func() time.Time { return clock.Now().Add(-behind) }})
		temp := filepath.Join(dir, "tmp", diskKey(9).String()+"-ABCDEFGHIJKLMNOPQRSTUVWXYZ")
		require.NoError(t, os.WriteFile(temp, nil, 0o600)) // of a process that is writing it
		requireHit(t, wrong, diskKey(3), diskCode(3, size))
		_, err := wrong.Trim(bg)
		require.NoError(t, err)
		require.NoError(t, wrong.Close())
		require.False(t, used(3).Before(before), "by %v", behind)
		require.FileExists(t, temp)
	}
	require.NoError(t, d.Add(bg, diskKey(4), diskArtifact(4, size)))
	requireMiss(t, d, diskKey(0))
	requireHit(t, d, diskKey(3), diskCode(3, size))
}

// strangersFiles is a directory whose files belong to somebody else: their times can't be set.
type strangersFiles struct{ dirfs.FS }

func (t strangersFiles) Chtimes(name string, atime, mtime time.Time) error {
	if filepath.Ext(name) == ".v1" {
		return &fs.PathError{Op: "chtimes", Path: name, Err: fs.ErrPermission}
	}
	return t.FS.Chtimes(name, atime, mtime)
}

// TestDiskUsesEntriesOfOthers shares a directory with another user, who made the entries.
func TestDiskUsesEntriesOfOthers(t *testing.T) {
	const size = 1000
	clock := newDiskClock()
	dir := filepath.Join(t.TempDir(), "cache")
	o := &modcache.DiskOptions{Now: clock.Now, MaxBytes: 3 * onDisk(size)}
	other := openTrimmed(t, dir, o)
	for i := range uint64(3) {
		require.NoError(t, other.Add(bg, diskKey(i), diskArtifact(i, size)))
		clock.Advance(time.Minute)
	}
	clock.Advance(5 * time.Minute)
	d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS { return strangersFiles{tree} }, o)
	require.NoError(t, err)
	defer d.Close()
	requireHit(t, d, diskKey(0), diskCode(0, size))
	clock.Advance(5 * time.Minute)
	requireHit(t, d, diskKey(0), diskCode(0, size))
	for i := range uint64(2) {
		require.NoError(t, other.Add(bg, diskKey(90+i), diskArtifact(90+i, size)))
	}
	requireHit(t, other, diskKey(0), diskCode(0, size))
	requireMiss(t, other, diskKey(1))
	requireMiss(t, other, diskKey(2))
}

// TestDiskStampDespiteWhatStays trims a directory where something of a dead process can't be removed.
func TestDiskStampDespiteWhatStays(t *testing.T) {
	dir := t.TempDir()
	clock := newDiskClock()
	o := &modcache.DiskOptions{Now: clock.Now}
	openTrimmed(t, dir, o) // else the first Add has it trimmed in the background
	d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS {
		return dirfstest.NewFaulty(tree, func(op dirfstest.Op, _ int) error {
			if op == dirfstest.Remove {
				return syscall.EPERM
			}
			return nil
		})
	}, o)
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 1000)))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tmp", layout.Unique(diskKey(1))), nil, 0o600))
	clock.Advance(2 * time.Hour)
	_, err = d.Trim(bg)
	require.ErrorIs(t, err, syscall.EPERM)
	require.WithinDuration(t, clock.Now(), openDisk(t, dir, o).Usage().AsOf, time.Second)
}
