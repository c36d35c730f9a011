package modcache_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/layout"
)

// TestDiskOddNames puts a FIFO, which would block who opens it, in the place of each file and directory: the next Add
// stores its entry all the same.
func TestDiskOddNames(t *testing.T) {
	key := modcache.Key{0x70}
	for _, name := range []string{
		layout.Trimmed, layout.Added, layout.Tag, layout.Shard(key), layout.Temp, layout.Locks, layout.Uses, layout.Quarantine,
		layout.Entry(key), layout.Lock(key), layout.Use(key),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			now := time.Now()
			o := &modcache.DiskOptions{Now: func() time.Time { return now }}
			d := openTrimmed(t, dir, o)
			add := func() error { return d.Add(bg, key, modcache.NewArtifact([]byte("code"), modcache.Info{Engine: "e"})) }
			require.NoError(t, add())
			_, err := d.Trim(bg)
			require.NoError(t, err)
			path := filepath.Join(dir, name)
			require.NoError(t, os.RemoveAll(path))
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
			require.NoError(t, syscall.Mkfifo(path, 0o600))
			now = now.Add(time.Hour)

			_, _, _ = d.Get(bg, key)
			require.NoError(t, add())
			_, ok, err := d.Get(bg, key)
			require.NoError(t, err)
			require.True(t, ok)
			if unlock, err := d.Lock(bg, key); err == nil {
				unlock()
			}
			_ = d.Flush(bg)
			_, _ = d.Verify(bg)
			_, _ = d.Trim(bg)
			require.NoError(t, d.Delete(bg, modcache.Key{0x80}))
			require.NoError(t, d.Close())
			d, err = modcache.OpenDisk(dir, o)
			require.NoError(t, err)
			require.NoError(t, d.Close())
		})
	}
}

// A FIFO in the place of a file, or behind a link there, is refused without opening it, also below fs.Sub.
func TestFSStoreOpensNoFIFO(t *testing.T) {
	parent := t.TempDir()
	dir, _, _ := fsFilledIn(t, filepath.Join(parent, "cache"), nil)
	path := filepath.Join(dir, layout.Entry(diskKey(1)))
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	require.NoError(t, os.Symlink("fifo", filepath.Join(dir, "link")))
	require.NoError(t, os.Remove(filepath.Join(dir, layout.Tag)))
	require.NoError(t, os.Symlink("fifo", filepath.Join(dir, layout.Tag)))
	sub, err := fs.Sub(os.DirFS(parent), "cache")
	require.NoError(t, err)
	for what, make := range map[string]func() error{
		"a FIFO":            func() error { return syscall.Mkfifo(path, 0o600) },
		"a link":            func() error { return os.Symlink("../fifo", path) },
		"a link to a link":  func() error { return os.Symlink("../link", path) },
		"a link to no file": func() error { return os.Symlink("../"+layout.Shard(diskKey(1)), path) },
	} {
		require.NoError(t, os.Remove(path))
		require.NoError(t, make())
		for _, fsys := range []fs.FS{os.DirFS(dir), sub} {
			s, err := modcache.OpenFS(fsys, nil)
			require.NoError(t, err)
			_, ok, err := s.Get(bg, diskKey(1))
			require.NoError(t, err, what)
			require.False(t, ok)
			require.EqualValues(t, 1, s.Metrics().Corrupt, what)
			for e, err := range s.Walk(bg) {
				require.NoError(t, err)
				require.Equal(t, e.Key == diskKey(1), e.Err != nil)
			}
		}
	}
}

// An entry may be a symbolic link to a file.
func TestFSStoreFollowsLinks(t *testing.T) {
	parent := t.TempDir()
	dir, _, small := fsFilledIn(t, filepath.Join(parent, "cache"), nil)
	path := filepath.Join(dir, layout.Entry(diskKey(2)))
	require.NoError(t, os.Rename(path, filepath.Join(parent, "file")))
	require.NoError(t, os.Symlink(filepath.Join(parent, "file"), path))
	sub, err := fs.Sub(os.DirFS(parent), "cache")
	require.NoError(t, err)
	for _, fsys := range []fs.FS{os.DirFS(dir), sub} {
		s, err := modcache.OpenFS(fsys, nil)
		require.NoError(t, err)
		a, ok, err := s.Get(bg, diskKey(2))
		require.NoError(t, err)
		require.True(t, ok)
		got, err := a.Bytes()
		require.NoError(t, err)
		require.Equal(t, small, got)
	}
}

// TestDiskOddTimes gives files times that JSON has no form for, where the file system takes them.
func TestDiskOddTimes(t *testing.T) {
	dir := t.TempDir()
	key := modcache.Key{0x70}
	d := openTrimmed(t, dir, &modcache.DiskOptions{MaxAge: -1})
	require.NoError(t, d.Add(bg, key, modcache.NewArtifact([]byte("code"), modcache.Info{Engine: "e"})))
	odd := time.Date(11476, 1, 1, 0, 0, 0, 0, time.UTC)
	path := filepath.Join(dir, layout.Entry(key))
	require.NoError(t, os.Chtimes(path, odd, odd))
	if fi, err := os.Stat(path); err != nil || fi.ModTime().Year() <= 9999 {
		t.Skip("the file system has no such times")
	}
	e, ok, err := d.Stat(bg, key)
	require.NoError(t, err)
	require.True(t, ok)
	_, err = json.Marshal(e)
	require.NoError(t, err)
}

// TestDiskOddEntries puts what is no file in the place of an entry: that is a miss, which the next Add
// replaces, and of which nothing stays.
func TestDiskOddEntries(t *testing.T) {
	dir := t.TempDir()
	key := modcache.Key{0x70}
	path := filepath.Join(dir, layout.Entry(key))
	d := openTrimmed(t, dir, nil)
	require.NoError(t, d.Add(bg, key, modcache.NewArtifact([]byte("code"), modcache.Info{Engine: "e"})))
	for what, put := range map[string]func() error{
		"directory":           func() error { return os.MkdirAll(filepath.Join(path, "with", "more"), 0o700) },
		"FIFO":                func() error { return syscall.Mkfifo(path, 0o600) },
		"link that leads out": func() error { return os.Symlink("/etc/passwd", path) },
	} {
		for range 10 {
			require.NoError(t, os.Remove(path), what)
			require.NoError(t, put(), what)
			_, ok, err := d.Get(bg, key)
			require.NoError(t, err, what)
			require.False(t, ok, what)
			require.NoError(t, d.Add(bg, key, modcache.NewArtifact([]byte("code"), modcache.Info{Engine: "e"})), what)
			a, ok, err := d.Get(bg, key)
			require.NoError(t, err, what)
			require.True(t, ok, what)
			require.NoError(t, a.Close())
		}
	}
	left, err := os.ReadDir(filepath.Join(dir, layout.Quarantine))
	require.NoError(t, err)
	require.Empty(t, left)
}

// largeBlocks is a file system with blocks of 64 KiB.
type largeBlocks struct{ dirfs.FS }

type largeInfo struct{ fs.FileInfo }

func (i largeInfo) Sys() any {
	const large = 64 << 10
	st := *i.FileInfo.Sys().(*syscall.Stat_t)
	st.Blocks = (st.Size + large - 1) / large * large / 512
	return &st
}

func (l largeBlocks) Lstat(name string) (fs.FileInfo, error) {
	fi, err := l.FS.Lstat(name)
	if err == nil && fi.Mode().IsRegular() {
		fi = largeInfo{fi}
	}
	return fi, err
}

func (l largeBlocks) ReadDir(name string) ([]fs.FileInfo, error) {
	infos, err := l.FS.ReadDir(name)
	for i, fi := range infos {
		infos[i] = largeInfo{fi}
	}
	return infos, err
}

// TestDiskKeepsTheBoundInLargeBlocks counts what files take once they are written.
func TestDiskKeepsTheBoundInLargeBlocks(t *testing.T) {
	const most = 8
	dir := t.TempDir()
	d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS { return largeBlocks{tree} },
		&modcache.DiskOptions{MaxBytes: most * 64 << 10, MinFree: -1})
	require.NoError(t, err)
	defer d.Close()
	for i := range uint64(50) {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, 1000)))
		requireHit(t, d, diskKey(i), diskCode(i, 1000))
		n, _ := diskUsage(t, dir)
		require.LessOrEqual(t, n, most)
		require.EqualValues(t, n*64<<10, d.Usage().Bytes)
	}
	small, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS { return largeBlocks{tree} },
		&modcache.DiskOptions{MaxBytes: 32 << 10, MinFree: -1})
	require.NoError(t, err)
	defer small.Close()
	require.ErrorIs(t, small.Add(bg, diskKey(100), diskArtifact(100, 1000)), modcache.ErrTooLarge)
	temps, err := os.ReadDir(filepath.Join(dir, layout.Temp))
	require.NoError(t, err)
	require.Empty(t, temps)
}
