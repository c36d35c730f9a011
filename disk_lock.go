package modcache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/modcache/modcache/internal/dirfs"
)

// Lock implements [Locker] with a lock file per key, which lives as long as the
// lock. It looks for the lock every few milliseconds. It excludes goroutines
// of this process as well as other processes.
func (d *Disk) Lock(ctx context.Context, key Key) (unlock func(), err error) {
	if err := d.writable(ctx); err != nil {
		return nil, err
	}
	f, name, err := d.lockFile(ctx, key)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("modcache: lock %s: %w", key, ctx.Err())
		}
		return nil, d.failed(key, fmt.Errorf("modcache: lock %s: %w", key, err))
	}
	return sync.OnceFunc(func() {
		// Removing it before unlocking: whoever waits for this file finds
		// that it is no longer the one under the name.
		_ = d.fs.Remove(name)
		_ = f.Close()
	}), nil
}

func (d *Disk) lockFile(ctx context.Context, key Key) (dirfs.File, string, error) {
	const first, longest = time.Millisecond, 32 * time.Millisecond
	name := lockDir + "/" + key.String()
	var f dirfs.File
	for wait := first; ; wait = min(2*wait, longest) {
		if f == nil {
			var err error
			if f, err = d.openLock(name); err != nil {
				return nil, "", err
			}
		}
		locked, err := f.TryLock()
		current := locked
		if locked && err == nil {
			current, err = d.isCurrent(f, name)
		}
		switch {
		case err != nil:
			_ = f.Close()
			return nil, "", err
		case current:
			return f, name, nil
		case locked: // the file of somebody who has unlocked and removed it
			_ = f.Close()
			f, wait = nil, first
		}
		select {
		case <-ctx.Done():
			if f != nil {
				_ = f.Close()
			}
			return nil, "", ctx.Err()
		case <-time.After(wait):
		}
		if d.closed.Load() {
			if f != nil {
				_ = f.Close()
			}
			return nil, "", ErrClosed
		}
	}
}

func (d *Disk) openLock(name string) (dirfs.File, error) {
	f, err := d.fs.OpenFile(name, os.O_RDWR|os.O_CREATE, filePerm)
	if errors.Is(err, fs.ErrNotExist) {
		if err = d.mkdir(lockDir); err == nil {
			f, err = d.fs.OpenFile(name, os.O_RDWR|os.O_CREATE, filePerm)
		}
	}
	return f, err
}

// isCurrent reports whether f is still the file of that name.
func (d *Disk) isCurrent(f dirfs.File, name string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	current, err := d.fs.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, current), err
}
