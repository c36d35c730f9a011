package modcache_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/layout"
)

func TestDiskLock(t *testing.T) {
	dir := t.TempDir()
	one, two := openDisk(t, dir, nil), openDisk(t, dir, nil)
	var wg sync.WaitGroup
	var inside, entered atomic.Int64
	for i := range 8 {
		d := []*modcache.Disk{one, two}[i%2]
		wg.Go(func() {
			for range 20 {
				unlock, err := d.Lock(bg, diskKey(1))
				if err != nil {
					t.Error(err)
					return
				}
				entered.Add(1)
				if inside.Add(1) != 1 {
					t.Error("two hold the lock")
				}
				for range 20 { // long enough for another one to come in by mistake
					_, _ = os.Stat(dir)
					runtime.Gosched()
				}
				inside.Add(-1)
				unlock()
				unlock()
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 160, entered.Load())
	left, err := os.ReadDir(filepath.Join(dir, "lock"))
	require.NoError(t, err)
	require.Empty(t, left)

	unlock, err := one.Lock(bg, diskKey(1))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(bg)
	_, err = two.Lock(bg, diskKey(2))
	require.NoError(t, err, "another key")
	time.AfterFunc(5*time.Millisecond, cancel)
	_, err = two.Lock(ctx, diskKey(1))
	require.ErrorIs(t, err, context.Canceled)
	_, err = two.Lock(ctx, diskKey(1))
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, two.Metrics().Errors)
	unlock()
	unlock, err = two.Lock(bg, diskKey(1))
	require.NoError(t, err)
	unlock()
}

func TestDiskLockDiesWithItsProcess(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, nil)
	cmd, _ := startDiskChild(t, "lock", dir, 1, 0, "locked")
	ctx, cancel := context.WithTimeout(bg, 20*time.Millisecond)
	defer cancel()
	_, err := d.Lock(ctx, diskKey(1))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, cmd.Process.Kill())
	unlock, err := d.Lock(bg, diskKey(1))
	require.NoError(t, err)
	unlock()
}

// TestDiskUnlocksWhereItLocked leaves the lock of another alone that has the name by now, in a directory that was
// made anew.
func TestDiskUnlocksWhereItLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	one, two, three := openTrimmed(t, dir, nil), openDisk(t, dir, nil), openDisk(t, dir, nil)
	unlock, err := one.Lock(bg, diskKey(1))
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, one.Add(bg, diskKey(2), diskArtifact(2, 1000)))
	other, err := two.Lock(bg, diskKey(1))
	require.NoError(t, err)
	unlock()
	ctx, cancel := context.WithTimeout(bg, 20*time.Millisecond)
	defer cancel()
	_, err = three.Lock(ctx, diskKey(1))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	other()
	other, err = three.Lock(bg, diskKey(1))
	require.NoError(t, err)
	other()
}

// impatientLocks is a file system on which somebody waits for a lock until he has looked so often whether it is free.
type impatientLocks struct {
	dirfs.FS
	looks  int
	giveUp func()
}

type impatientLock struct {
	dirfs.File
	fs *impatientLocks
}

func (l *impatientLocks) OpenFile(name string, flag int, perm os.FileMode) (dirfs.File, error) {
	f, err := l.FS.OpenFile(name, flag, perm)
	if err != nil || filepath.Dir(name) != "lock" {
		return f, err
	}
	return impatientLock{f, l}, nil
}

func (l impatientLock) TryLock() (bool, error) {
	if l.fs.looks--; l.fs.looks == 0 {
		l.fs.giveUp()
	}
	return l.File.TryLock()
}

// TestDiskLockSaysWhoHasIt waits for another process, and says so once.
func TestDiskLockSaysWhoHasIt(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "lock", diskKey(1).String())
	require.NoError(t, os.Mkdir(filepath.Dir(file), 0o700))
	require.NoError(t, os.WriteFile(file, []byte("left by a process that has died\n"), 0o600))
	cmd, _ := startDiskChild(t, "lock", dir, 1, 0, "locked")
	var events diskEvents
	locks := &impatientLocks{}
	d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS { locks.FS = tree; return locks }, &modcache.DiskOptions{OnEvent: events.observe})
	require.NoError(t, err)
	defer d.Close()
	for range 2 {
		ctx, cancel := context.WithCancel(bg)
		locks.looks, locks.giveUp = 5, cancel
		_, err := d.Lock(ctx, diskKey(1))
		require.ErrorIs(t, err, context.Canceled)
		waiting := events.take(modcache.EventWaiting)
		require.Len(t, waiting, 1)
		require.Equal(t, diskKey(1), waiting[0].Key)
		require.Equal(t, cmd.Process.Pid, waiting[0].Process)
	}
	unlock, err := d.Lock(bg, diskKey(2))
	require.NoError(t, err)
	unlock()
	require.Empty(t, events.take(modcache.EventWaiting))
}

// hangingLocks is a file system that doesn't answer when a lock file is opened or locked.
type hangingLocks struct {
	dirfs.FS
	opening bool
	answer  chan struct{}
}

type hangingLock struct {
	dirfs.File
	answer chan struct{}
}

func (h *hangingLocks) OpenFile(name string, flag int, perm os.FileMode) (dirfs.File, error) {
	if filepath.Dir(name) != "lock" {
		return h.FS.OpenFile(name, flag, perm)
	}
	if h.opening {
		<-h.answer
	}
	f, err := h.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return hangingLock{f, h.answer}, nil
}

func (h hangingLock) TryLock() (bool, error) {
	<-h.answer
	return h.File.TryLock()
}

func TestDiskLockOnAFileSystemThatHangs(t *testing.T) {
	for _, opening := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			dir := t.TempDir()
			requireTrimmed(t, dir)
			answer := make(chan struct{})
			d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS {
				return &hangingLocks{tree, opening, answer}
			}, nil)
			require.NoError(t, err)
			defer d.Close()
			lock := func(n uint64, patience time.Duration) (took time.Duration, err error) {
				ctx, cancel := context.WithTimeout(bg, patience)
				defer cancel()
				start := time.Now()
				_, err = d.Lock(ctx, diskKey(n))
				return time.Since(start), err
			}
			took, err := lock(1, time.Second)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, time.Second, took)
			time.Sleep(2 * time.Minute)

			// It hangs for whoever comes a minute later, and for nobody meanwhile.
			took, err = lock(2, time.Hour)
			require.ErrorContains(t, err, "no answer in time")
			require.Equal(t, 5*time.Second, took)
			for range 300 {
				took, err = lock(3, time.Hour)
				require.Error(t, err)
				require.Zero(t, took)
			}
			close(answer)
			synctest.Wait()
			for n := range uint64(4) { // what answers late keeps no lock
				unlock, err := d.Lock(bg, diskKey(n))
				require.NoError(t, err)
				unlock()
			}
		})
	}
}

// That its directory's locks hang isn't that somebody holds them.
func TestCacheWhoseLocksHang(t *testing.T) {
	needsCompiler(t)
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		requireTrimmed(t, dir)
		answer := make(chan struct{})
		d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS { return &hangingLocks{tree, true, answer} }, nil)
		require.NoError(t, err)
		defer d.Close()
		c := newCache(t, d, nil)
		require.Equal(t, 5*time.Second, runTime(t, c, 1))
		require.Zero(t, runTime(t, c, 2))
		require.EqualValues(t, 2, c.Metrics().StoreErrors)
		require.EqualValues(t, 2, d.Metrics().Adds)
		close(answer)
		synctest.Wait()
		require.Zero(t, runTime(t, c, 3))
		require.EqualValues(t, 2, c.Metrics().StoreErrors)
	})
}

// oddLocks is a file system that can't lock files, or doesn't remove what is open, or has another file under a lock's
// name each time that one looks.
type oddLocks struct {
	dirfs.FS
	cantLock error
	busy     error
	elusive  string
	open     map[string]int
	locks    int
}

type oddLock struct {
	dirfs.File
	fs   *oddLocks
	name string
}

func (o *oddLocks) OpenFile(name string, flag int, perm os.FileMode) (dirfs.File, error) {
	f, err := o.FS.OpenFile(name, flag, perm)
	if err != nil || filepath.Dir(name) != "lock" {
		return f, err
	}
	o.open[name]++
	return oddLock{f, o, name}, nil
}

func (o *oddLocks) Lstat(name string) (fs.FileInfo, error) {
	if o.elusive != "" && filepath.Dir(name) == "lock" {
		name = o.elusive
	}
	return o.FS.Lstat(name)
}

func (o *oddLocks) Remove(name string) error {
	if o.busy != nil && o.open[name] > 0 {
		return o.busy
	}
	return o.FS.Remove(name)
}

func (l oddLock) Close() error {
	l.fs.open[l.name]--
	return l.File.Close()
}

func (l oddLock) TryLock() (bool, error) {
	l.fs.locks++
	if l.fs.cantLock != nil {
		return false, l.fs.cantLock
	}
	return l.File.TryLock()
}

// TestDiskLocksOnOddFileSystems leaves no lock file for ever.
func TestDiskLocksOnOddFileSystems(t *testing.T) {
	for name, odd := range map[string]*oddLocks{
		"no locks":          {cantLock: syscall.ENOLCK},
		"open files stay":   {busy: syscall.EBUSY},
		"names are elusive": {elusive: layout.Readme},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			requireTrimmed(t, dir)
			clock := newDiskClock()
			odd.open = make(map[string]int)
			d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS { odd.FS = tree; return odd }, &modcache.DiskOptions{Now: clock.Now})
			require.NoError(t, err)
			defer d.Close()
			left := func() []string {
				names, err := filepath.Glob(filepath.Join(dir, "lock", "*"))
				require.NoError(t, err)
				return names
			}
			unlock, err := d.Lock(bg, diskKey(1))
			if odd.busy != nil {
				require.NoError(t, err)
				unlock()
				require.Empty(t, left())
			} else {
				require.Error(t, err)
				require.LessOrEqual(t, odd.locks, 100)
			}
			odd.elusive = ""
			require.NoError(t, os.WriteFile(filepath.Join(dir, "lock", diskKey(2).String()), nil, 0o600))
			clock.Advance(2 * time.Hour)
			_, err = d.Trim(bg)
			require.NoError(t, err)
			require.Empty(t, left())
		})
	}
}
