package modcache_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/layout"
)

const (
	frameOverhead = 400 // more than a header takes
	block         = 4096
)

// onDisk returns what the entry of an artifact of size bytes takes.
func onDisk(size int) int64 { return int64((size + frameOverhead + block - 1) / block * block) }

func diskUsage(t testing.TB, dir string) (entries int, bytes int64) {
	t.Helper()
	for _, file := range entryFiles(t, dir) {
		if fi, err := os.Stat(file); err == nil {
			bytes += dirfs.Taken(fi)
			entries++
		}
	}
	return entries, bytes
}

func TestDiskEvictsWhatWasUsedLongestAgo(t *testing.T) {
	const size, room = 10_000, 5
	clock := newDiskClock()
	var events diskEvents
	dir := t.TempDir()
	d := openDisk(t, dir, &modcache.DiskOptions{MaxBytes: room * onDisk(size), Now: clock.Now, OnEvent: events.observe})
	for i := range uint64(room) {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, size)))
		clock.Advance(time.Hour)
	}
	requireHit(t, d, diskKey(0), diskCode(0, size)) // the oldest is used again
	clock.Advance(time.Hour)
	for i := uint64(room); i < room+2; i++ {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, size)))
		clock.Advance(time.Hour)
	}
	evicted := events.take(modcache.EventEvicted)
	require.Len(t, evicted, 2)
	for i, ev := range evicted {
		require.Equal(t, diskKey(uint64(i+1)), ev.Key)
		require.Equal(t, modcache.ReasonByteLimit, ev.Reason)
		require.Equal(t, 5*time.Hour, ev.Duration)
	}
	requireMiss(t, d, diskKey(1))
	requireMiss(t, d, diskKey(2))
	for _, i := range []uint64{0, 3, 4, 5, 6} {
		requireHit(t, d, diskKey(i), diskCode(i, size))
	}
	m := d.Metrics()
	entries, bytes := diskUsage(t, dir)
	require.EqualValues(t, entries, m.Entries)
	require.EqualValues(t, bytes, m.Bytes)
	require.EqualValues(t, 2, m.Evictions)
}

// stoppedWalk is a file system in which a walk stops before the last shard.
type stoppedWalk struct {
	dirfs.FS
	stop chan struct{}
}

func (s stoppedWalk) ReadDir(name string) ([]fs.FileInfo, error) {
	if name == "f" {
		<-s.stop
	}
	return s.FS.ReadDir(name)
}

// TestDiskEvictsWhatAWalkHasMissed adds an entry during a walk, and then one that leaves no room for it.
func TestDiskEvictsWhatAWalkHasMissed(t *testing.T) {
	const limit = 16 * block
	dir := t.TempDir()
	requireTrimmed(t, dir)
	synctest.Test(t, func(t *testing.T) {
		tree := stoppedWalk{stop: make(chan struct{}, 1)}
		d, err := modcache.OpenDiskOn(dir, func(real dirfs.FS) dirfs.FS { tree.FS = real; return tree }, &modcache.DiskOptions{MaxBytes: limit})
		require.NoError(t, err)
		defer d.Close()
		defer close(tree.stop)
		go func() { _, _ = d.Trim(bg) }()
		tree.stop <- struct{}{}
		synctest.Wait()
		go func() { _, _ = d.Trim(bg) }()
		synctest.Wait()
		require.NoError(t, d.Add(bg, modcache.Key{}, diskArtifact(1, 100)))
		added := make(chan error)
		go func() { added <- d.Add(bg, modcache.Key{0x10}, diskArtifact(2, limit-frameOverhead)) }()
		synctest.Wait()
		tree.stop <- struct{}{} // for the walk that both wait for
		tree.stop <- struct{}{}
		require.NoError(t, <-added)
		requireMiss(t, d, modcache.Key{})
	})
}

func TestDiskAcceptsWhatFits(t *testing.T) {
	const limit = 25 * block
	dir := t.TempDir()
	d := openDisk(t, dir, &modcache.DiskOptions{MaxBytes: limit})
	require.ErrorIs(t, d.Add(bg, diskKey(1), diskArtifact(1, limit)), modcache.ErrTooLarge)
	require.EqualValues(t, 1, d.Metrics().RejectedAdds)
	require.NoError(t, d.Add(bg, diskKey(2), diskArtifact(2, 1000)))
	require.NoError(t, d.Add(bg, diskKey(3), diskArtifact(3, limit-frameOverhead)))
	requireHit(t, d, diskKey(3), diskCode(3, limit-frameOverhead))
	requireMiss(t, d, diskKey(2))
}

// TestDiskBoundHoldsAtEveryInstant adds from many goroutines while others watch
// the directory.
func TestDiskBoundHoldsAtEveryInstant(t *testing.T) {
	const limit = 200_000
	dir := t.TempDir()
	d := openDisk(t, dir, &modcache.DiskOptions{MaxBytes: limit})
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			// A file that is listed and gone before it is measured counts for nothing,
			// so that this sees at most what there was at some instant.
			if _, bytes := diskUsage(t, dir); bytes > limit+limit/4 {
				t.Errorf("%d bytes, the limit is %d", bytes, limit)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	var adders sync.WaitGroup
	for g := range uint64(4) {
		adders.Go(func() {
			for i := range uint64(60) {
				size := int(1000 + i*457%20_000)
				if err := d.Add(bg, diskKey(g*1000+i), diskArtifact(i, size)); err != nil {
					t.Error(err)
				}
				if bytes := d.Metrics().Bytes; bytes > limit {
					t.Errorf("%d bytes counted, the limit is %d", bytes, limit)
				}
			}
		})
	}
	adders.Wait()
	close(done)
	watcher.Wait()
	_, bytes := diskUsage(t, dir)
	require.LessOrEqual(t, bytes, int64(limit))
}

func TestDiskSharesItsBound(t *testing.T) {
	const limit, disks = 160_000, 4
	dir := t.TempDir()
	var wg sync.WaitGroup
	for g := range uint64(disks) {
		d := openDisk(t, dir, &modcache.DiskOptions{MaxBytes: limit})
		wg.Go(func() {
			for i := range uint64(50) {
				if err := d.Add(bg, diskKey(g*1000+i), diskArtifact(i, 3000)); err != nil {
					t.Error(err)
				}
				if i%10 == 0 {
					if _, err := d.Trim(bg); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	_, bytes := diskUsage(t, dir)
	require.LessOrEqual(t, bytes, int64(limit+disks*limit/16+disks*block))
	r, err := openDisk(t, dir, &modcache.DiskOptions{MaxBytes: limit}).Trim(bg)
	require.NoError(t, err)
	entries, bytes := diskUsage(t, dir)
	require.LessOrEqual(t, bytes, int64(limit))
	require.Equal(t, entries, r.Entries)
	require.Equal(t, bytes, r.Bytes)
	require.Greater(t, bytes, int64(limit/2), "trimming doesn't overdo it")
}

// TestDiskLooksBeforeItAddsTooMuch has processes take turns.
func TestDiskLooksBeforeItAddsTooMuch(t *testing.T) {
	for _, c := range []struct {
		name       string
		size, over int
	}{
		{"small", 1000 - frameOverhead, 10_000},
		{"nearly a sixteenth", 9000, 0},
		{"more than a sixteenth", 30_000, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			const limit = 160_000
			dir := t.TempDir()
			one := openTrimmed(t, dir, &modcache.DiskOptions{MaxBytes: limit})
			other := openTrimmed(t, dir, &modcache.DiskOptions{MaxBytes: limit})
			highest := int64(0)
			for i := range uint64(100) {
				for turn, d := range []*modcache.Disk{one, other, one, other, other} {
					require.NoError(t, d.Add(bg, diskKey(i*5+uint64(turn)), diskArtifact(i, c.size)))
					_, bytes := diskUsage(t, dir)
					highest = max(highest, bytes)
				}
			}
			require.LessOrEqual(t, highest, int64(limit+c.over))
		})
	}
}

// TestDiskKeepsWhatFits lowers the bound to less than the entry that was used last takes.
func TestDiskKeepsWhatFits(t *testing.T) {
	const small, big, entries = 1000, 100_000, 8
	clock := newDiskClock()
	dir := t.TempDir()
	d := openDisk(t, dir, &modcache.DiskOptions{Now: clock.Now})
	for i := range uint64(entries) {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, small)))
		clock.Advance(time.Hour)
	}
	require.NoError(t, d.Add(bg, diskKey(99), diskArtifact(99, big)))
	for _, limit := range []int64{entries * block, (entries - 1) * block, block} {
		r, err := openDisk(t, dir, &modcache.DiskOptions{Now: clock.Now, MaxBytes: limit}).Trim(bg)
		require.NoError(t, err)
		require.EqualValues(t, limit/block, r.Entries)
	}
	requireHit(t, d, diskKey(entries-1), diskCode(entries-1, small))
	requireMiss(t, d, diskKey(99))
}

// TestDiskEvictsVeryManyInParts opens a directory of very many entries with a much lower bound.
func TestDiskEvictsVeryManyInParts(t *testing.T) {
	const entries, once, room = 1100, 1000, 10
	clock := newDiskClock()
	dir := t.TempDir()
	d := openTrimmed(t, dir, &modcache.DiskOptions{Now: clock.Now, MaxBytes: room * block})
	for i := range uint64(entries) {
		file := filepath.Join(dir, layout.Entry(diskKey(i)))
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
		require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
		used := clock.Now().Add(-time.Duration(entries-i) * time.Minute)
		require.NoError(t, os.Chtimes(file, used, used))
	}
	exists := func(i uint64) bool {
		_, err := os.Lstat(filepath.Join(dir, layout.Entry(diskKey(i))))
		return err == nil
	}
	require.NoError(t, d.Add(bg, diskKey(5000), diskArtifact(5000, 100)))
	require.EqualValues(t, once, d.Metrics().Evictions)
	require.False(t, exists(once-1))
	require.True(t, exists(once), "the oldest go first")
	require.NoError(t, d.Add(bg, diskKey(5001), diskArtifact(5001, 100)))
	left, bytes := diskUsage(t, dir)
	require.Equal(t, room, left)
	require.EqualValues(t, room*block, bytes)
	requireHit(t, d, diskKey(5000), diskCode(5000, 100))

	// Who gives up has no more evicted.
	ctx, cancel := context.WithCancel(bg)
	few := openDisk(t, dir, &modcache.DiskOptions{Now: clock.Now, MaxBytes: block, OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventEvicted {
			cancel()
		}
	}})
	_, err := few.Trim(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.EqualValues(t, 1, few.Metrics().Evictions)
	_, err = few.Trim(bg)
	require.NoError(t, err)
	left, _ = diskUsage(t, dir)
	require.Equal(t, 1, left)
}

func TestDiskDropsWhatWentUnused(t *testing.T) {
	clock := newDiskClock()
	dir := t.TempDir()
	d := openDisk(t, dir, &modcache.DiskOptions{MaxAge: 24 * time.Hour, Now: clock.Now})
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
	require.NoError(t, d.Add(bg, diskKey(2), diskArtifact(2, 100)))
	clock.Advance(23 * time.Hour)
	requireHit(t, d, diskKey(1), diskCode(1, 100))
	clock.Advance(2 * time.Hour)
	r, err := d.Trim(bg)
	require.NoError(t, err)
	require.Equal(t, 1, r.Evicted)
	require.Equal(t, 1, r.Entries)
	requireHit(t, d, diskKey(1), diskCode(1, 100))
	requireMiss(t, d, diskKey(2))
}

// TestDiskSurvivesClocks moves the clock far forward and back.
func TestDiskSurvivesClocks(t *testing.T) {
	t.Run("times of files", func(t *testing.T) { survivesClocks(t, func(tree dirfs.FS) dirfs.FS { return tree }) })
	t.Run("times beside files", func(t *testing.T) { survivesClocks(t, func(tree dirfs.FS) dirfs.FS { return union{tree} }) })
}

// union is a file system of layers, where changing a file copies it.
type union struct{ dirfs.FS }

func (union) CopiesUp() bool { return true }

func survivesClocks(t *testing.T, tree func(dirfs.FS) dirfs.FS) {
	const size, room, year = 10_000, 4, 365 * 24 * time.Hour
	clock := newDiskClock()
	dir := t.TempDir()
	o := &modcache.DiskOptions{MaxBytes: room * onDisk(size), Now: clock.Now}
	open := func() *modcache.Disk { // and wait for the trim in the background
		d, err := modcache.OpenDiskOn(dir, tree, o)
		require.NoError(t, err)
		return d
	}
	d := open()
	_, err := d.Trim(bg)
	require.NoError(t, err)
	for i := range uint64(room) {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, size)))
	}
	require.NoError(t, d.Close())

	clock.Advance(year)
	d = open()
	for i := range uint64(room) {
		requireHit(t, d, diskKey(i), diskCode(i, size))
	}
	require.NoError(t, d.Close())

	// Everything is a year ahead of the clock now: it still ages, is used and evicted.
	clock.Advance(-year)
	d = open()
	defer d.Close()
	requireHit(t, d, diskKey(0), diskCode(0, size))
	for i := uint64(room); i < 2*room-1; i++ {
		clock.Advance(time.Minute)
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, size)))
	}
	for i := uint64(1); i < room; i++ {
		requireMiss(t, d, diskKey(i))
	}
	requireHit(t, d, diskKey(0), diskCode(0, size))
	for i := uint64(room); i < 2*room-1; i++ {
		requireHit(t, d, diskKey(i), diskCode(i, size))
	}
}

func TestDiskReapsWhatTheDeadLeft(t *testing.T) {
	clock := newDiskClock()
	dir := t.TempDir()
	d := openTrimmed(t, dir, &modcache.DiskOptions{Now: clock.Now})
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
	unlock, err := d.Lock(bg, diskKey(5))
	require.NoError(t, err)
	defer unlock()
	write := func(name string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
		return path
	}
	key := diskKey(2).String()
	dead := []string{write("tmp/" + key + "-ABCDEFGHIJKLMNOPQRSTUVWXYZ"), write("lock/" + key)}
	strangers := []string{
		write("tmp/notes.txt"), write("lock/mine"), write("quarantine/hello"), write(key[:1] + "/photo.jpg"),
		write(key[:1] + "/" + key + ".bak"), write("letter.txt"), write("g/" + key + ".v1"), write("quarantine/sub/x"),
		write(key[:1] + "/deep/down/" + key + ".v1"), write("tmp/deep/" + key + "-ABCDEFGHIJKLMNOPQRSTUVWXYZ"), write("used/notes.txt"),
	}
	other := write(key[:1] + "/" + key + ".v2") // of a later version of this package

	r, err := d.Trim(bg)
	require.NoError(t, err)
	require.Zero(t, r.Reaped, "too young to be dead")
	early := write("tmp/" + key + "-BCDEFGHIJKLMNOPQRSTUVWXYZA")
	require.NoError(t, os.Chtimes(early, time.Time{}, clock.Now().Add(2*time.Hour)))
	r, err = d.Trim(bg)
	require.NoError(t, err)
	require.Equal(t, 1, r.Reaped, "written under a wrong clock")
	clock.Advance(2 * time.Hour)
	r, err = d.Trim(bg)
	require.NoError(t, err)
	require.Equal(t, 2, r.Reaped)
	for _, path := range dead {
		require.NoFileExists(t, path)
	}
	require.FileExists(t, filepath.Join(dir, "lock", diskKey(5).String()), "somebody holds it")
	require.Equal(t, 2, r.Entries)
	require.FileExists(t, other)

	clock.Advance(60 * 24 * time.Hour)
	r, err = d.Trim(bg)
	require.NoError(t, err)
	require.Zero(t, r.Entries)
	require.NoFileExists(t, other, "other versions age out too")
	for _, path := range strangers {
		require.FileExists(t, path)
	}
}

func TestDiskEvictionSparesReaders(t *testing.T) {
	const size = 200_000
	d := openDisk(t, t.TempDir(), &modcache.DiskOptions{MaxBytes: onDisk(size)})
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, size)))
	a, ok, err := d.Get(bg, diskKey(1))
	require.NoError(t, err)
	require.True(t, ok)
	defer a.Close()
	require.NoError(t, d.Add(bg, diskKey(2), diskArtifact(2, size)))
	requireMiss(t, d, diskKey(1))
	b, err := a.Bytes()
	require.NoError(t, err)
	require.Equal(t, diskCode(1, size), b)
}

// afterRename does something when a file has its new name.
type afterRename struct {
	dirfs.FS
	then func()
}

func (a *afterRename) Rename(from, to string) error {
	err := a.FS.Rename(from, to)
	if err == nil {
		a.then()
	}
	return err
}

// TestDiskTrimSparesWhatIsBeingAdded has a trim find an entry before Add knows that it is there.
func TestDiskTrimSparesWhatIsBeingAdded(t *testing.T) {
	const size = 100_000
	o := &modcache.DiskOptions{MaxBytes: onDisk(size)}
	dir, tree := t.TempDir(), &afterRename{}
	openTrimmed(t, dir, o) // so that none begins by itself
	d, err := modcache.OpenDiskOn(dir, func(real dirfs.FS) dirfs.FS {
		tree.FS = real
		return tree
	}, o)
	require.NoError(t, err)
	defer d.Close()
	tree.then = func() {
		r, err := d.Trim(bg)
		require.NoError(t, err)
		require.Equal(t, 1, r.Entries)
	}
	for i := range uint64(3) {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, size)))
		requireHit(t, d, diskKey(i), diskCode(i, size))
	}
	require.EqualValues(t, 2, d.Metrics().Evictions)
}

func TestDiskKeepsSpaceFree(t *testing.T) {
	d := openDisk(t, t.TempDir(), &modcache.DiskOptions{MinFree: 1 << 60})
	require.Error(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
	require.EqualValues(t, 1, d.Metrics().RejectedAdds)
	requireMiss(t, d, diskKey(1))
}

// TestDiskThatBoundsNothingDropsNothingUnasked opens Disks on a file system that is too full, a day after the last trim.
func TestDiskThatBoundsNothingDropsNothingUnasked(t *testing.T) {
	for name, o := range map[string]modcache.DiskOptions{"bounded": {}, "unbounded": {MaxBytes: -1, MaxAge: -1}} {
		t.Run(name, func(t *testing.T) {
			clock := newDiskClock()
			dir := t.TempDir()
			filler := openTrimmed(t, dir, &modcache.DiskOptions{Now: clock.Now})
			for i := range uint64(3) {
				require.NoError(t, filler.Add(bg, diskKey(i), diskArtifact(i, 1000)))
			}
			clock.Advance(24 * time.Hour)
			o.Now, o.MinFree = clock.Now, 1<<20
			d, err := modcache.OpenDiskOn(dir, func(real dirfs.FS) dirfs.FS {
				tree := &freeSpace{FS: real}
				tree.free.Store(o.MinFree - 1)
				return tree
			}, &o)
			require.NoError(t, err)
			defer d.Close()
			require.NoError(t, waitForTrim(d, dir, clock.Now()))
			require.Equal(t, o.MaxBytes == 0, d.Metrics().Evictions > 0)
			_, err = d.Trim(bg)
			require.NoError(t, err)
			require.Positive(t, d.Metrics().Evictions, "asked to")
		})
	}
}

func TestDiskInADirectoryThatIsDeleted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	requireTrimmed(t, dir)
	d := openDisk(t, dir, nil)
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		require.NoError(t, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	requireMiss(t, d, diskKey(1))
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
	requireHit(t, d, diskKey(1), diskCode(1, 100))

	require.NoError(t, os.RemoveAll(dir))
	requireMiss(t, d, diskKey(1))
	_, err = d.Trim(bg)
	require.NoError(t, err)
	require.NoDirExists(t, dir, "only an Add makes it anew")
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
	requireHit(t, d, diskKey(1), diskCode(1, 100))
}

// TestDiskSparesWhatOthersUse uses an entry after it was chosen to go next.
func TestDiskSparesWhatOthersUse(t *testing.T) {
	const size, room = 1000, 40
	clock := newDiskClock()
	dir := t.TempDir()
	o := &modcache.DiskOptions{MaxBytes: room * onDisk(size), Now: clock.Now}
	d := openDisk(t, dir, o)
	var added uint64
	for ; d.Metrics().Evictions == 0; added++ {
		require.NoError(t, d.Add(bg, diskKey(added), diskArtifact(added, size)))
		clock.Advance(time.Hour)
	}
	_, err := d.Trim(bg) // looks at all of them: 1 is the next, 0 has gone
	require.NoError(t, err)
	// Opened now, it has no reason for a trim in the background, which would take the
	// file of an Add for a dead one's while this clock leaps.
	other := openDisk(t, dir, o)
	requireHit(t, other, diskKey(1), diskCode(1, size))
	require.NoError(t, d.Add(bg, diskKey(added), diskArtifact(added, size)))
	requireHit(t, other, diskKey(1), diskCode(1, size))
	requireMiss(t, other, diskKey(2))
}

// TestDiskPlansWhatTrimDoes compares plans, of a Disk that changes nothing, with trims.
func TestDiskPlansWhatTrimDoes(t *testing.T) {
	const size, entries = 1000, 12
	for name, o := range map[string]modcache.DiskOptions{
		"nothing": {},
		"bytes":   {MaxBytes: 7 * onDisk(size)},
		"age":     {MaxAge: 4 * time.Hour},
		"both":    {MaxAge: 10 * time.Hour, MaxBytes: 4 * onDisk(size)},
		"nearly":  {MaxBytes: 1},
		"space":   {MinFree: 1 << 60},
	} {
		t.Run(name, func(t *testing.T) {
			clock := newDiskClock()
			dir := t.TempDir()
			filler := openDisk(t, dir, &modcache.DiskOptions{Now: clock.Now})
			for i := range uint64(entries) {
				require.NoError(t, filler.Add(bg, diskKey(i), diskArtifact(i, size)))
				clock.Advance(time.Hour)
			}
			file := entryFile(t, dir, diskKey(3))
			require.NoError(t, os.Rename(file, strings.TrimSuffix(file, ".v1")+".v2"))
			_, err := filler.Trim(bg) // none is due in the background after this
			require.NoError(t, err)

			var events diskEvents
			o.Now, o.OnEvent = clock.Now, events.observe
			reader := o
			reader.ReadOnly = true
			plan, foreseen, err := openDisk(t, dir, &reader).PlanTrim(bg)
			require.NoError(t, err)
			require.Len(t, entryFiles(t, dir), entries, "a plan changes nothing")

			r, err := openDisk(t, dir, &o).Trim(bg)
			require.NoError(t, err)
			require.Equal(t, r, foreseen)
			require.Equal(t, name != "nothing" && name != "space", r.Evicted > 0)
			evicted := events.list(modcache.EventEvicted)
			require.Len(t, plan, len(evicted))
			for i, e := range plan {
				require.Equal(t, evicted[i].Key, e.Key)
				require.Equal(t, evicted[i].Bytes, e.Stored)
				if e.Key == diskKey(3) {
					require.ErrorContains(t, e.Err, "another version")
				} else {
					require.Equal(t, diskInfo, e.Info)
				}
			}
		})
	}
	missing := openDisk(t, filepath.Join(t.TempDir(), "missing"), &modcache.DiskOptions{ReadOnly: true})
	plan, r, err := missing.PlanTrim(bg)
	require.NoError(t, err)
	require.Empty(t, plan)
	require.Zero(t, r)
}

// TestDiskTrimsTwiceAtOnce has the trim that is due when a Disk is opened run beside one
// that is asked for. Together they free no more than one of them would.
func TestDiskTrimsTwiceAtOnce(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	for range rounds {
		dir := filepath.Join(t.TempDir(), "cache")
		d, err := modcache.OpenDisk(dir, nil)
		require.NoError(t, err)
		for i := range byte(200) {
			require.NoError(t, d.Add(bg, modcache.Key{i << 4, i}, modcache.NewArtifact(make([]byte, 1000), modcache.Info{Engine: "e"})))
		}
		r, err := d.Trim(bg)
		require.NoError(t, err)
		require.NoError(t, d.Close())
		due := time.Now().Add(-2 * time.Hour)
		require.NoError(t, os.Chtimes(filepath.Join(dir, "trimmed"), due, due))

		d, err = modcache.OpenDisk(dir, &modcache.DiskOptions{MaxBytes: r.Bytes / 2})
		require.NoError(t, err)
		r, err = d.Trim(bg)
		require.NoError(t, err)
		require.NoError(t, d.Close())
		require.GreaterOrEqual(t, r.Entries, 99)
	}
}
