package modcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/frame"
)

// smallEntry is the size of a file up to which Get reads and verifies all of it
// rather than leave it open.
const smallEntry = 64 << 10

// Get implements [Store]. The header is verified before Get returns; so is all of
// an entry of up to 64 KiB. The bytes of a larger one are verified by whoever
// reads them, on several cores if the read is large: damage makes that read
// fail with [ErrCorrupt], and the next Get a miss.
func (d *Disk) Get(ctx context.Context, key Key) (*Artifact, bool, error) {
	d.counters.lookups.Add(1)
	if err := d.ready(ctx); err != nil {
		d.counters.misses.Add(1)
		return nil, false, err
	}
	a, fi, err := d.load(key)
	if err == nil {
		d.touch(key, fi)
		d.counters.hits.Add(1)
		d.notify(Event{Kind: EventHit, Key: key, Bytes: a.Size()})
		return a, true, nil
	}
	d.counters.misses.Add(1)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.notify(Event{Kind: EventMiss, Key: key, Reason: ReasonAbsent})
		return nil, false, nil
	case errors.Is(err, ErrCorrupt):
		d.notify(Event{Kind: EventMiss, Key: key, Reason: ReasonCorrupt, Err: err})
		return nil, false, nil
	case errors.Is(err, ErrAuth):
		d.notify(Event{Kind: EventMiss, Key: key, Reason: ReasonAuth, Err: err})
		return nil, false, nil
	}
	d.notify(Event{Kind: EventMiss, Key: key, Reason: ReasonIO, Err: err})
	return nil, false, err
}

// load returns the artifact under key. Whatever is wrong with the entry has been
// counted, reported and healed when it returns.
func (d *Disk) load(key Key) (*Artifact, fs.FileInfo, error) {
	e, err := d.open(key)
	if err != nil {
		return nil, nil, err
	}
	info := infoOf(e.r.Meta())
	if !e.small {
		return NewArtifactFrom(e, e.r.Size(), info), e.fi, nil
	}
	b, err := e.r.Bytes()
	if err != nil {
		return nil, nil, d.readFailed(e.key, e.fi, err)
	}
	return NewArtifact(b, info), e.fi, nil
}

// entry is an open entry, whose header was verified.
type entry struct {
	d        *Disk
	key      Key
	fi       fs.FileInfo
	f        dirfs.File // nil if small
	r        *frame.Reader
	small    bool // all of the file is in memory
	reported atomic.Bool
}

// open opens the entry under key and verifies its header. What is wrong with it has
// been dealt with when it returns.
func (d *Disk) open(key Key) (*entry, error) {
	e, err := d.openRaw(key)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return e, err
	}
	var fi fs.FileInfo
	if e != nil {
		fi = e.fi
	}
	return nil, d.readFailed(key, fi, err)
}

// openRaw is open without consequences. When the file could be opened but not read,
// it returns what is known of it, closed, along with the error.
func (d *Disk) openRaw(key Key) (*entry, error) {
	if d.fs == nil {
		return nil, fs.ErrNotExist
	}
	f, err := d.fs.OpenFile(entryName(key), os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, err
	}
	e := &entry{d: d, key: key, f: f}
	err = e.readHeader()
	if err != nil || e.small {
		_ = f.Close()
		e.f = nil
	}
	return e, err
}

func (e *entry) readHeader() (err error) {
	if e.fi, err = e.f.Stat(); err != nil {
		return err
	}
	if !e.fi.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	if bad, ok := e.d.unsure.Load(e.key); ok && os.SameFile(bad.(fs.FileInfo), e.fi) {
		return fmt.Errorf("%w: it was found damaged before", frame.ErrCorrupt)
	}
	size := e.fi.Size()
	var src io.ReaderAt = e.f
	if size <= smallEntry {
		b := make([]byte, size)
		// A file that got shorter since shows as damage below.
		n, err := e.f.ReadAt(b, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		src, size, e.small = frame.Bytes(b[:n]), int64(n), true
	}
	e.r, err = frame.Open(src, size, e.key, &e.d.frame)
	return err
}

// ReadAt implements [io.ReaderAt] for an Artifact.
func (e *entry) ReadAt(p []byte, off int64) (int, error) {
	n, err := e.r.ReadAt(p, off)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if e.reported.Swap(true) {
		return n, e.d.describe(e.key, err)
	}
	return n, e.d.readFailed(e.key, e.fi, err)
}

// Close implements [io.Closer] for an Artifact.
func (e *entry) Close() error {
	if e.f == nil {
		return nil
	}
	return e.f.Close()
}

// describe says what failed and where, in terms of the public sentinels.
func (d *Disk) describe(key Key, err error) error {
	where := d.dir + "/" + entryName(key)
	switch {
	case errors.Is(err, fs.ErrClosed):
		return fmt.Errorf("read %s: %w", where, ErrClosed)
	case errors.Is(err, frame.ErrCorrupt):
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, where, err)
	case errors.Is(err, frame.ErrAuth):
		return fmt.Errorf("%w: %s: %w", ErrAuth, where, err)
	}
	return fmt.Errorf("modcache: read %s: %w", where, err)
}

// readFailed counts and reports what went wrong with reading an entry, and
// moves a damaged one away.
func (d *Disk) readFailed(key Key, fi fs.FileInfo, err error) error {
	damaged := errors.Is(err, frame.ErrCorrupt) || errors.Is(err, frame.ErrAuth)
	foreign := errors.Is(err, frame.ErrForeign)
	err = d.describe(key, err)
	if !damaged {
		return d.failed(key, err)
	}
	d.counters.corrupt.Add(1)
	// A foreign entry may be sound: it stays until an Add replaces it.
	if !foreign && !d.o.ReadOnly {
		d.quarantine(key, fi)
	}
	d.notify(Event{Kind: EventCorrupt, Key: key, Err: err})
	return err
}

func infoOf(m frame.Meta) Info {
	return Info{Engine: m.Engine, Module: m.Module, WasmSize: m.WasmSize, CompileTime: m.CompileTime, Created: m.Created}
}

func metaOf(key Key, i Info) frame.Meta {
	return frame.Meta{Key: key, Engine: i.Engine, Module: i.Module, WasmSize: i.WasmSize, CompileTime: i.CompileTime, Created: i.Created}
}
