package modcache_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/books"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/layout"
)

// walks counts how often a directory is walked.
type walks struct {
	dirfs.FS
	n *atomic.Int64
}

func (w walks) ReadDir(name string) ([]fs.FileInfo, error) {
	if name == "0" {
		w.n.Add(1)
	}
	return w.FS.ReadDir(name)
}

// told is a directory that short-lived processes add to, none of which closes its Disk.
type told struct {
	dir   string
	o     modcache.DiskOptions
	clock *diskClock
	walks atomic.Int64
	added uint64
}

func newTold(t *testing.T, blocks int64) *told {
	d := &told{dir: t.TempDir(), clock: newDiskClock()}
	d.o = modcache.DiskOptions{MaxBytes: blocks * block, Now: d.clock.Now}
	openTrimmed(t, d.dir, &d.o)
	return d
}

func (d *told) open(t *testing.T) *modcache.Disk {
	disk, err := modcache.OpenDiskOn(d.dir, func(tree dirfs.FS) dirfs.FS { return walks{tree, &d.walks} }, &d.o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = disk.Close() })
	return disk
}

// process adds an entry of so many blocks, and returns how often it walked.
func (d *told) process(t *testing.T, blocks int) int64 {
	before := d.walks.Load()
	d.added++
	require.NoError(t, d.open(t).Add(bg, diskKey(d.added), diskArtifact(d.added, blocks*block-frameOverhead)))
	return d.walks.Load() - before
}

// TestDiskAddsWithoutAWalk has processes that add a little each, and end as if killed.
func TestDiskAddsWithoutAWalk(t *testing.T) {
	const limit, processes = 160, 160
	d := newTold(t, limit)
	var filling, full int64
	for i := range processes {
		n := d.process(t, 1+i%3)
		if i < processes/2 {
			filling += n
		} else {
			full += n
		}
		d.clock.Advance(time.Second)
		if i%8 == 0 {
			_, bytes := diskUsage(t, d.dir)
			require.LessOrEqual(t, bytes, d.o.MaxBytes)
		}
	}
	// One for each sixteenth that is added, and when it is full, one for each sixty-fourth.
	require.InDelta(t, 13, filling, 4)
	require.Less(t, full, int64(processes/2*3/4))

	var wg sync.WaitGroup // several at once
	for i := range uint64(4) {
		disk := d.open(t)
		wg.Go(func() {
			for j := range uint64(5) {
				if err := disk.Add(bg, diskKey(10_000+100*i+j), diskArtifact(j, 100)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	_, bytes := diskUsage(t, d.dir)
	require.LessOrEqual(t, bytes, d.o.MaxBytes*20/16)
	_ = d.process(t, limit/8) // which is so much that it looks
	_, bytes = diskUsage(t, d.dir)
	require.LessOrEqual(t, bytes, d.o.MaxBytes)
}

// trimless is a directory in which no trim comes to its end.
type trimless struct{ dirfs.FS }

func (t trimless) OpenFile(name string, flag int, perm fs.FileMode) (dirfs.File, error) {
	if name == layout.Trimmed && flag != os.O_RDONLY {
		return nil, os.ErrPermission
	}
	return t.FS.OpenFile(name, flag, perm)
}

// TestDiskKeepsTheBoundWithoutATrim has processes that are too short for one.
func TestDiskKeepsTheBoundWithoutATrim(t *testing.T) {
	const limit = 32
	d := newTold(t, limit)
	d.clock.Advance(2 * time.Hour)
	for i := range uint64(3 * limit) {
		disk, err := modcache.OpenDiskOn(d.dir, func(tree dirfs.FS) dirfs.FS { return trimless{tree} }, &d.o)
		require.NoError(t, err)
		require.NoError(t, disk.Add(bg, diskKey(i), diskArtifact(i, 100)))
		require.NoError(t, disk.Close())
		entries, _ := diskUsage(t, d.dir)
		require.LessOrEqual(t, entries, limit)
	}
}

// TestDiskWalksIfInDoubt changes what a trim and Adds have left for later processes.
func TestDiskWalksIfInDoubt(t *testing.T) {
	const limit = 3200
	for name, c := range map[string]struct {
		change func(t *testing.T, d *told)
		walks  int64
	}{
		"nothing":          {func(*testing.T, *told) {}, 0},
		"hours":            {func(_ *testing.T, d *told) { d.clock.Advance(2 * time.Hour) }, 1},
		"another clock":    {func(_ *testing.T, d *told) { d.clock.Advance(-2 * time.Hour) }, 1},
		"no trim":          {func(t *testing.T, d *told) { require.NoError(t, os.Remove(filepath.Join(d.dir, "trimmed"))) }, 1},
		"rubbish":          {func(t *testing.T, d *told) { d.write(t, "trimmed", "rubbish") }, 1},
		"begun anew":       {func(t *testing.T, d *told) { require.NoError(t, os.Remove(filepath.Join(d.dir, "added"))) }, 1},
		"very much":        {func(t *testing.T, d *told) { require.NoError(t, os.Truncate(filepath.Join(d.dir, "added"), 2<<30)) }, 1},
		"a sixteenth":      {func(t *testing.T, d *told) { d.write(t, "added", string(make([]byte, limit/16+2))) }, 1},
		"too little space": {func(_ *testing.T, d *told) { d.o.MinFree = 1 << 60 }, 1},
		"no file": {func(t *testing.T, d *told) {
			require.NoError(t, os.Remove(filepath.Join(d.dir, "added")))
			require.NoError(t, os.MkdirAll(filepath.Join(d.dir, "added", "mine"), 0o700))
		}, 1},
		"full": {func(t *testing.T, d *told) {
			d.write(t, "trimmed", books.Stamp{AsOf: d.clock.Now(), Entries: 1, Bytes: d.o.MaxBytes, Told: 2}.String())
		}, 1},
		"a lie": {func(t *testing.T, d *told) {
			d.write(t, "trimmed", books.Stamp{AsOf: d.clock.Now(), Told: 2}.String())
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := newTold(t, limit)
			require.Zero(t, d.process(t, 1))
			require.Zero(t, d.process(t, 1))
			_, err := d.open(t).Trim(bg)
			require.NoError(t, err)
			require.Zero(t, d.process(t, 1))
			c.change(t, d)
			before := d.walks.Load()
			disk := d.open(t)
			err = disk.Add(bg, diskKey(99), diskArtifact(99, 100))
			require.Equal(t, name == "too little space", err != nil)
			require.GreaterOrEqual(t, d.walks.Load()-before, c.walks)
			if c.walks == 0 {
				require.Equal(t, before, d.walks.Load())
			}
			require.NoError(t, disk.Close())
			entries, _ := diskUsage(t, d.dir)
			require.GreaterOrEqual(t, entries, 3, "nothing is deleted without need")
		})
	}
}

func (d *told) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(d.dir, name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	require.NoError(t, os.Chtimes(path, d.clock.Now(), d.clock.Now()))
}

// TestDiskTellsAnew has a trim, and then an Add, find that very much was told.
func TestDiskTellsAnew(t *testing.T) {
	d := newTold(t, 3200)
	long := d.open(t)
	require.NoError(t, long.Add(bg, diskKey(1000), diskArtifact(1, 100)))
	path := filepath.Join(d.dir, "added")
	require.NoError(t, os.Truncate(path, 2<<20))
	_, err := long.Trim(bg)
	require.NoError(t, err)
	require.NoFileExists(t, path)
	require.Zero(t, d.process(t, 1))
	require.NoError(t, long.Add(bg, diskKey(1001), diskArtifact(1, 100)))
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, 2, fi.Size())
	require.NoError(t, long.Close())
	require.Zero(t, d.process(t, 1))
	require.Equal(t, 2, d.open(t).Usage().Entries, "those that were closed have told how many")

	require.NoError(t, os.Truncate(path, 2<<20))
	require.Positive(t, d.process(t, 1))
	require.NoFileExists(t, path)
	require.Zero(t, d.process(t, 1))
}
