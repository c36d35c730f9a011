package modcache_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/books"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/dirfs/dirfstest"
)

// faultScript does a little of everything with a store that may fail at any
// step. It knows what must hold whatever fails.
type faultScript struct {
	t      *testing.T
	what   string
	d      *modcache.Disk
	clock  *diskClock
	sync   bool // every Add
	events *diskEvents
	added  map[uint64]int // sizes of what Add accepted and nothing took away
}

func (s *faultScript) add(n uint64, size int) {
	s.clock.Advance(time.Minute) // or the order of eviction is a matter of names
	if err := s.d.Add(bg, diskKey(n), diskArtifact(n, size)); err == nil {
		s.added[n] = size
	}
}

func (s *faultScript) get(n uint64, size int) {
	a, ok, err := s.d.Get(bg, diskKey(n))
	require.False(s.t, ok && err != nil, s.what)
	if !ok {
		return
	}
	defer a.Close()
	b, err := a.Bytes()
	if err == nil {
		require.True(s.t, string(diskCode(n, size)) == string(b), "%s: wrong bytes", s.what)
	}
	require.NotErrorIs(s.t, err, modcache.ErrCorrupt, s.what)
}

// evicted returns the keys that were taken away to make room.
func (s *faultScript) evicted() map[modcache.Key]bool {
	keys := make(map[modcache.Key]bool)
	for _, e := range s.events.list(modcache.EventEvicted) {
		if e.Reason == modcache.ReasonByteLimit {
			keys[e.Key] = true
		}
	}
	return keys
}

const scriptLimit = 53 * block

func (s *faultScript) run() {
	const small, big = 3000, 70_000
	s.add(1, small)
	s.get(1, small)
	s.add(2, big)
	s.get(2, big)
	s.get(3, small)
	if unlock, err := s.d.Lock(bg, diskKey(3)); err == nil {
		unlock()
	}
	s.add(3, small)
	before := s.d.DurabilityReport()
	if !s.sync {
		require.Equal(s.t, len(s.added)-len(s.evicted()), before.Pending, s.what)
	}
	err := s.d.Flush(bg)
	after := s.d.DurabilityReport()
	require.Equal(s.t, err == nil, after.Durable, "%s: %v", s.what, err)
	require.Equal(s.t, err, after.LastError)
	s.add(4, big)
	s.add(5, big) // evicts 1 and 2, or others if these can't be removed
	if err := s.d.Delete(bg, diskKey(3)); err == nil {
		s.get(3, small)
		delete(s.added, 3)
	}
	_, _ = s.d.Trim(bg)
	_, _ = s.d.Verify(bg)
	s.get(4, big)
	s.get(5, big)
}

// settle checks the store after the faults have ended.
func (s *faultScript) settle(dir string) {
	m := s.d.Metrics()
	require.Equal(s.t, m.Lookups, m.Hits+m.Misses, s.what)
	require.Zero(s.t, m.Corrupt, "%s: a fault is no damage", s.what)
	evicted := s.evicted()
	require.LessOrEqual(s.t, len(evicted), 4, s.what)
	for n, size := range s.added {
		if evicted[diskKey(n)] {
			continue
		}
		_, ok, err := s.d.Stat(bg, diskKey(n))
		if !ok && err == nil { // by a trim in the background, which tells of it afterwards
			require.Eventually(s.t, func() bool { return s.evicted()[diskKey(n)] }, time.Minute, time.Millisecond, "%s: %d is lost", s.what, n)
			continue
		}
		require.NoError(s.t, err, "%s: %d", s.what, n)
		requireHit(s.t, s.d, diskKey(n), diskCode(n, size))
	}
	require.NoError(s.t, s.d.Flush(bg), s.what)
	require.True(s.t, s.d.DurabilityReport().Durable, s.what)

	if !strings.Contains(s.what, "of remove") {
		temps, err := filepath.Glob(filepath.Join(dir, "tmp", "*"))
		require.NoError(s.t, err)
		require.Empty(s.t, temps, "%s: temporary files are left for others to reap", s.what)
	}
	s.clock.Advance(2 * time.Hour)
	_, _ = s.d.Trim(bg) // joins one in the background that met the fault
	r, err := s.d.Trim(bg)
	require.NoError(s.t, err, s.what)
	entries, bytes := diskUsage(s.t, dir)
	require.Equal(s.t, entries, r.Entries, s.what)
	require.Equal(s.t, bytes, r.Bytes, s.what)
	require.LessOrEqual(s.t, bytes, int64(scriptLimit), s.what)
	temps, err := filepath.Glob(filepath.Join(dir, "tmp", "*"))
	require.NoError(s.t, err)
	require.Empty(s.t, temps, "%s: temporary files are left", s.what)

	for _, n := range []uint64{1, 2, 3, 4, 5} { // everything works again
		require.NoError(s.t, s.d.Add(bg, diskKey(n), diskArtifact(n, 1000)), s.what)
	}
}

// TestDiskUnderFaults fails each operation of each kind in turn, once and from
// then on.
func TestDiskUnderFaults(t *testing.T) {
	kinds := map[error][]dirfstest.Op{
		syscall.EIO:    dirfstest.Ops,
		syscall.ENOSPC: {dirfstest.Open, dirfstest.Mkdir, dirfstest.Rename, dirfstest.Write, dirfstest.Alloc, dirfstest.Sync, dirfstest.Close},
		syscall.EMFILE: {dirfstest.Open, dirfstest.ReadDir, dirfstest.SyncDir},
		syscall.EACCES: {dirfstest.Open, dirfstest.Rename, dirfstest.Remove},
	}
	runs, step := 0, 1
	if cachetest.RaceEnabled {
		step = 4 // which is enough to see races
	}
	for errno, ops := range kinds {
		for _, op := range ops {
			for _, forever := range []bool{false, true} {
				for _, sync := range []bool{false, true} {
					if sync && op != dirfstest.Sync && op != dirfstest.SyncDir && op != dirfstest.Rename {
						continue
					}
					for n, fired := 1, 1; fired > 0; n += step {
						what := fmt.Sprintf("%v of %s %d, forever %v, sync %v", errno, op, n, forever, sync)
						fail := func(o dirfstest.Op, i int) error {
							if o == op && (i == n || forever && i > n) {
								return errno
							}
							return nil
						}
						runs++
						// A subtest cleans up before the next one.
						if !t.Run("", func(t *testing.T) { fired = runFaultScript(t, what, sync, fail) }) {
							return
						}
					}
				}
			}
		}
	}
	t.Logf("%d runs", runs)
}

func runFaultScript(t *testing.T, what string, sync bool, fail func(dirfstest.Op, int) error) (fired int) {
	dir := memDir(t)
	clock, events := newDiskClock(), new(diskEvents)
	var faulty *dirfstest.Faulty
	d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS {
		faulty = dirfstest.NewFaulty(tree, fail)
		return faulty
	}, &modcache.DiskOptions{MaxBytes: scriptLimit, Now: clock.Now, OnEvent: events.observe, SyncEveryAdd: sync})
	if err != nil {
		return faulty.Heal()
	}
	defer d.Close()
	s := &faultScript{t: t, what: what, d: d, clock: clock, sync: sync, events: events, added: make(map[uint64]int)}
	s.run()
	fired = faulty.Heal()
	s.settle(dir)
	return fired
}

// TestDiskTransientErrorsDeleteNothing reads a sound entry through a file
// system that fails in each way in which reading can.
func TestDiskTransientErrorsDeleteNothing(t *testing.T) {
	for _, op := range []dirfstest.Op{dirfstest.Open, dirfstest.Stat, dirfstest.Read} {
		for _, size := range []int{100, 200_000} {
			dir := t.TempDir()
			var events diskEvents
			var faulty *dirfstest.Faulty
			var broken atomic.Bool // a trim in the background may ask at any time
			d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS {
				faulty = dirfstest.NewFaulty(tree, func(o dirfstest.Op, _ int) error {
					if broken.Load() && o == op {
						return syscall.EIO
					}
					return nil
				})
				return faulty
			}, &modcache.DiskOptions{OnEvent: events.observe})
			require.NoError(t, err)
			_, err = d.Trim(bg) // lets the one in the background finish before broken is written
			require.NoError(t, err)
			require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, size)))
			held, ok, err := d.Get(bg, diskKey(1))
			require.NoError(t, err)
			require.True(t, ok)

			broken.Store(true)
			events.take(0)
			_, ok, err = d.Get(bg, diskKey(1))
			require.ErrorIs(t, err, syscall.EIO)
			require.False(t, ok)
			require.Equal(t, modcache.ReasonIO, events.all[1].Reason)
			require.Len(t, events.take(modcache.EventStoreFailed), 1)
			if op == dirfstest.Read && !held.InMemory() {
				_, err = held.Bytes()
				require.ErrorIs(t, err, syscall.EIO)
			}
			broken.Store(false)
			requireHit(t, d, diskKey(1), diskCode(1, size))
			require.Zero(t, d.Metrics().Corrupt)
			require.NoError(t, held.Close())
			require.NoError(t, d.Close())
		}
	}
}

func TestDiskEvictsWhenTheFileSystemIsFull(t *testing.T) {
	var full atomic.Bool
	dir := t.TempDir()
	trimmed, err := modcache.OpenDisk(dir, nil)
	require.NoError(t, err)
	_, err = trimmed.Trim(bg) // or else one in the background may share its walk, which has seen nothing
	require.NoError(t, err)
	require.NoError(t, trimmed.Close())
	var faulty *dirfstest.Faulty
	d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS {
		faulty = dirfstest.NewFaulty(tree, func(o dirfstest.Op, n int) error {
			if o == dirfstest.Write && full.Load() {
				return syscall.ENOSPC
			}
			return nil
		})
		return faulty
	}, &modcache.DiskOptions{MaxAge: -1, OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventEvicted {
			full.Store(false)
		}
	}})
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 1000)))
	full.Store(true)
	require.NoError(t, d.Add(bg, diskKey(2), diskArtifact(2, 1000)))
	requireMiss(t, d, diskKey(1))
	requireHit(t, d, diskKey(2), diskCode(2, 1000))
}

// TestDiskEvictsForADirectory has a file system that is full when the entry's directory is to be made.
func TestDiskEvictsForADirectory(t *testing.T) {
	var full atomic.Bool
	d, err := modcache.OpenDiskOn(t.TempDir(), func(tree dirfs.FS) dirfs.FS {
		return dirfstest.NewFaulty(tree, func(o dirfstest.Op, _ int) error {
			if o == dirfstest.Mkdir && full.Swap(false) {
				return syscall.ENOSPC
			}
			return nil
		})
	}, &modcache.DiskOptions{MaxAge: -1})
	require.NoError(t, err)
	defer d.Close()
	_, err = d.Trim(bg)
	require.NoError(t, err)
	first, second := modcache.Key{0x10}, modcache.Key{0x20}
	require.NoError(t, d.Add(bg, first, diskArtifact(1, 1000)))
	full.Store(true)
	require.NoError(t, d.Add(bg, second, diskArtifact(2, 1000)))
	requireMiss(t, d, first)
	requireHit(t, d, second, diskCode(2, 1000))
}

// TestDiskFileSystemThatComesBack finds what is there after its server died and a new one has the same
// files, though nobody adds anything.
func TestDiskFileSystemThatComesBack(t *testing.T) {
	for _, readOnly := range []bool{true, false} {
		dir := t.TempDir()
		d, err := modcache.OpenDisk(dir, nil)
		require.NoError(t, err)
		require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 1000)))
		require.NoError(t, d.Close())

		clock := newDiskClock()
		var server atomic.Int32
		d, err = modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS {
			mounted := server.Load()
			return dirfstest.NewFaulty(tree, func(dirfstest.Op, int) error {
				if server.Load() != mounted {
					return syscall.ENOTCONN
				}
				return nil
			})
		}, &modcache.DiskOptions{ReadOnly: readOnly, Now: clock.Now})
		require.NoError(t, err)
		requireHit(t, d, diskKey(1), diskCode(1, 1000))
		for range 2 {
			server.Add(1)
			clock.Advance(time.Minute)
			requireHit(t, d, diskKey(1), diskCode(1, 1000))
		}
		require.NoError(t, d.Close())
	}
}

// TestDiskQuarantineThatFails heals an entry that can't be moved away.
func TestDiskQuarantineThatFails(t *testing.T) {
	const size = 200_000
	dir := t.TempDir()
	var faulty *dirfstest.Faulty
	var broken atomic.Bool // a trim in the background may ask at any time
	d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS {
		faulty = dirfstest.NewFaulty(tree, func(o dirfstest.Op, _ int) error {
			if broken.Load() && (o == dirfstest.Rename || o == dirfstest.Remove) {
				return syscall.EACCES
			}
			return nil
		})
		return faulty
	}, nil)
	require.NoError(t, err)
	defer d.Close()
	_, err = d.Trim(bg)
	require.NoError(t, err)
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, size)))
	file := entryFile(t, dir, diskKey(1))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	b[len(b)-1] ^= 1 // the header stays sound
	require.NoError(t, os.WriteFile(file, b, 0o600))

	broken.Store(true)
	a, ok, err := d.Get(bg, diskKey(1))
	require.NoError(t, err)
	require.True(t, ok)
	_, err = a.Bytes()
	require.ErrorIs(t, err, modcache.ErrCorrupt)
	require.NoError(t, a.Close())
	requireMiss(t, d, diskKey(1))
	broken.Store(false)
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, size)))
	requireHit(t, d, diskKey(1), diskCode(1, size))
}

// freeSpace is a file system that has as much free space as it is told.
type freeSpace struct {
	dirfs.FS
	free atomic.Int64
}

func (f *freeSpace) Space() (free, total int64, err error) { return f.free.Load(), 1 << 40, nil }

// TestDiskAddThatKeepsAll fails rather than have anything evicted, which is what a server that signs wants.
func TestDiskAddThatKeepsAll(t *testing.T) {
	const minFree, size = 1 << 20, 100_000
	var tree freeSpace
	tree.free.Store(1 << 30)
	var full atomic.Bool
	d, err := modcache.OpenDiskOn(t.TempDir(), func(real dirfs.FS) dirfs.FS {
		tree.FS = dirfstest.NewFaulty(real, func(op dirfstest.Op, _ int) error {
			if op == dirfstest.Write && full.Load() {
				return syscall.ENOSPC
			}
			return nil
		})
		return &tree
	}, &modcache.DiskOptions{MinFree: minFree, MaxBytes: 3 * onDisk(size)})
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, size)))
	_, err = d.Trim(bg)
	require.NoError(t, err)
	ctx := books.KeepAll(bg)
	refused := func(what string) {
		require.Error(t, d.Add(ctx, diskKey(2), diskArtifact(2, size)), what)
		require.Error(t, d.Replace(ctx, diskKey(2), diskArtifact(2, size)), what)
		requireHit(t, d, diskKey(1), diskCode(1, size))
		require.Zero(t, d.Metrics().Evictions, what)
	}
	tree.free.Store(minFree + size/2)
	refused("within one entry of MinFree")
	tree.free.Store(1 << 30)
	full.Store(true)
	refused("a full file system")
	full.Store(false)
	require.NoError(t, d.Add(ctx, diskKey(2), diskArtifact(2, size)))
	require.NoError(t, d.Add(ctx, diskKey(3), diskArtifact(3, size)))
	require.ErrorContains(t, d.Add(ctx, diskKey(4), diskArtifact(4, size)), "nothing is to be dropped", "within one entry of MaxBytes")
	require.Zero(t, d.Metrics().Evictions)
	require.NoError(t, d.Add(bg, diskKey(4), diskArtifact(4, size)))
	require.EqualValues(t, 1, d.Metrics().Evictions)
}

// slowToFree is a file system that takes until it is told so to remove an entry.
type slowToFree struct {
	freeSpace
	release chan struct{}
	removed atomic.Int64
	vain    atomic.Int64 // how many of those free nothing, at once
}

func (s *slowToFree) Remove(name string) error {
	if filepath.Ext(name) == ".v1" && s.removed.Add(1) > s.vain.Load() {
		<-s.release
		s.free.Add(block)
	}
	return s.FS.Remove(name)
}

// openSlowToFree opens a Disk with so many entries on such a file system, which has no more space than is to be left free.
func openSlowToFree(t *testing.T, entries, minFree int64) (*modcache.Disk, *slowToFree) {
	t.Helper()
	tree := &slowToFree{release: make(chan struct{})}
	tree.free.Store(1 << 30)
	d, err := modcache.OpenDiskOn(t.TempDir(), func(real dirfs.FS) dirfs.FS {
		tree.FS = real
		return tree
	}, &modcache.DiskOptions{MinFree: minFree, MaxBytes: -1})
	require.NoError(t, err)
	for i := range uint64(entries) {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, 1000)))
	}
	_, err = d.Trim(bg)
	require.NoError(t, err)
	tree.free.Store(minFree)
	return d, tree
}

// TestDiskWaitsForSpaceAsLongAsOthersMakeIt has several evictions under way, which end
// one by one. The space that the last Add wants is there after all of them.
func TestDiskWaitsForSpaceAsLongAsOthersMakeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const evicting, entries, minFree = 3, 90, 1 << 20
		d, tree := openSlowToFree(t, entries, minFree)
		defer d.Close()
		errs := make(chan error, evicting+1)
		add := func(i uint64, blocks int) { errs <- d.Add(bg, diskKey(i), diskArtifact(i, blocks*block-frameOverhead)) }
		for i := range evicting {
			go add(uint64(100+i), i+1)
			synctest.Wait()
		}
		require.EqualValues(t, evicting, tree.removed.Load())
		go add(200, evicting)
		synctest.Wait()
		for range evicting {
			tree.release <- struct{}{}
			synctest.Wait()
		}
		for range evicting + 1 {
			require.NoError(t, <-errs)
		}
		require.EqualValues(t, evicting, tree.removed.Load())
	})
}

// TestDiskEvictsNoMoreThanIsMissing: what was evicted first freed nothing, and then somebody else has made the space.
func TestDiskEvictsNoMoreThanIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const entries, minFree, missing = 480, 1 << 20, 10
		d, tree := openSlowToFree(t, entries, minFree)
		defer d.Close()
		tree.vain.Store(1)
		errs := make(chan error, 2)
		go func() { errs <- d.Add(bg, diskKey(1000), diskArtifact(1000, 1000)) }()
		synctest.Wait() // it gives the file system time to free what it evicted
		go func() { errs <- d.Add(bg, diskKey(1001), diskArtifact(1001, missing*block-frameOverhead)) }()
		synctest.Wait()
		time.Sleep(time.Second)
		close(tree.release)
		require.NoError(t, <-errs)
		require.NoError(t, <-errs)
		require.EqualValues(t, 1+missing, tree.removed.Load())
	})
}

// TestDiskMakesSpaceForEachOnAFullFileSystem has two Adds meet a full file system at once.
// What one evicts makes no space for the other.
func TestDiskMakesSpaceForEachOnAFullFileSystem(t *testing.T) {
	var full atomic.Bool
	evicting, release := make(chan modcache.Key, 2), make(chan struct{})
	dir := t.TempDir()
	openTrimmed(t, dir, nil)
	d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS {
		return dirfstest.NewFaulty(tree, func(o dirfstest.Op, _ int) error {
			if o == dirfstest.Write && full.Load() {
				return syscall.ENOSPC
			}
			return nil
		})
	}, &modcache.DiskOptions{OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventEvicted {
			full.Store(false)
			evicting <- e.Key
			<-release
		}
	}})
	require.NoError(t, err)
	defer d.Close()
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

// TestDiskEvictsInVainOnce keeps entries on a file system whose free space doesn't grow when
// they are removed: a snapshot has them, or they are freed later.
func TestDiskEvictsInVainOnce(t *testing.T) {
	const size, entries, minFree = 1000, 80, 1 << 30
	dir := filepath.Join(t.TempDir(), "cache")
	clock := newDiskClock()
	var tree freeSpace
	o := &modcache.DiskOptions{MinFree: minFree, MaxBytes: 2 * entries * block, Now: clock.Now}
	open := func() *modcache.Disk {
		d, err := modcache.OpenDiskOn(dir, func(real dirfs.FS) dirfs.FS {
			tree.FS = real
			return &tree
		}, o)
		require.NoError(t, err)
		t.Cleanup(func() { _ = d.Close() })
		return d
	}
	left := func() int {
		n, _ := diskUsage(t, dir)
		return n
	}
	tree.free.Store(1 << 40)
	openTrimmed(t, dir, o)
	d := open()
	for i := range uint64(entries) {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, size)))
		clock.Advance(time.Second)
	}
	require.NoError(t, d.Close())

	const missing = entries / 2 * block
	tree.free.Store(minFree - missing)
	for range 20 { // hours
		d := open()
		require.Error(t, d.Add(bg, diskKey(1000), diskArtifact(1000, size)))
		_, err := d.Trim(bg)
		require.NoError(t, err)
		plan, _, err := d.PlanTrim(bg)
		require.NoError(t, err)
		require.Empty(t, plan)
		require.NoError(t, d.Close())
		require.InDelta(t, entries-entries/8, left(), 3, "an eighth, in three parts")
		tree.free.Add(-1) // others write a little
		clock.Advance(time.Hour)
	}
	d = open()
	r, err := d.Trim(bg)
	require.NoError(t, err)
	require.Zero(t, r.Evicted)
	tree.free.Store(minFree - missing + entries/8*block) // freed at last: there is more to gain
	r, err = d.Trim(bg)
	require.NoError(t, err)
	require.NotZero(t, r.Evicted)
	before := left()
	clock.Advance(25 * time.Hour)
	_, err = d.Trim(bg)
	require.NoError(t, err)
	require.InDelta(t, before-before/8, left(), 3, "it is tried once a day")
	tree.free.Store(minFree + 2*block)
	require.NoError(t, d.Add(bg, diskKey(1000), diskArtifact(1000, size)))
}

// TestDiskBelievesNoLongFutility finds a hint that evicting is of no use, as a clock that was wrong leaves it, or
// somebody who wants that.
func TestDiskBelievesNoLongFutility(t *testing.T) {
	const size, minFree = 1000, 1 << 30
	clock := newDiskClock()
	for name, futile := range map[string]books.Futile{
		"years":              {Free: 1 << 39, Until: clock.Now().AddDate(100, 0, 0)},
		"more than there is": {Free: 1 << 41, Until: clock.Now().Add(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			stamp := books.Stamp{AsOf: clock.Now(), Futile: futile}
			require.NoError(t, os.WriteFile(filepath.Join(dir, "trimmed"), []byte(stamp.String()), 0o600))
			var tree freeSpace
			tree.free.Store(1 << 40)
			d, err := modcache.OpenDiskOn(dir, func(real dirfs.FS) dirfs.FS {
				tree.FS = real
				return &tree
			}, &modcache.DiskOptions{MinFree: minFree, Now: clock.Now})
			require.NoError(t, err)
			defer d.Close()
			for i := range uint64(8) {
				require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, size)))
			}
			tree.free.Store(minFree - 1)
			r, err := d.Trim(bg)
			require.NoError(t, err)
			require.NotZero(t, r.Evicted)
		})
	}
}

// crowded is a file system on which others write as much as is removed, as often as crowd says.
type crowded struct {
	freeSpace
	crowd  atomic.Int64
	faster atomic.Int64 // so many are removed by others a moment before
}

func (c *crowded) Remove(name string) error {
	if filepath.Ext(name) != ".v1" {
		return c.FS.Remove(name)
	}
	if c.faster.Add(-1) >= 0 {
		_ = c.FS.Remove(name)
	} else if c.crowd.Add(-1) < 0 {
		c.free.Add(2 * block)
	}
	return c.FS.Remove(name)
}

// TestDiskEvictsBesideOthers, who take what was freed, or were there before: neither makes evicting futile.
func TestDiskEvictsBesideOthers(t *testing.T) {
	const size, entries, minFree = 1000, 80, 1 << 30
	var tree crowded
	tree.free.Store(1 << 40)
	d, err := modcache.OpenDiskOn(t.TempDir(), func(real dirfs.FS) dirfs.FS {
		tree.FS = real
		return &tree
	}, &modcache.DiskOptions{MinFree: minFree, MaxBytes: 2 * entries * block})
	require.NoError(t, err)
	defer d.Close()
	for i := range uint64(entries) {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, size)))
	}
	_, err = d.Trim(bg)
	require.NoError(t, err)
	for i, others := range []struct{ crowd, faster int64 }{{1, 0}, {1, 0}, {2, 0}, {0, 1}, {0, 20}, {1, 5}} {
		tree.free.Store(minFree)
		tree.crowd.Store(others.crowd)
		tree.faster.Store(others.faster)
		require.NoError(t, d.Add(bg, diskKey(1000+uint64(i)), diskArtifact(uint64(i), size)), "%+v", others)
	}
}

// silent is a file system that says nothing of its space, in the form of zeros.
type silent struct{ dirfs.FS }

func (silent) Space() (free, total int64, err error) { return 0, 0, nil }

func TestDiskOnAFileSystemThatSaysNothingOfItsSpace(t *testing.T) {
	d, err := modcache.OpenDiskOn(t.TempDir(), func(tree dirfs.FS) dirfs.FS { return silent{tree} }, nil)
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
	require.NoError(t, d.Add(bg, diskKey(2), diskArtifact(2, 100)))
	requireHit(t, d, diskKey(1), diskCode(1, 100))
}
