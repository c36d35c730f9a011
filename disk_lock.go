package modcache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
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
// Lock returns even if the file system doesn't answer.
func (d *Disk) Lock(ctx context.Context, key Key) (unlock func(), err error) {
	if err := d.writable(ctx); err != nil {
		return nil, d.errorOf("lock", key, err)
	}
	held, err := bounded.Call(ctx, bounded.Limit{Wait: noLimit, Slots: d.locking},
		func(ctx context.Context) (lock, error) { return d.lockFile(ctx, key) },
		func(late lock) {
			if late.file != nil {
				late.unlock(key)
			}
		})
	if err != nil {
		if ctx.Err() != nil {
			return nil, d.errorOf("lock", key, ctx.Err())
		}
		return nil, d.failed("lock", key, err)
	}
	return sync.OnceFunc(func() { held.unlock(key) }), nil
}

// lock is a lock file that is held, and the directory that it is in: the Disk may have opened
// another one since, where the file of that name is somebody else's.
type lock struct {
	tree dirfs.FS
	file dirfs.File
}

// unlock removes the lock file before it unlocks it: whoever waits for it finds that it is no
// longer the one under the name.
func (l lock) unlock(key Key) {
	_ = l.tree.Remove(layout.Lock(key))
	_ = l.file.Close()
}

// lockFile opens and locks the file of a key.
func (d *Disk) lockFile(ctx context.Context, key Key) (_ lock, err error) {
	const first, longest = time.Millisecond, 32 * time.Millisecond
	if err := d.findMoved(true); err != nil {
		return lock{}, err
	}
	var f dirfs.File
	defer func() {
		if err != nil && f != nil {
			_ = f.Close()
		}
	}()
	said := false
	for wait := first; ; wait = min(2*wait, longest) {
		if f == nil {
			if f, err = d.create(layout.Lock(key), os.O_RDWR); err != nil {
				return lock{}, err
			}
		}
		tree := d.tree()
		locked, err := f.TryLock()
		current := locked
		if locked && err == nil {
			current, err = isCurrent(tree, f, layout.Lock(key))
		}
		switch {
		case err != nil:
			return lock{}, err
		case current:
			writeHolder(f)
			return lock{tree, f}, nil
		case locked: // the file of somebody who has unlocked and removed it
			_ = f.Close()
			f, wait = nil, first
		case !said:
			said = true
			d.notify(Event{Kind: EventWaiting, Key: key, Name: nameIn(ctx), Process: readHolder(f)})
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
	defer f.Close()
	if ok, err := f.TryLock(); err != nil || !ok {
		return errors.Join(err, errHeld)
	}
	if ok, err := isCurrent(tree, f, name); err != nil || !ok {
		return errors.Join(err, errHeld)
	}
	return tree.Remove(name)
}
