package modcache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/layout"
)

// Lock implements [Locker] with a lock file per key, which lives as long as the
// lock. It looks for the lock every few milliseconds, and reports once, with EventWaiting, who
// has it. It excludes goroutines of this process as well as other processes. When ctx ends,
// Lock returns even if the file system doesn't answer. One that doesn't answer for 5 seconds is an error,
// and for the next minute too, unless it answers meanwhile. Unlocking waits as long for it.
func (d *Disk) Lock(ctx context.Context, key Key) (unlock func(), err error) {
	if err := d.writable(ctx); err != nil {
		return nil, d.errorOf("lock", key, err)
	}
	held, err := d.lock(ctx, key)
	if err != nil {
		if ctx.Err() != nil {
			return nil, d.errorOf("lock", key, ctx.Err())
		}
		return nil, d.failed("lock", key, err)
	}
	if held.ours {
		return func() {}, nil
	}
	return sync.OnceFunc(func() { d.unlock(key, held) }), nil
}

// lock looks for the lock until it is free. It returns none if the caller has it already.
func (d *Disk) lock(ctx context.Context, key Key) (lock, error) {
	const first, longest = time.Millisecond, 32 * time.Millisecond
	taken, _ := ctx.Value(lockFilesKey{}).(*lockFiles)
	try := func(context.Context) (lock, error) { return d.tryLock(key, taken) }
	said := false
	for wait := first; ; wait = min(2*wait, longest) {
		l, err := bounded.Do(ctx, d.locks, storeWait, try, func(late lock) {
			if late.file != nil {
				_ = late.unlock(layout.Lock(key))
			}
		})
		if err != nil || l.file != nil || l.ours {
			return l, err
		}
		if !said {
			said = true
			d.notify(Event{Kind: EventWaiting, Key: key, Name: nameIn(ctx), Process: l.holder})
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		if err := d.ready(ctx); err != nil {
			return lock{}, err
		}
	}
}

func (d *Disk) unlock(key Key, l lock) {
	_ = d.locks.GiveBack(storeWait, func() error { return l.unlock(layout.Lock(key)) })
}

// lock is a lock file that is held, and the directory that it is in: the Disk may have opened
// another one since, where the file of that name is somebody else's.
type lock struct {
	tree   dirfs.FS
	file   dirfs.File // nil if somebody holds it already
	holder int        // his process then, or 0
	ours   bool       // he is the caller
}

// unlock removes the lock file before it unlocks it: whoever waits for it finds that it is no
// longer the one under the name. A file system that doesn't remove what is open removes it
// afterwards, unless somebody else has opened it.
func (l lock) unlock(name string) error {
	err := l.tree.Remove(name)
	_ = l.file.Close()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = l.tree.Remove(name)
	}
	return err
}

// lockTries is how often in a row the file of a lock may be removed by another one, who has unlocked it, while it is
// opened and locked. Some file systems have other inode numbers for a file each time.
const lockTries = 100

// lockFiles are those that a Lock of several stores has taken, two of which may be over one directory.
type lockFiles struct {
	mu    sync.Mutex // the Disk may still be at it when its caller has left
	files []fs.FileInfo
}

type lockFilesKey struct{}

// add takes note of a file that was locked.
func (t *lockFiles) add(f dirfs.File) {
	if t == nil {
		return
	}
	if fi, err := f.Stat(); err == nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.files = append(t.files, fi)
	}
}

// has reports whether a file is one of those.
func (t *lockFiles) has(f dirfs.File) bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	fi, err := f.Stat()
	return err == nil && slices.ContainsFunc(t.files, func(other fs.FileInfo) bool { return os.SameFile(fi, other) })
}

// tryLock opens and locks the file of a key, unless somebody holds it.
func (d *Disk) tryLock(key Key, taken *lockFiles) (l lock, err error) {
	if err := d.findMoved(true); err != nil {
		return l, err
	}
	for range lockTries {
		f, err := d.create(layout.Lock(key), os.O_RDWR)
		if err != nil {
			return l, err
		}
		tree := d.tree()
		locked, err := f.TryLock()
		current := locked
		if locked && err == nil {
			current, err = isCurrent(tree, f, layout.Lock(key))
		}
		if current && err == nil {
			writeHolder(f)
			taken.add(f)
			return lock{tree: tree, file: f}, nil
		}
		if !locked && err == nil {
			l.holder, l.ours = readHolder(f), taken.has(f)
		}
		_ = f.Close()
		if !locked || err != nil {
			return l, err
		} // or else it is the file of somebody who has unlocked and removed it
	}
	return l, errors.New("a file isn't the one of its name, again and again")
}

// holderLen is the length of what a lock file says, whoever holds it.
const holderLen = 20

// writeHolder says in a lock file who holds it. Nothing depends on that.
func writeHolder(f dirfs.File) {
	_, _ = f.Write(fmt.Appendf(nil, "%-*d\n", holderLen-1, os.Getpid()))
}

// readHolder returns what writeHolder wrote, or 0.
func readHolder(f dirfs.File) (process int) {
	var text [holderLen]byte
	n, _ := f.ReadAt(text[:], 0)
	process, _ = strconv.Atoi(strings.TrimSpace(string(text[:n])))
	return max(0, process)
}

// isCurrent reports whether f is still the file of that name.
func isCurrent(tree dirfs.FS, f dirfs.File, name string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	current, err := tree.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, current), err
}

// errHeld means that a lock file is not that of a dead process.
var errHeld = errors.New("somebody holds the lock")

// removeLock removes a lock file that nobody holds. It holds the lock itself
// while it does, as unlocking does.
func (d *Disk) removeLock(name string) error {
	tree := d.tree()
	f, err := tree.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	l := lock{tree: tree, file: f}
	ok, err := f.TryLock()
	if dirfs.IsNoLock(err) {
		return l.unlock(name) // where there are no locks, nobody holds one
	}
	if err == nil && ok {
		ok, err = isCurrent(tree, f, name)
	}
	if err != nil || !ok {
		_ = f.Close()
		return errors.Join(err, errHeld)
	}
	return l.unlock(name)
}
