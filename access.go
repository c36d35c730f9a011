package modcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache/internal/wazerohook"
)

// This file is how a Cache talks to its store: nothing that a store does gets
// past it, and everything is counted and reported.

// lookup returns the artifact under key and the length of the code in it, or nil.
// Whatever the store is, the artifact was made for this key by this engine, and its
// bytes are verified, now or as they are read. The caller closes it, having
// called reject if it is of no use.
func (c *Cache) lookup(ctx context.Context, key Key, why *whyMissed) (*Artifact, int64) {
	var a *Artifact
	var ok bool
	err := guard("get", func() (err error) {
		a, ok, err = c.store.Get(ctx, key)
		return err
	})
	if err != nil || !ok || a == nil {
		discard(a)
		if err != nil && ctx.Err() == nil {
			c.storeFailed("get", key, err)
		}
		why.note(reasonOf(err), err)
		return nil, 0
	}
	var verified *Artifact
	err = guard("read", func() (err error) {
		verified, err = verify(key, c.engine, a)
		return err
	})
	if verified != a {
		discard(a)
	}
	if err != nil {
		c.reject(key, err, why)
		return nil, 0
	}
	return verified, verified.Size() - sealSize
}

// discard closes what a store returned and nobody will use.
func discard(a *Artifact) {
	if a != nil {
		_ = guard("close", a.Close)
	}
}

// hit reports that the artifact could be used.
func (c *Cache) hit(key Key, a *Artifact) {
	c.counters.hits.Add(1)
	c.counters.saved.Add(int64(a.Info().CompileTime))
	c.emit(Event{Kind: EventHit, Key: key, Bytes: a.Size()})
}

// miss reports that there was no artifact that could be used.
func (c *Cache) miss(key Key, why whyMissed) {
	c.counters.misses.Add(1)
	c.emit(Event{Kind: EventMiss, Reason: why.reason, Key: key, Err: why.err})
}

// whyMissed is why the lookups for one module found nothing: absence, or else the
// first reason that is more than that.
type whyMissed struct {
	reason Reason
	err    error
}

func (w *whyMissed) note(reason Reason, err error) {
	if w.reason == 0 || w.reason == ReasonAbsent {
		w.reason, w.err = reason, err
	}
}

// reject reports that an artifact couldn't be used. One that is wrong is deleted,
// so that the next compile replaces it; one that merely couldn't be read stays.
func (c *Cache) reject(key Key, err error, why *whyMissed) {
	err = entryDamage(err)
	why.note(reasonOf(err), err)
	if !isDamage(err) {
		c.storeFailed("read", key, err)
		return
	}
	c.corrupt(key, err)
	if c.opts.ReadOnly {
		return
	}
	if err := guard("delete", func() error { return c.store.Delete(c.ctx, key) }); err != nil {
		c.storeFailed("delete", key, err)
	}
}

// entryDamage is err, as ErrCorrupt if it says that an entry isn't one of wazero's.
func entryDamage(err error) error {
	if errors.Is(err, wazerohook.ErrEntry) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

func (c *Cache) corrupt(key Key, err error) {
	c.counters.corrupt.Add(1)
	c.emit(Event{Kind: EventCorrupt, Key: key, Err: err})
}

// put seals the code, which it takes over, and stores it if the Cache may write. It
// returns the artifact for those who need it at once.
func (c *Cache) put(ctx context.Context, key Key, code []byte, info Info) *Artifact {
	info.Engine, info.Created = c.engine, time.Now()
	a := NewArtifact(seal(key, c.engine, code), info)
	a.sealedAs.Store(&key)
	if c.opts.ReadOnly {
		return a
	}
	start := time.Now()
	if err := guard("add", func() error { return c.store.Add(ctx, key, a) }); err != nil {
		c.storeFailed("add", key, err)
		return a
	}
	c.emit(Event{Kind: EventStored, Key: key, Bytes: a.Size(), Duration: time.Since(start)})
	return a
}

func (c *Cache) storeFailed(op string, key Key, err error) {
	c.counters.storeErrors.Add(1)
	c.emit(Event{Kind: EventStoreFailed, Key: key, Err: fmt.Errorf("%s: %w", op, err)})
}

// featureCache is what all other features need.
const featureCache = "cache"

// degrade reports, once for each feature, that it is off from here on. Without a
// cache, all others are, which goes without saying.
func (c *Cache) degrade(feature string, err error) {
	c.mu.Lock()
	known := c.degraded[feature] || c.degraded[featureCache]
	c.degraded[feature] = true
	c.mu.Unlock()
	if !known {
		c.emit(Event{Kind: EventDegraded, Err: fmt.Errorf("modcache: no %s: %w", feature, err)})
	}
}

// emit reports what happened to the observer and the log.
func (c *Cache) emit(e Event) {
	notify(c.opts.OnEvent, e)
	e.log(c.ctx, c.opts.Logger)
}

// forward passes on what only the store of [Open] knows. Its hits and misses are
// the Cache's own.
func (c *Cache) forward(e Event) {
	switch e.Kind {
	case EventCorrupt, EventEvicted, EventDegraded:
		c.emit(e)
	}
}

// guardedReader turns panics of a store's reader into errors, because it is read
// from inside wazero.
type guardedReader struct{ src io.ReaderAt }

func (g guardedReader) ReadAt(p []byte, off int64) (n int, err error) {
	err = guard("read", func() (err error) {
		n, err = g.src.ReadAt(p, off)
		return err
	})
	return n, err
}

// guard calls into somebody else's code and turns a panic into an error.
func guard(op string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("modcache: %s panicked: %v\n%s", op, r, debug.Stack())
		}
	}()
	return f()
}

// counters are what a Cache counts by itself.
type counters struct {
	hits, misses, corrupt, storeErrors          atomic.Uint64
	compiles, compileErrors, coalesced, stubbed atomic.Uint64
	compileTime, saved                          atomic.Int64
}
