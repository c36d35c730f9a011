package modcache_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/dirfs/dirfstest"
	"github.com/modcache/modcache/internal/layout"
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

// TestDiskOutOfReach has its directory where this process can't name it any more, nor make another one, as after chroot.
func TestDiskOutOfReach(t *testing.T) {
	above := filepath.Join(t.TempDir(), "above")
	dir := filepath.Join(above, "cache")
	requireTrimmed(t, dir)
	var events diskEvents
	d := openDisk(t, dir, &modcache.DiskOptions{OnEvent: events.observe})
	require.NoError(t, d.Add(bg, diskKey(9), diskArtifact(9, 1000)))
	looked := d.Usage().AsOf
	require.NotZero(t, looked)
	require.NoError(t, os.Rename(above, above+".old"))
	require.NoError(t, os.Symlink("nowhere", above))
	for n := range uint64(2) {
		unlock, err := d.Lock(bg, diskKey(n))
		require.NoError(t, err)
		require.NoError(t, d.Add(bg, diskKey(n), diskArtifact(n, 1000)))
		unlock()
		requireHit(t, d, diskKey(n), diskCode(n, 1000))
	}
	require.Empty(t, events.take(modcache.EventStoreFailed))
	require.Equal(t, looked, d.Usage().AsOf, "nothing was walked over")
	require.NoError(t, os.RemoveAll(above+".old"))
	require.Error(t, d.Add(bg, diskKey(1), diskArtifact(1, 1000)))
	require.NoError(t, os.Remove(above))
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 1000)))
	require.DirExists(t, dir)
}

// TestDiskFlushForgetsADirectory deletes entries that are pending, and the shards that they were in.
func TestDiskFlushForgetsADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	requireTrimmed(t, dir)
	d := openDisk(t, dir, nil)
	for shard := range byte(16) {
		require.NoError(t, d.Add(bg, modcache.Key{shard << 4}, diskArtifact(1, 1000)))
	}
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, d.Flush(bg))
	require.True(t, d.DurabilityReport().Durable)
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 1000)))
	require.NoError(t, d.Flush(bg))
	require.True(t, d.DurabilityReport().Durable)
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

// TestDiskHealsDirectoriesForEntries puts a directory in the place of an entry.
func TestDiskHealsDirectoriesForEntries(t *testing.T) {
	for _, size := range []int{100, 200_000} {
		dir := t.TempDir()
		var events diskEvents
		d := openDisk(t, dir, &modcache.DiskOptions{OnEvent: events.observe})
		key := diskKey(1)
		name := filepath.Join(dir, key.String()[:1], key.String()+".v1")
		spoil := func() {
			require.NoError(t, os.RemoveAll(name))
			require.NoError(t, os.MkdirAll(filepath.Join(name, "full"), 0o700))
		}

		spoil()
		_, ok, err := d.Get(bg, key)
		require.NoError(t, err)
		require.False(t, ok)
		require.Len(t, events.take(modcache.EventCorrupt), 1)
		require.NoDirExists(t, name)
		require.NoError(t, d.Add(bg, key, diskArtifact(1, size)))
		requireHit(t, d, key, diskCode(1, size))

		spoil()
		require.NoError(t, d.Add(bg, key, diskArtifact(1, size)))
		requireHit(t, d, key, diskCode(1, size))

		spoil()
		r, err := d.Verify(bg)
		require.NoError(t, err)
		require.Len(t, r.Corrupt, 1)
		require.Equal(t, key, r.Corrupt[0].Key)
		require.NoDirExists(t, name)

		spoil()
		require.NoError(t, d.Delete(bg, key))
		require.NoDirExists(t, name)
	}
}

// TestDiskReplacesDirectoriesItCannotOpen lets Add find out only when it gives the entry its name.
func TestDiskReplacesDirectoriesItCannotOpen(t *testing.T) {
	dir, key := t.TempDir(), diskKey(1)
	d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS {
		return dirfstest.NewFaulty(tree, func(op dirfstest.Op, n int) error {
			if op == dirfstest.Open && n == 3 { // after README and CACHEDIR.TAG
				return syscall.EACCES
			}
			return nil
		})
	}, &modcache.DiskOptions{MaxBytes: -1, MinFree: -1})
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, key.String()[:1], key.String()+".v1", "full"), 0o700))
	require.NoError(t, d.Add(bg, key, diskArtifact(1, 100)))
	requireHit(t, d, key, diskCode(1, 100))
}

// unlistable is a tree in which some directories can't be listed.
type unlistable struct {
	dirfs.FS
	broken atomic.Pointer[string]
}

func (u *unlistable) ReadDir(name string) ([]fs.FileInfo, error) {
	if broken := u.broken.Load(); broken != nil && *broken == name {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: syscall.EIO}
	}
	return u.FS.ReadDir(name)
}

// TestDiskGoesOnWithoutAShard adds with a bound while one shard can't be listed.
func TestDiskGoesOnWithoutAShard(t *testing.T) {
	const size, room = 1000, 64
	limit := room * onDisk(size)
	dir := t.TempDir()
	requireTrimmed(t, dir)
	var tree *unlistable
	var events diskEvents
	clock := newDiskClock()
	d, err := modcache.OpenDiskOn(dir, func(fs dirfs.FS) dirfs.FS {
		tree = &unlistable{FS: fs}
		return tree
	}, &modcache.DiskOptions{MaxBytes: limit, OnEvent: events.observe, Now: clock.Now})
	require.NoError(t, err)
	defer d.Close()
	var added uint64
	add := func(n int) {
		t.Helper()
		for range n {
			require.NoError(t, d.Add(bg, diskKey(added), diskArtifact(added, size)))
			added++
			clock.Advance(time.Minute)
			_, bytes := diskUsage(t, dir)
			require.LessOrEqual(t, bytes, limit)
		}
	}
	add(room / 2)
	broken := diskKey(added).String()[:1]
	tree.broken.Store(&broken)
	add(20 * room)
	failed := events.take(modcache.EventStoreFailed)
	require.Len(t, failed, 1, "said once")
	require.ErrorContains(t, failed[0].Err, broken)

	_, err = d.Trim(bg)
	require.ErrorIs(t, err, syscall.EIO)
	_, before, err := d.PlanTrim(bg)
	require.ErrorIs(t, err, syscall.EIO)
	clock.Advance(31 * 24 * time.Hour)
	plan, all, err := d.PlanTrim(bg)
	require.ErrorContains(t, err, broken+": ")
	require.Len(t, plan, before.Entries, "a plan for the rest")
	require.Equal(t, before.Entries, all.Evicted)
	clock.Advance(-31 * 24 * time.Hour)
	r, err := d.Verify(bg)
	require.ErrorIs(t, err, syscall.EIO)
	require.NotZero(t, r.Entries)

	tree.broken.Store(nil)
	_, err = d.Trim(bg)
	require.NoError(t, err)
	events.take(modcache.EventStoreFailed)
	tree.broken.Store(&broken)
	add(room)
	require.Len(t, events.take(modcache.EventStoreFailed), 1, "said anew after it was well")
}

// TestDiskOpensWithoutWriting opens a directory that is in use, with and without what tells
// people whose it is.
func TestDiskOpensWithoutWriting(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	d := openTrimmed(t, dir, nil)
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
	require.NoError(t, d.Close())
	for _, name := range []string{"README", "CACHEDIR.TAG", "tmp"} {
		require.FileExists(t, filepath.Join(dir, "CACHEDIR.TAG"))
		require.NoError(t, os.RemoveAll(filepath.Join(dir, name)))
		var writes atomic.Int64
		d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS {
			return dirfstest.NewFaulty(tree, func(op dirfstest.Op, _ int) error {
				switch op {
				case dirfstest.Lstat, dirfstest.Read, dirfstest.Stat, dirfstest.Close:
				default:
					writes.Add(1)
				}
				return nil
			})
		}, nil)
		require.NoError(t, err)
		require.Zero(t, writes.Load())
		requireHit(t, d, diskKey(1), diskCode(1, 100))
		require.EqualValues(t, 1, writes.Load(), "it is opened, and was used a moment ago")
		_, err = d.Trim(bg)
		require.NoError(t, err)
		require.NoError(t, d.Add(bg, diskKey(2), diskArtifact(2, 100)))
		require.NoError(t, d.Delete(bg, diskKey(2)))
		require.NoError(t, d.Close())
	}
}

// TestDiskSignsAnew has what says whose directory it is lose its text, as in a crash or on a full file system.
// Texts of others stay.
func TestDiskSignsAnew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	d := openTrimmed(t, dir, nil) // or else a trim in the background signs, too
	tag := filepath.Join(dir, layout.Tag)
	for _, text := range []string{"", "Signature: of another program"} {
		require.NoError(t, os.WriteFile(tag, []byte(text), 0o600))
		_, err := d.Trim(bg)
		require.NoError(t, err)
		got, err := os.ReadFile(tag)
		require.NoError(t, err)
		if text == "" {
			text = layout.TagText
		}
		require.Equal(t, text, string(got))
	}
}

// TestDiskMoved moves the directory of an open Disk away. What has its name is written to,
// and nothing else.
func TestDiskMoved(t *testing.T) {
	base := t.TempDir()
	dir, moved := filepath.Join(base, "cache"), filepath.Join(base, "moved")
	for name, write := range map[string]func(*modcache.Disk) error{
		"add":    func(d *modcache.Disk) error { return d.Add(bg, diskKey(2), diskArtifact(2, 100)) },
		"delete": func(d *modcache.Disk) error { return d.Delete(bg, diskKey(1)) },
		"trim":   func(d *modcache.Disk) error { _, err := d.Trim(bg); return err },
		"lock": func(d *modcache.Disk) error {
			unlock, err := d.Lock(bg, diskKey(2))
			if err == nil {
				defer unlock()
				_, err = os.Stat(filepath.Join(dir, "lock", diskKey(2).String()))
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			clock := newDiskClock()
			o := &modcache.DiskOptions{Now: clock.Now}
			d := openTrimmed(t, dir, o)
			require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
			require.NoError(t, os.Rename(dir, moved))
			other := openTrimmed(t, dir, o)
			require.NoError(t, other.Add(bg, diskKey(1), diskArtifact(1, 100)))
			clock.Advance(31 * 24 * time.Hour)

			require.NoError(t, write(d))
			require.Len(t, entryFiles(t, moved), 1)
			require.NoDirExists(t, filepath.Join(moved, "lock"))
			want := map[string]int{"add": 2, "delete": 0, "trim": 0, "lock": 1}[name]
			require.Len(t, entryFiles(t, dir), want)
			require.NoError(t, os.RemoveAll(moved))
			require.NoError(t, os.RemoveAll(dir))
		})
	}
	d := openTrimmed(t, dir, nil)
	require.NoError(t, os.Rename(dir, moved))
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.Chmod(dir, 0o777))
	require.ErrorIs(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)), modcache.ErrInsecureDir)
	_, err := d.Trim(bg)
	require.ErrorIs(t, err, modcache.ErrInsecureDir)
	require.NoError(t, os.Remove(dir))
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
	requireHit(t, d, diskKey(1), diskCode(1, 100))
	require.Len(t, entryFiles(t, dir), 1)
}

// TestDiskReadOnlyFindsWhatIsDeployed puts a filled directory in the place of one that is only read, or where
// there was none.
func TestDiskReadOnlyFindsWhatIsDeployed(t *testing.T) {
	above := t.TempDir()
	dir := filepath.Join(above, "cache")
	deploy := func(n uint64) {
		name := filepath.Join(above, "next")
		d, err := modcache.OpenDisk(name, nil)
		require.NoError(t, err)
		require.NoError(t, d.Add(bg, diskKey(n), diskArtifact(n, 1000)))
		require.NoError(t, d.Close())
		if err := os.Rename(dir, filepath.Join(above, "old"+diskKey(n).String())); n > 0 {
			require.NoError(t, err)
		}
		require.NoError(t, os.Rename(name, dir))
	}
	d := openDisk(t, dir, &modcache.DiskOptions{ReadOnly: true})
	for n := range uint64(3) {
		requireMiss(t, d, diskKey(n))
		deploy(n)
		requireHit(t, d, diskKey(n), diskCode(n, 1000))
	}

	// One that may write looks once a second.
	clock := newDiskClock()
	w := openTrimmed(t, dir, &modcache.DiskOptions{Now: clock.Now})
	for n := range uint64(2) {
		requireMiss(t, w, diskKey(10+n))
		deploy(10 + n)
		requireMiss(t, w, diskKey(10+n))
		clock.Advance(time.Second)
		requireHit(t, w, diskKey(10+n), diskCode(10+n, 1000))
		clock.Advance(time.Second)
	}
	requireHit(t, d, diskKey(11), diskCode(11, 1000))

	require.NoError(t, os.Rename(dir, filepath.Join(above, "gone")))
	requireHit(t, d, diskKey(11), diskCode(11, 1000))
	requireMiss(t, d, diskKey(1))
	require.NoDirExists(t, dir)

	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.Chmod(dir, 0o777))
	_, ok, err := d.Get(bg, diskKey(1))
	require.ErrorIs(t, err, modcache.ErrInsecureDir)
	require.False(t, ok)
}

// TestDiskIsMarkedLater has a directory whose files can't be listed when it is opened.
func TestDiskIsMarkedLater(t *testing.T) {
	dir := t.TempDir()
	tree := &unlistable{}
	root := "."
	tree.broken.Store(&root)
	d, err := modcache.OpenDiskOn(dir, func(real dirfs.FS) dirfs.FS {
		tree.FS = real
		return tree
	}, nil)
	require.NoError(t, err)
	defer d.Close()
	require.NoFileExists(t, filepath.Join(dir, layout.Tag))
	tree.broken.Store(nil)
	_, err = d.Trim(bg)
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, layout.Tag))
}

// TestDiskAmongFilesOfOthers is of a directory that holds more than a cache: the tag would have backups leave that out.
func TestDiskAmongFilesOfOthers(t *testing.T) {
	dir := t.TempDir()
	theirs, tag := filepath.Join(dir, "app.db"), filepath.Join(dir, layout.Tag)
	require.NoError(t, os.WriteFile(theirs, nil, 0o600))
	d := openDisk(t, dir, nil)
	require.NoError(t, d.Add(bg, diskKey(1), modcache.NewArtifact([]byte("code"), modcache.Info{})))
	_, err := d.Trim(bg)
	require.NoError(t, err)
	require.NoFileExists(t, tag)
	require.NoFileExists(t, filepath.Join(dir, layout.Readme))
	_, ok, err := openDisk(t, dir, nil).Get(bg, diskKey(1))
	require.NoError(t, err)
	require.True(t, ok)

	require.NoError(t, os.Remove(theirs))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "lost+found"), 0o700))
	_, err = openDisk(t, dir, nil).Trim(bg)
	require.NoError(t, err)
	require.FileExists(t, tag)
}
