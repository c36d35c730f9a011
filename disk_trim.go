package modcache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// TrimReport says what a trim did.
type TrimReport struct {
	Entries      int   // left
	Bytes        int64 // of them
	Evicted      int
	EvictedBytes int64
	Reaped       int // files that crashed processes left: temporary ones, locks, old quarantine
}

const (
	// trimInterval is how often the directory is trimmed without being asked.
	trimInterval = time.Hour
	// deadAfter is the age from which a temporary file or a lock is taken for that of
	// a dead process. If its writer was only asleep, its Add fails.
	deadAfter = time.Hour

	maxQuarantined      = 8
	maxQuarantinedShare = 16 // of MaxBytes
)

// Trim drops entries that went unused for MaxAge, then, until the bounds hold, those
// that went unused longest, and what dead processes left behind. It may
// run in several processes at once. It leaves files alone that it doesn't
// know.
func (d *Disk) Trim(ctx context.Context) (TrimReport, error) {
	if err := d.writable(ctx); err != nil {
		return TrimReport{}, err
	}
	return d.trim(ctx, true)
}

func (d *Disk) trim(ctx context.Context, expire bool) (TrimReport, error) {
	evictions, evictedBytes := d.counters.evictions.Load(), d.counters.evictedBytes.Load()
	var r TrimReport
	err := d.walk(ctx)
	if err == nil {
		if expire {
			d.expire()
		}
		if err = d.reserve(ctx, 0); errors.Is(err, errNoRoom) {
			err = nil // others fill the file system: there is no more to give
		}
	}
	reaped, reapErr := d.reap(ctx)
	r.Reaped = reaped
	r.Evicted = int(d.counters.evictions.Load() - evictions)
	r.EvictedBytes = int64(d.counters.evictedBytes.Load() - evictedBytes)
	entries, bytes := d.usage.levels()
	r.Entries, r.Bytes = int(entries), int64(bytes)
	if err = errors.Join(err, reapErr); err != nil {
		if ctx.Err() != nil {
			return r, fmt.Errorf("modcache: trim %s: %w", d.dir, ctx.Err())
		}
		return r, d.failed(Key{}, fmt.Errorf("modcache: trim %s: %w", d.dir, err))
	}
	d.stamp()
	return r, nil
}

// expire evicts what went unused for MaxAge.
func (d *Disk) expire() {
	if d.o.MaxAge < 0 {
		return
	}
	d.evictAll(d.usage.takeUnusedSince(d.o.Now().Add(-d.o.MaxAge)), ReasonExpired)
}

// trimDue reports whether the last trim is long ago, or at a time that can't be.
func (d *Disk) trimDue() bool {
	since, ok := d.sinceTrim()
	return !ok || since > trimInterval || since < -skew
}

func (d *Disk) sinceTrim() (since time.Duration, ok bool) {
	fi, err := d.fs.Lstat(stampFile)
	if err != nil {
		return 0, false
	}
	return d.o.Now().Sub(fi.ModTime()), true
}

// stamp records that the directory was trimmed now.
func (d *Disk) stamp() {
	now := d.o.Now()
	if err := d.fs.Chtimes(stampFile, now, now); errors.Is(err, fs.ErrNotExist) {
		_ = d.writeFile(stampFile, "")
		_ = d.fs.Chtimes(stampFile, now, now)
	}
}

// trimInBackground is the trim after OpenDisk. If the last one is more than
// MaxAge ago, either nobody used the directory or the clock has jumped, and then
// every entry would look expired: it leaves their age for the next time.
func (d *Disk) trimInBackground(ctx context.Context) {
	since, ok := d.sinceTrim()
	_, _ = d.trim(ctx, ok && since >= 0 && since <= d.o.MaxAge)
}

// reap removes what dead processes left behind.
func (d *Disk) reap(ctx context.Context) (n int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	temps, err := d.reapDir(tmpDir, d.fs.Remove, func(fi fs.FileInfo) bool {
		_, mine := d.writing.Load(tmpDir + "/" + fi.Name())
		return !mine && isTempName(fi.Name()) && d.dead(fi)
	})
	locks, lockErr := d.reapDir(lockDir, d.removeLock, func(fi fs.FileInfo) bool {
		_, err := ParseKey(fi.Name())
		return err == nil && d.dead(fi)
	})
	quarantined, quarantineErr := d.pruneQuarantine()
	return temps + locks + quarantined, errors.Join(err, lockErr, quarantineErr)
}

// dead reports whether a file is so old that its process must have ended. One from
// as far in the future was written under a wrong clock, and would stay until that
// time has come.
func (d *Disk) dead(fi fs.FileInfo) bool {
	return d.o.Now().Sub(fi.ModTime()).Abs() > deadAfter
}

// reapDir removes the regular files in dir that are dead. It passes them in the
// order of their time, the latest first.
func (d *Disk) reapDir(dir string, remove func(name string) error, dead func(fs.FileInfo) bool) (n int, err error) {
	infos, err := d.fs.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	slices.SortFunc(infos, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	var errs []error
	for _, fi := range infos {
		if !fi.Mode().IsRegular() || !dead(fi) {
			continue
		}
		switch err := remove(dir + "/" + fi.Name()); {
		case err == nil:
			n++
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errHeld):
			errs = append(errs, err)
		}
	}
	return n, errors.Join(errs...)
}

// errHeld means that a lock file is not that of a dead process.
var errHeld = errors.New("somebody holds the lock")

// removeLock removes a lock file that nobody holds. It holds the lock itself
// while it does, as unlocking does.
func (d *Disk) removeLock(name string) error {
	f, err := d.fs.OpenFile(name, os.O_RDWR|openFlags, 0)
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
	return d.fs.Remove(name)
}

// pruneQuarantine bounds the quarantine in number, bytes and age.
func (d *Disk) pruneQuarantine() (int, error) {
	var (
		kept  int
		bytes int64
	)
	return d.reapDir(quarantineDir, d.fs.Remove, func(fi fs.FileInfo) bool {
		if !isTempName(fi.Name()) {
			return false
		}
		expired := d.o.MaxAge > 0 && d.o.Now().Sub(fi.ModTime()) > d.o.MaxAge
		tooMany := kept == maxQuarantined || d.o.MaxBytes > 0 && bytes+fi.Size() > d.o.MaxBytes/maxQuarantinedShare
		if expired || tooMany {
			return true
		}
		kept++
		bytes += fi.Size()
		return false
	})
}
