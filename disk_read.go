package modcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/layout"
)

// smallEntry is the size of a file up to which Get reads and verifies all of it
// rather than leave it open.
const smallEntry = 64 << 10

// moveWait is for how long a directory is taken to be the one that has its name, by those who find nothing in it.
const moveWait = time.Second

// Get implements [Store]. The header is verified before Get returns; so is all of
// an entry of up to 64 KiB. The bytes of a larger one are verified by whoever
// reads them, on several cores if the read is large: damage makes that read
// fail with [ErrCorrupt], and the next Get a miss. An entry that is sealed under another
// key than DiskOptions.Key, or not at all, is a miss whose event carries [ErrOtherKey].
func (d *Disk) Get(ctx context.Context, key Key) (*Artifact, bool, error) {
	d.counters.lookups.Add(1)
	a, err := d.get(ctx, key)
	if err == nil {
		d.counters.hits.Add(1)
		d.notify(Event{Kind: EventHit, Key: key, Name: a.Info().Name, Bytes: a.Size()})
		return a, true, nil
	}
	d.counters.misses.Add(1)
	if errors.Is(err, fs.ErrNotExist) {
		d.notify(Event{Kind: EventMiss, Key: key, Reason: ReasonAbsent})
		return nil, false, nil
	}
	d.notify(Event{Kind: EventMiss, Key: key, Reason: reasonOf(err), Err: err})
	if isDamage(err) {
		return nil, false, nil
	}
	return nil, false, err
}

func (d *Disk) get(ctx context.Context, key Key) (*Artifact, error) {
	if err := d.ready(ctx); err != nil {
		return nil, d.errorOf("get", key, err)
	}
	tree := d.tree()
	a, err := d.load(ctx, "get", key)
	if err == nil || isDamage(err) {
		return a, err
	}
	// Somebody may have put another directory in the place of this one, as a deployment does, or mounted it anew. The next
	// Add would notice, if there is one.
	if !d.o.ReadOnly && !d.again(&d.moveSought, moveWait) {
		return nil, err
	}
	if moved := d.findMoved(false); moved != nil {
		return nil, d.failed("get", key, moved)
	}
	if d.tree() == tree {
		return nil, err
	}
	return d.load(ctx, "get", key)
}

// load returns the artifact under key, and records the use. Whatever is wrong with
// the entry has been counted, reported and healed when it returns.
func (d *Disk) load(ctx context.Context, op string, key Key) (*Artifact, error) {
	e, err := d.open(op, key)
	if err != nil {
		return nil, err
	}
	info := frame.InfoOf[Info](e.r.Meta())
	if !e.small {
		d.touch(ctx, key, e.fi)
		return NewArtifactFrom(e, e.r.Size(), info), nil
	}
	b, err := e.r.Bytes()
	if err != nil {
		return nil, d.readFailed(op, key, e.fi, err)
	}
	d.touch(ctx, key, e.fi)
	return NewArtifact(b, info), nil
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
func (d *Disk) open(op string, key Key) (*entry, error) {
	e, err := d.openRaw(key)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return e, err
	}
	var fi fs.FileInfo
	if e != nil {
		fi = e.fi
	}
	return nil, d.readFailed(op, key, fi, err)
}

// openRaw is open without consequences. When the file could be opened but not read,
// it returns what is known of it, closed, along with the error.
func (d *Disk) openRaw(key Key) (*entry, error) {
	if d.tree() == nil {
		return nil, fs.ErrNotExist
	}
	f, err := d.tree().OpenFile(layout.Entry(key), os.O_RDONLY, 0)
	if err != nil {
		return d.notFile(key, err)
	}
	e := &entry{d: d, key: key, f: f}
	err = e.readHeader()
	if err != nil || e.small {
		_ = f.Close()
		e.f = nil
	}
	return e, err
}

// notFile says of an entry that couldn't be opened that it is damaged, if it is no file.
func (d *Disk) notFile(key Key, err error) (*entry, error) {
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if fi, e := d.tree().Lstat(layout.Entry(key)); e == nil && !fi.Mode().IsRegular() {
		return &entry{d: d, key: key, fi: fi}, fmt.Errorf("%w: %w", frame.ErrCorrupt, dirfs.ErrNotFile)
	}
	return nil, err
}

func (e *entry) readHeader() (err error) {
	if e.fi, err = e.f.Stat(); err != nil {
		return err
	}
	if who := e.d.place.Load().Foreign(e.f, e.fi); who != "" {
		return fmt.Errorf("%w: %s", frame.ErrAuth, who)
	}
	if bad, ok := e.d.damaged.Load(e.key); ok && os.SameFile(bad.(fs.FileInfo), e.fi) {
		return fmt.Errorf("%w: it was found damaged before", frame.ErrCorrupt)
	}
	e.r, e.small, err = openFrame(e.f, e.fi.Size(), e.key, &e.d.frame)
	return err
}

// openFrame opens the frame that fills the size bytes of src, and verifies its header. A small one
// it reads as a whole.
func openFrame(src io.ReaderAt, size int64, key Key, o *frame.Options) (r *frame.Reader, small bool, err error) {
	if size <= smallEntry {
		b := make([]byte, max(0, size))
		// A file that got shorter since shows as damage below.
		n, err := src.ReadAt(b, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, false, err
		}
		src, size, small = frame.Bytes(b[:n]), int64(n), true
	}
	r, err = frame.Open(src, size, key, o)
	return r, small, err
}

// ReadAt implements [io.ReaderAt] for an Artifact.
func (e *entry) ReadAt(p []byte, off int64) (int, error) {
	n, err := e.r.ReadAt(p, off)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if errors.Is(err, fs.ErrClosed) {
		err = ErrClosed
	}
	if e.reported.Swap(true) {
		return n, e.d.errorOf("read", e.key, err)
	}
	return n, e.d.readFailed("read", e.key, e.fi, err)
}

// File implements [plainfile.Source] for an Artifact.
func (e *entry) File() (f *os.File, off int64, ok bool) {
	if off, ok = e.r.Plain(); !ok || e.f == nil {
		return nil, 0, false
	}
	f = dirfs.OS(e.f)
	return f, off, f != nil
}

// Close implements [io.Closer] for an Artifact.
func (e *entry) Close() error {
	if e.f == nil {
		return nil
	}
	return e.f.Close()
}

// verifies implements [selfVerifying].
func (e *entry) verifies(key Key) bool {
	e.r.Forget()
	return e.key == key
}

// readFailed counts and reports what went wrong with reading an entry, and
// moves a damaged one away.
func (d *Disk) readFailed(op string, key Key, fi fs.FileInfo, err error) error {
	if !isDamage(err) {
		return d.failed(op, key, err)
	}
	d.counters.corrupt.Add(1)
	// An entry of another key may be intact: it stays until an Add replaces it.
	if !errors.Is(err, ErrOtherKey) && !d.o.ReadOnly {
		d.quarantine(key, fi)
	}
	err = d.errorOf(op, key, err)
	d.notify(Event{Kind: EventCorrupt, Key: key, Err: err})
	return err
}
