package modcache

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/modcache/modcache/internal/books"
	"github.com/modcache/modcache/internal/layout"
)

// This file is about when entries were last used. That is the time of their file; or, where
// setting it would copy the whole file, or isn't allowed because it is another user's, the
// time of an empty file beside them. The later one counts.

// touch records that the entry is used now, unless it was less than a minute ago. It
// is a hint, whose loss costs an entry its place in the order of eviction.
func (d *Disk) touch(ctx context.Context, key Key, fi fs.FileInfo) {
	if d.o.ReadOnly {
		return
	}
	interval := time.Minute
	if d.o.MaxAge > 0 {
		interval = min(interval, d.o.MaxAge/8)
	}
	if books.IsExactUse(ctx) {
		interval = 0
	}
	now := d.o.Now()
	due := func(used time.Time) bool {
		unused := now.Sub(used)
		// A time is set back only if it is wrong: see books.SortForEviction.
		return unused > interval || unused < -books.ClockSkew && !d.clockIsBehind()
	}
	aside := d.tree().CopiesUp()
	if !aside && !due(fi.ModTime()) || !due(d.usedAt(key, fi)) {
		return
	}
	if aside || d.tree().Chtimes(layout.Entry(key), now, now) != nil {
		d.touchAside(key, now)
	}
}

// touchAside records a use beside the entry.
func (d *Disk) touchAside(key Key, now time.Time) {
	name := layout.Use(key)
	err := d.tree().Chtimes(name, now, now)
	if err == nil {
		return
	}
	if !errors.Is(err, fs.ErrNotExist) {
		_ = d.tree().Remove(name) // another user's
	}
	if f, err := d.create(name, os.O_WRONLY|os.O_EXCL); err == nil {
		_ = f.Close()
		_ = d.tree().Chtimes(name, now, now)
	}
}

// usedAt returns when the entry was last used whose file fi describes.
func (d *Disk) usedAt(key Key, fi fs.FileInfo) time.Time {
	used := fi.ModTime()
	if aside, err := d.tree().Lstat(layout.Use(key)); err == nil && aside.ModTime().After(used) {
		return aside.ModTime()
	}
	return used
}

// lookAside corrects the times of entries by those beside them.
func (d *Disk) lookAside(entries []books.Entry) {
	files, err := d.tree().ReadDir(layout.Uses)
	if err != nil || len(files) == 0 { // as on most file systems
		return
	}
	uses := make(map[[32]byte]time.Time, len(files))
	for _, fi := range files {
		if key, ok := layout.ParseUse(fi.Name()); ok {
			uses[key] = fi.ModTime()
		}
	}
	for i, e := range entries {
		if used := uses[e.Key]; used.After(e.Used) {
			entries[i].Used = used
		}
	}
}

// clockIsBehind reports whether it may be this process's clock that is wrong, if a file has a
// time that is yet to come: it shows a time before the directory was made.
func (d *Disk) clockIsBehind() bool {
	made, err := d.tree().Lstat(layout.Tag)
	return err != nil || made.ModTime().After(d.o.Now().Add(books.ClockSkew))
}
