package modcache

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/layout"
)

const (
	// deadAfter is the age from which a temporary file or a lock is taken for that of
	// a dead process. If its writer was only asleep, its Add fails.
	deadAfter = time.Hour

	maxQuarantined      = 8
	maxQuarantinedShare = 16 // of MaxBytes
)

// reap removes what dead processes left behind.
func (d *Disk) reap(ctx context.Context) (n int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	temps, err := d.reapDir(layout.Temp, d.tree().Remove, func(fi fs.FileInfo) bool {
		_, mine := d.writing.Load(layout.Temp + "/" + fi.Name())
		return !mine && layout.IsUnique(fi.Name()) && d.dead(fi)
	})
	locks, lockErr := d.reapDir(layout.Locks, d.removeLock, func(fi fs.FileInfo) bool {
		return layout.IsLock(fi.Name()) && d.dead(fi)
	})
	uses, useErr := d.reapDir(layout.Uses, d.tree().Remove, func(fi fs.FileInfo) bool {
		key, ok := layout.ParseUse(fi.Name())
		return ok && d.isGone(key)
	})
	quarantined, quarantineErr := d.pruneQuarantine()
	return temps + locks + uses + quarantined, errors.Join(err, lockErr, useErr, quarantineErr)
}

// isGone reports whether there is no entry under key.
func (d *Disk) isGone(key Key) bool {
	_, err := d.tree().Lstat(layout.Entry(key))
	return errors.Is(err, fs.ErrNotExist)
}

// dead reports whether a file is so old that its process must have ended. One from
// as far in the future was written under a wrong clock, and would stay until that
// time has come.
func (d *Disk) dead(fi fs.FileInfo) bool {
	age := d.o.Now().Sub(fi.ModTime())
	return age > deadAfter || age < -deadAfter && !d.clockIsBehind()
}

// reapDir removes the regular files in dir that are dead. It passes them in the
// order of their time, the latest first.
func (d *Disk) reapDir(dir string, remove func(name string) error, dead func(fs.FileInfo) bool) (n int, err error) {
	infos, err := d.tree().ReadDir(dir)
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

// pruneQuarantine bounds the quarantine in number, bytes and age. It keeps only files: what
// else was in the place of an entry may hold anything.
func (d *Disk) pruneQuarantine() (int, error) {
	var (
		kept  int
		bytes int64
	)
	others := d.removeOthers(layout.Quarantine)
	n, err := d.reapDir(layout.Quarantine, d.tree().Remove, func(fi fs.FileInfo) bool {
		if !layout.IsUnique(fi.Name()) {
			return false
		}
		expired := d.o.MaxAge > 0 && d.o.Now().Sub(fi.ModTime()) > d.o.MaxAge
		tooMany := kept == maxQuarantined || d.o.MaxBytes > 0 && bytes+dirfs.Taken(fi) > d.o.MaxBytes/maxQuarantinedShare
		if expired || tooMany {
			return true
		}
		kept++
		bytes += dirfs.Taken(fi)
		return false
	})
	return n + others, err
}

// removeOthers removes what has one of our names in dir but is no file.
func (d *Disk) removeOthers(dir string) (n int) {
	infos, _ := d.tree().ReadDir(dir) // an error comes back when the files are listed
	for _, fi := range infos {
		if !fi.Mode().IsRegular() && layout.IsUnique(fi.Name()) && d.tree().RemoveAll(dir+"/"+fi.Name()) == nil {
			n++
		}
	}
	return n
}
