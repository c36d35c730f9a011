package modcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/environ"
	"github.com/modcache/modcache/internal/option"
)

// This file is where a Cache of Open keeps its code: in a directory; or in memory, while the
// directory can't be had.

// standInBytes is what memory holds in place of a directory. Modules that are retained have the same code beside it, and a
// process that has room for its directory is to have room for that.
const standInBytes = 64 << 20

const (
	// After how long a directory that couldn't be had is tried again: the first time, and
	// at most.
	firstRetry, lastRetry = time.Second, time.Minute
)

// inUse are the store, and the first of its layers where there are some behind the directory; else that is the store, too.
type inUse struct{ store, front Store }

// counters are those of the store without what it holds, and without what the layers behind the first have counted themselves.
func (u *inUse) counters() Metrics {
	m := u.store.Metrics()
	if u.front != u.store {
		own := u.front.Metrics()
		m.Corrupt, m.Evictions, m.EvictedBytes = own.Corrupt, own.Evictions, own.EvictedBytes
	}
	m.Entries, m.Bytes = 0, 0
	return m
}

// use makes s the store.
func (c *Cache) use(s Store) { c.inUse.Store(&inUse{s, s}) }

// useBefore makes front the store, before those that are to be behind it, if there are any. Close closes their Layered.
func (c *Cache) useBefore(front Store, behind []Layer) {
	if len(behind) == 0 {
		c.use(front)
		return
	}
	first := Layer{Store: front}
	if d, ok := front.(*Disk); ok && d.o.ReadOnly {
		first.Write = WriteNever
	}
	layers := append([]Layer{first}, behind...)
	if c.opts.ReadOnly {
		for i := range layers[1:] {
			layers[1+i].Write = WriteNever
		}
	}
	l := NewLayered(&LayeredOptions{OnEvent: frozen(c.forwardAll)}, layers...)
	c.owned = slices.Insert(c.owned, 0, io.Closer(boundedCloser{l}))
	c.observeBy(func() (stop func()) { return l.observeStores(frozen(c.forwardAll), front) })
	c.inUse.Store(&inUse{l, front})
}

// boundedCloser is a Layered whose layers are left to themselves if they hang when it is closed.
type boundedCloser struct{ *Layered }

func (l boundedCloser) Close() error {
	_, err := bounded.Call(context.Background(), bounded.Limit{Wait: storeWait},
		func(context.Context) (struct{}, error) { return struct{}{}, l.Layered.Close() }, nil)
	if errors.Is(err, bounded.ErrNoAnswer) {
		err = &Error{Op: "close", Store: "layered", Err: fmt.Errorf("what is under way in a layer is left to itself: %w", err)}
	}
	return err
}

// useMemory makes memory stand in for the store, before those that are to be behind it.
func (c *Cache) useMemory(behind []Layer) {
	c.memory = NewMemory(&MemoryOptions{MaxBytes: option.OfMemory(standInBytes, 8)})
	c.useBefore(c.memory, behind)
}

// inMemory reports whether memory stands in for the directory, or for the store of New.
func (c *Cache) inMemory() bool { return c.memory != nil && c.inUse.Load().front == Store(c.memory) }

// readOnly reports whether the store is only read: as was asked for, or until the directory can be written.
func (c *Cache) readOnly() bool {
	return c.opts.ReadOnly || len(c.opts.Behind) == 0 && c.memory == nil && c.late != nil && !c.late.done.Load()
}

// writes reports whether what is compiled is stored. readOnly is about a directory, not about the
// memory that stands in for it.
func (c *Cache) writes() bool { return !c.readOnly() || c.inMemory() }

// stop remembers why nothing is stored, or not where it was to be.
func (c *Cache) stop(why error) { c.idle.Store(stopped(c.now(), why)) }

// openDirectory gives the Cache its store.
func (c *Cache) openDirectory(dir string) error {
	if c.idle.Load() != nil {
		c.useMemory(nil) // as was reported when the Cache was made
		return nil
	}
	if c.env.Off {
		if c.opts.MustStore || c.needsDirectory() {
			return fmt.Errorf("modcache: %w, but Options.MustStore or RequireHit asks for a directory", errOff)
		}
		c.stop(errOff) // which is what was asked for: no event
		c.useMemory(c.opts.Behind)
		return nil
	}
	dir, err := chosenDir(dir)
	if err == nil {
		var d *Disk
		if d, err = c.openDisk(dir, c.opts.ReadOnly); err == nil {
			c.owned = append(c.owned, d)
			c.useBefore(d, c.opts.Behind)
			return nil
		}
	}
	if c.opts.MustStore {
		return err
	}
	late := &lateDisk{dir: dir, settled: make(chan struct{}), wait: firstRetry, next: c.now().Add(firstRetry)}
	if d := c.openExisting(dir); d != nil {
		c.owned = append(c.owned, d)
		c.useBefore(d, c.opts.Behind)
		c.late, late.standIn = late, c.inUse.Load()
		c.stop(err)
		c.degrade("storing in the directory, which is only read", err)
		return nil
	}
	if c.needsDirectory() {
		return err
	}
	c.stop(err)
	c.useMemory(c.opts.Behind)
	if dir != "" {
		c.late, late.standIn = late, c.inUse.Load()
	}
	c.degrade("directory to store code in, so that some of it is kept in memory", err)
	return nil
}

// needsDirectory reports whether without a directory, nothing could be a hit, as is required.
func (c *Cache) needsDirectory() bool { return c.opts.RequireHit && len(c.opts.Behind) == 0 }

// chosenDir is the directory that Open is to open. It is absolute, so that it is the same one when it
// is tried again, wherever the program has gone meanwhile.
func chosenDir(dir string) (_ string, err error) {
	if dir == "" {
		dir, err = environ.DefaultDir()
	}
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		err = fmt.Errorf("modcache: %w", err)
	}
	return dir, err
}

var errOff = errors.New("the environment says MODCACHE=off")

// openDisk opens the directory, but doesn't wait for a file system that hangs.
func (c *Cache) openDisk(dir string, readOnly bool) (*Disk, error) {
	o := c.opts.Disk
	o.ReadOnly = o.ReadOnly || readOnly
	tell := c.forward
	if len(c.opts.Behind) > 0 { // so that it is the first layer
		tell = func(e Event) {
			e.Layer = "disk"
			c.forwardAll(e)
		}
	}
	d, err := bounded.Do(c.ctx, c.opens, storeWait, func(context.Context) (*Disk, error) { return openDisk(dir, &o, dirfs.Open, tell) },
		func(d *Disk) {
			if d != nil {
				_ = d.Close()
			}
		})
	if errors.Is(err, bounded.ErrNoAnswer) {
		err = &Error{Op: "open", Store: "disk " + dir, Err: err}
	}
	return d, err
}

// openExisting opens a directory that can't be written for reading, or returns nil if there is
// no cache in it or even that can't be done.
func (c *Cache) openExisting(dir string) *Disk {
	if dir == "" || c.opts.ReadOnly {
		return nil
	}
	d, err := c.openDisk(dir, true)
	if err != nil {
		return nil
	}
	if tree := d.tree(); tree != nil {
		found, err := bounded.Do(c.ctx, c.opens, storeWait, func(context.Context) (bool, error) { return isCache(tree), nil }, nil)
		if err == nil && found {
			return d
		}
	}
	_ = d.Close()
	return nil
}

// lateDisk is a directory that couldn't be had yet, or only be read.
type lateDisk struct {
	dir     string
	standIn *inUse        // what is used meanwhile: memory, or the directory as it can be read
	done    atomic.Bool   // it could be had
	settled chan struct{} // closed after that, when what memory held has been moved

	trying atomic.Bool // held by the one who may touch what follows
	next   time.Time   // when to try again
	wait   time.Duration
}

// tryDirectory opens the directory that couldn't be had when the Cache was opened, if it is time to try
// that again. Whoever looks something up meanwhile does so in what stands in for it.
func (c *Cache) tryDirectory() {
	l := c.late
	if l == nil || l.done.Load() || !l.trying.CompareAndSwap(false, true) {
		return
	}
	defer l.trying.Store(false)
	now := c.now()
	if wait := l.next.Sub(now); wait > 0 && wait <= l.wait { // else the clock was set back
		return
	}
	l.wait = min(2*l.wait, lastRetry)
	l.next = now.Add(l.wait)
	d, err := c.openDisk(l.dir, c.opts.ReadOnly)
	if err != nil {
		return
	}
	c.owning.Lock()
	defer c.owning.Unlock()
	if c.Closed() {
		_ = d.Close()
		return
	}
	c.owned = append(c.owned, d)
	c.useBefore(d, c.opts.Behind)
	c.idle.Store(nil)
	l.done.Store(true)
	c.background.Go(func() {
		defer close(l.settled)
		if c.memory != nil {
			c.move(c.memory, d)
		}
	})
}

// settled waits until a directory that came late has what was to be in it, and returns what stood in for it; nil if
// nothing has.
func (c *Cache) settled(ctx context.Context) (former Store, err error) {
	if c.late == nil || !c.late.done.Load() {
		return nil, nil
	}
	select {
	case <-c.late.settled:
		return c.late.standIn.store, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("what was kept in memory is still being moved: %w", context.Cause(ctx))
	}
}

// move adds what memory holds to the directory that it stood in for. What the directory doesn't
// take stays in memory. Close waits for it.
func (c *Cache) move(from *Memory, to *Disk) {
	if c.opts.ReadOnly {
		return
	}
	ctx := context.WithoutCancel(c.ctx)
	for key, a := range from.artifacts() {
		if err := c.write(ctx, storeWait, func(ctx context.Context, _ Store) error { return to.Add(ctx, key, a) }); err != nil {
			c.storeFailed("add", key, a.Info().Name, err)
			if errors.Is(err, bounded.ErrNoAnswer) || errors.Is(err, bounded.ErrHangs) || errors.Is(err, ErrClosed) {
				break // so would the others
			}
			continue
		}
		_ = from.Delete(ctx, key)
	}
}

// unmoved returns what memory still holds that the directory doesn't have, or nil.
func (c *Cache) unmoved(key Key) *Artifact {
	if c.memory == nil || c.late == nil || !c.late.done.Load() {
		return nil
	}
	a, _ := c.memory.peek(key)
	return a
}
