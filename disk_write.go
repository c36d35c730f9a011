package modcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/modcache/modcache/internal/books"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/layout"
)

// Add implements [Store]. It evicts what has gone unused longest if the entry
// wouldn't fit otherwise, and fails with [ErrTooLarge] if it never could. When
// Add fails, the entry is as it was before; with SyncEveryAdd, it may also be
// readable and pending.
func (d *Disk) Add(ctx context.Context, key Key, a *Artifact) error {
	return d.put(ctx, key, a, false)
}

// Replace implements [Replacer]: it is Add that doesn't ask whether an intact entry is present. Whoever
// opened the older one reads on.
func (d *Disk) Replace(ctx context.Context, key Key, a *Artifact) error {
	return d.put(ctx, key, a, true)
}

func (d *Disk) put(ctx context.Context, key Key, a *Artifact, replace bool) error {
	err := d.errorOf("add", key, d.writable(ctx))
	if err == nil {
		defer d.pending.Begin()()
		if err = d.findMoved(true); err != nil {
			err = d.failed("add", key, err)
		}
	}
	if err == nil {
		if !replace {
			if present, err := d.load(ctx, "add", key); err == nil {
				_ = present.Close()
				if !frame.GivesWay(present.info.Module, present.info.WasmSize, a.info.Module, a.info.WasmSize) {
					return nil
				}
			}
		}
		err = d.add(ctx, key, a)
	}
	if err != nil {
		d.counters.rejected.Add(1)
		return err
	}
	d.counters.adds.Add(1)
	return nil
}

func (d *Disk) add(ctx context.Context, key Key, a *Artifact) error {
	start := d.o.Now()
	m := frame.MetaOf(key, a.Info())
	if err := m.Check(a.Size()); err != nil {
		return d.errorOf("add", key, err)
	}
	size := dirfs.Blocks(frame.MaxLen(m, a.Size(), &d.frame))
	if err := d.fits(size); err != nil {
		return d.errorOf("add", key, err)
	}
	if err := d.reserve(ctx, size); err != nil {
		if ctx.Err() != nil {
			return d.errorOf("add", key, ctx.Err())
		}
		return d.failed("add", key, err)
	}
	pending, err := d.store(ctx, key, a, m, &size)
	if err != nil {
		d.usage.Release(size)
		if errors.Is(err, ErrTooLarge) {
			return d.errorOf("add", key, err)
		}
		return d.failed("add", key, err)
	}
	d.damaged.Delete(key)
	if d.o.SyncEveryAdd {
		if err := d.syncDirs([]string{layout.Shard(key)}); err != nil {
			pending.Rewrite.Store(true)
			return d.failed("add", key, err)
		}
		d.pending.Drop(key, pending)
	}
	d.notify(Event{Kind: EventStored, Key: key, Name: a.Info().Name, Bytes: a.Size(), Duration: d.since(start)})
	return nil
}

// store writes an entry, for which so many bytes are reserved, and gives it its name. If the
// file takes more, it reserves more. If it fails, what is reserved is for the caller to release.
func (d *Disk) store(ctx context.Context, key Key, a *Artifact, m frame.Meta, reserved *int64) (pending *books.File, err error) {
	src, err := sourceOf(a)
	if err != nil {
		return nil, err
	}
	// Others fill the file system too. Give it what this entry takes: once for the file, and once for the
	// directory that it goes into.
	for retries := 2; ; retries-- {
		var tmp string
		var taken int64
		if tmp, taken, err = d.writeTemp(key, src, a.Size(), m, d.o.SyncEveryAdd); err == nil {
			if err = d.reserveMore(ctx, taken, reserved); err != nil {
				d.discard(tmp)
				return nil, err
			}
			landed := d.usage.Land(layout.Entry(key), *reserved)
			if pending, err = d.publish(key, tmp, taken); err != nil {
				taken = -1
			}
			*reserved = landed(taken)
		}
		if !dirfs.IsNoSpace(err) || retries == 0 || books.KeepsAll(ctx) {
			return pending, err
		}
		d.makeSpace(ctx, *reserved)
	}
}

// fits says of an entry that takes so much on disk whether it could ever be kept.
func (d *Disk) fits(size int64) error {
	if d.o.MaxBytes >= 0 && size > d.o.MaxBytes {
		return fmt.Errorf("%w: it takes %d bytes on disk, MaxBytes is %d", ErrTooLarge, size, d.o.MaxBytes)
	}
	return nil
}

// reserveMore reserves what a file takes beyond what is reserved for it: the blocks of the file
// system may be larger than those of most.
func (d *Disk) reserveMore(ctx context.Context, taken int64, reserved *int64) error {
	if taken <= *reserved {
		return nil
	}
	if err := d.fits(taken); err != nil {
		return err
	}
	if err := d.reserve(ctx, taken-*reserved); err != nil {
		return err
	}
	*reserved = taken
	return nil
}

// sourceOf returns the artifact's bytes in the form that a frame copies least of.
func sourceOf(a *Artifact) (io.ReaderAt, error) {
	if !a.InMemory() {
		return contain.ReaderAt{Src: a}, nil // several goroutines read it
	}
	b, err := a.Bytes()
	return frame.Bytes(b), err
}

// writeTemp writes the whole entry to a file beside the entries, for publish, and returns what
// that takes on disk. It leaves none behind when it fails.
func (d *Disk) writeTemp(key Key, src io.ReaderAt, size int64, m frame.Meta, sync bool) (name string, taken int64, err error) {
	name = layout.Temp + "/" + layout.Unique(key)
	d.writing.Store(name, true) // safe from reap
	f, err := d.create(name, os.O_WRONLY|os.O_EXCL)
	if err != nil {
		d.writing.Delete(name)
		return "", 0, err
	}
	if whole := frame.MaxLen(m, size, &d.frame); whole > smallEntry && !d.o.Compress {
		// On ext4, that halves the time of writing.
		err = f.Allocate(whole)
	}
	var n int64
	if !dirfs.IsNoSpace(err) {
		n, err = frame.Write(f, src, size, m, &d.frame)
		d.written.Add(n)
	}
	if err == nil && sync {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		d.discard(name)
		return "", 0, err
	}
	// The order of eviction follows the store's clock, not the kernel's.
	now := d.o.Now()
	_ = d.tree().Chtimes(name, now, now)
	taken = dirfs.Blocks(n)
	if fi, err := d.tree().Lstat(name); err == nil {
		taken = max(taken, dirfs.Taken(fi)) // some file systems don't know it yet
	}
	return name, taken, nil
}

// discard removes a temporary file.
func (d *Disk) discard(tmp string) {
	_ = d.tree().Remove(tmp)
	d.writing.Delete(tmp)
}

// publish gives a finished temporary file its name among the entries. It is noted
// as pending before anybody can see it.
func (d *Disk) publish(key Key, tmp string, taken int64) (pending *books.File, err error) {
	pending, undo := d.pending.Add(key, taken)
	err = d.rename(tmp, layout.Entry(key))
	if err != nil && d.moveDirAway(key) {
		err = d.rename(tmp, layout.Entry(key))
	}
	if err != nil {
		d.discard(tmp)
		undo()
		return pending, err
	}
	pending.Shown.Store(true)
	d.writing.Delete(tmp)
	return pending, nil
}

// Delete implements [Store].
func (d *Disk) Delete(ctx context.Context, key Key) error {
	if err := d.writable(ctx); err != nil {
		return d.errorOf("delete", key, err)
	}
	if err := d.findMoved(false); err != nil {
		return d.failed("delete", key, err)
	}
	name, pending := layout.Entry(key), d.pending.Visible(key)
	fi, err := d.tree().Lstat(name)
	if err == nil && !d.moveDirAway(key) {
		err = d.tree().Remove(name)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return d.failed("delete", key, err)
	}
	d.usage.Remove(name)
	d.pending.Drop(key, pending)
	d.damaged.Delete(key)
	d.notify(Event{Kind: EventEvicted, Key: key, Reason: ReasonDeleted, Bytes: dirfs.Taken(fi), Duration: d.since(fi.ModTime())})
	return nil
}

// quarantine moves a damaged entry away, if it is still the file that was read.
func (d *Disk) quarantine(key Key, read fs.FileInfo) {
	name, pending := layout.Entry(key), d.pending.Visible(key)
	current, err := d.tree().Lstat(name)
	if err != nil || read == nil || !os.SameFile(current, read) {
		return
	}
	err = d.moveAway(key)
	if err != nil {
		err = d.tree().Remove(name)
	}
	if err != nil {
		d.damaged.Store(key, read)
		return
	}
	d.usage.Remove(name)
	d.pending.Drop(key, pending)
	_, _ = d.pruneQuarantine()
}

func (d *Disk) moveAway(key Key) error {
	return d.rename(layout.Entry(key), layout.Quarantine+"/"+layout.Unique(key))
}

// moveDirAway moves away what no file can replace, a directory in the place of an entry,
// and reports whether it did.
func (d *Disk) moveDirAway(key Key) bool {
	fi, err := d.tree().Lstat(layout.Entry(key))
	return err == nil && fi.IsDir() && d.moveAway(key) == nil
}

// create opens a file that may not exist yet, nor its directory.
func (d *Disk) create(name string, flags int) (f dirfs.File, err error) {
	err = d.withDir(name, func() error {
		f, err = d.tree().OpenFile(name, flags|os.O_CREATE, layout.FilePerm)
		return err
	})
	return f, err
}

// rename moves a file to where there may be no directory yet.
func (d *Disk) rename(from, to string) error {
	return d.withDir(to, func() error { return d.tree().Rename(from, to) })
}

// withDir calls f and, if something was missing, once more after it has made the
// directory of name, and that of the store if somebody has deleted it.
func (d *Disk) withDir(name string, f func() error) error {
	tree := d.tree()
	err := f()
	if err == nil || !errors.Is(err, fs.ErrNotExist) && !removeNoDir(tree, path.Dir(name)) {
		return err
	}
	err = mkdir(tree, path.Dir(name))
	if errors.Is(err, fs.ErrNotExist) {
		if err = d.reopen(tree); err == nil {
			err = mkdir(d.tree(), path.Dir(name))
		}
	}
	if err != nil {
		return err
	}
	d.sign()
	return f()
}

// removeNoDir removes what is in the place of a directory of the store and reports whether it did. A symbolic
// link stays: somebody wants it there.
func removeNoDir(tree dirfs.FS, name string) bool {
	fi, err := tree.Lstat(name)
	return err == nil && fi.Mode()&(fs.ModeDir|fs.ModeSymlink) == 0 && tree.Remove(name) == nil
}

func mkdir(tree dirfs.FS, name string) error {
	if err := tree.Mkdir(name, layout.DirPerm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// writeFile makes a small file that no program depends on, if there is none, or nothing in it: its
// writer crashed, or had no room.
func writeFile(tree dirfs.FS, name, text string) {
	if fi, err := tree.Lstat(name); err == nil && fi.Size() > 0 {
		return
	}
	f, err := tree.OpenFile(name, os.O_WRONLY|os.O_CREATE, layout.FilePerm)
	if err != nil {
		return
	}
	_, _ = f.Write([]byte(text))
	_ = f.Close()
}
