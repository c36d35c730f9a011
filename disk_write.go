package modcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/frame"
)

// Add implements [Store]. It evicts what has gone unused longest if the entry
// wouldn't fit otherwise, and fails with [ErrTooLarge] if it never could. When
// Add fails, the entry is as it was before; with SyncEveryAdd, it may also be
// readable and pending.
func (d *Disk) Add(ctx context.Context, key Key, a *Artifact) error {
	err := d.writable(ctx)
	if err == nil {
		if d.isSound(key) {
			return nil
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

// isSound reports whether there is an entry that Get would return.
func (d *Disk) isSound(key Key) bool {
	a, fi, err := d.load(key)
	if err != nil {
		return false
	}
	_ = a.Close()
	d.touch(key, fi)
	return true
}

func (d *Disk) add(ctx context.Context, key Key, a *Artifact) error {
	start := d.o.Now()
	m := metaOf(key, a.Info())
	size := frame.MaxLen(m, a.Size(), &d.frame)
	if d.o.MaxBytes >= 0 && size > d.o.MaxBytes {
		return fmt.Errorf("%w: %d bytes do not fit %d (disk store %s)", ErrTooLarge, size, d.o.MaxBytes, d.dir)
	}
	fail := func(err error) error {
		return d.failed(key, fmt.Errorf("modcache: store %s/%s: %w", d.dir, entryName(key), err))
	}
	if err := d.reserve(ctx, size); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("modcache: store %s/%s: %w", d.dir, entryName(key), ctx.Err())
		}
		return fail(err)
	}
	src, err := sourceOf(a)
	if err != nil {
		d.usage.release(size)
		return fail(err)
	}
	tmp, n, err := d.writeTemp(key, src, a.Size(), m, d.o.SyncEveryAdd)
	if dirfs.IsNoSpace(err) {
		// Others fill the file system too. Give it what this entry takes, once.
		d.makeSpace(ctx, size)
		tmp, n, err = d.writeTemp(key, src, a.Size(), m, d.o.SyncEveryAdd)
	}
	var pending dirtyFile
	if err == nil {
		pending, err = d.publish(key, tmp, n)
	}
	if err != nil {
		d.usage.release(size)
		return fail(err)
	}
	d.usage.commit(entryName(key), size, n)
	d.unsure.Delete(key)
	if d.o.SyncEveryAdd {
		err := d.syncDirs([]string{entryName(key)[:1]})
		d.dirty.settle(key, pending, err == nil)
		if err != nil {
			return fail(err)
		}
	}
	d.notify(Event{Kind: EventStored, Key: key, Bytes: a.Size(), Duration: d.since(start)})
	return nil
}

// sourceOf returns the artifact's bytes in the form that a frame copies least of.
func sourceOf(a *Artifact) (io.ReaderAt, error) {
	if !a.InMemory() {
		return a, nil
	}
	b, err := a.Bytes()
	return frame.Bytes(b), err
}

// writeTemp writes the whole entry to a file beside the entries, for publish. It
// leaves none behind when it fails.
func (d *Disk) writeTemp(key Key, src io.ReaderAt, size int64, m frame.Meta, sync bool) (name string, n int64, err error) {
	name, f, err := d.createTemp(key)
	if err != nil {
		return "", 0, err
	}
	if whole := frame.MaxLen(m, size, &d.frame); whole > smallEntry && !d.o.Compress {
		// On ext4, that halves the time of writing.
		err = f.Allocate(whole)
	}
	if !dirfs.IsNoSpace(err) {
		n, err = frame.Write(f, src, size, m, &d.frame)
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
	_ = d.fs.Chtimes(name, now, now)
	return name, n, nil
}

// discard removes a temporary file.
func (d *Disk) discard(tmp string) {
	_ = d.fs.Remove(tmp)
	d.writing.Delete(tmp)
}

// publish gives a finished temporary file its name among the entries. It is noted
// as pending before anybody can see it.
func (d *Disk) publish(key Key, tmp string, n int64) (pending dirtyFile, err error) {
	name := entryName(key)
	pending, undo := d.dirty.add(key, n)
	if err := d.renameInto(tmp, name[:1], name[2:]); err != nil {
		d.discard(tmp)
		undo()
		return pending, err
	}
	d.dirty.show(key, pending)
	d.writing.Delete(tmp)
	return pending, nil
}

// makeSpace evicts entries of at least size bytes. What others evict is theirs.
func (d *Disk) makeSpace(ctx context.Context, size int64) {
	if err := d.walk(ctx); err != nil {
		return
	}
	d.evictAll(d.usage.takeOldest(size), ReasonByteLimit)
}

// Delete implements [Store].
func (d *Disk) Delete(ctx context.Context, key Key) error {
	if err := d.writable(ctx); err != nil {
		return err
	}
	name, pending := entryName(key), d.dirty.visible(key)
	fi, err := d.fs.Lstat(name)
	if err == nil {
		err = d.fs.Remove(name)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return d.failed(key, fmt.Errorf("modcache: delete %s/%s: %w", d.dir, name, err))
	}
	d.usage.remove(name)
	d.dirty.drop(key, pending)
	d.unsure.Delete(key)
	d.notify(Event{Kind: EventEvicted, Key: key, Reason: ReasonDeleted, Bytes: fi.Size(), Duration: d.since(fi.ModTime())})
	return nil
}

// quarantine moves a damaged entry away, if it is still the file that was read.
func (d *Disk) quarantine(key Key, read fs.FileInfo) {
	name, pending := entryName(key), d.dirty.visible(key)
	current, err := d.fs.Lstat(name)
	if err != nil || read == nil || !os.SameFile(current, read) {
		return
	}
	err = d.renameInto(name, quarantineDir, tempName(key))
	if err != nil {
		err = d.fs.Remove(name)
	}
	if err != nil {
		d.unsure.Store(key, read)
		return
	}
	d.usage.remove(name)
	d.dirty.drop(key, pending)
	d.pruneQuarantine()
}
