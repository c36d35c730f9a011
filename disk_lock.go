package modcache

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/layout"
)

// Lock implements [Locker] with a lock file per key, which lives as long as the
// lock. It looks for the lock every few milliseconds. It excludes goroutines
// of this process as well as other processes.
func (d *Disk) Lock(ctx context.Context, key Key) (unlock func(), err error) {
	if err := d.writable(ctx); err != nil {
		return nil, d.errorOf("lock", key, err)
	}
	name := layout.Lock(key)
	f, err := d.lockFile(ctx, name)
	if err != nil {
		if ctx.Err() != nil {
			return nil, d.errorOf("lock", key, ctx.Err())
		}
		return nil, d.failed("lock", key, err)
	}
	return sync.OnceFunc(func() {
		// Removing it before unlocking: whoever waits for this file finds
		// that it is no longer the one under the name.
		_ = d.tree().Remove(name)
		_ = f.Close()
	}), nil
}

// lockFile opens and locks the file of that name.
func (d *Disk) lockFile(ctx context.Context, name string) (_ dirfs.File, err error) {
	const first, longest = time.Millisecond, 32 * time.Millisecond
	var f dirfs.File
	defer func() {
		if err != nil && f != nil {
			_ = f.Close()
		}
	}()
	for wait := first; ; wait = min(2*wait, longest) {
		if f == nil {
			if f, err = d.create(name, os.O_RDWR); err != nil {
				return nil, err
			}
		}
		locked, err := f.TryLock()
		current := locked
		if locked && err == nil {
			current, err = d.isCurrent(f, name)
		}
		switch {
		case err != nil:
			return nil, err
		case current:
			return f, nil
		case locked: // the file of somebody who has unlocked and removed it
			_ = f.Close()
			f, wait = nil, first
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		if err := d.ready(ctx); err != nil {
			return nil, err
		}
	}
}

// isCurrent reports whether f is still the file of that name.
func (d *Disk) isCurrent(f dirfs.File, name string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	current, err := d.tree().Lstat(name)
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
	f, err := d.tree().OpenFile(name, os.O_RDWR|dirfs.NonBlock, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if ok, err := f.TryLock(); err != nil || !ok {
		return errors.Join(err, errHeld)
	}
	if ok, err := d.isCurrent(f, name); err != nil || !ok {
		return errors.Join(err, errHeld)
	}
	return d.tree().Remove(name)
}
