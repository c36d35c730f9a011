package modcache

import (
	"io/fs"
	"time"

	"github.com/modcache/modcache/internal/books"
	"github.com/modcache/modcache/internal/layout"
)

// touch records that the entry is used now, unless it was less than a minute ago. It
// is a hint, whose loss costs an entry its place in the order of eviction.
func (d *Disk) touch(key Key, fi fs.FileInfo) {
	if d.o.ReadOnly {
		return
	}
	interval := time.Minute
	if d.o.MaxAge > 0 {
		interval = min(interval, d.o.MaxAge/8)
	}
	now := d.o.Now()
	unused := now.Sub(fi.ModTime())
	// A time is set back only if it is wrong: see books.SortForEviction.
	if unused > interval || unused < -books.ClockSkew && !d.clockIsBehind() {
		_ = d.tree().Chtimes(layout.Entry(key), now, now)
	}
}

// clockIsBehind reports whether it may be this process's clock that is wrong, if a file has a
// time that is yet to come: it shows a time before the directory was made.
func (d *Disk) clockIsBehind() bool {
	made, err := d.tree().Lstat(layout.Tag)
	return err != nil || made.ModTime().After(d.o.Now().Add(books.ClockSkew))
}
