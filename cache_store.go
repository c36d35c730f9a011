package modcache

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/wazerohook"
)

// This file is how a Cache talks to its store: no panic and no damage of a store's gets
// past it, and everything is counted and reported.

// lookup is one search for code that can be used, under one key or several. It remembers
// why it found none.
type lookup struct {
	c   *Cache
	why error // the first reason that is more than absence
}

// get returns the artifact under key, or nil. Whatever the store is, the artifact was
// made for this key by this engine, its bytes are verified, now or as they are read, and
// a seal ends them. The caller closes it, having called reject if it is of no use.
func (l *lookup) get(ctx context.Context, key Key) *Artifact {
	c := l.c
	var a *Artifact
	ok, err := contain.Value(func() (ok bool, err error) {
		a, ok, err = c.store.Get(ctx, key)
		return ok, err
	})
	if err != nil || !ok || a == nil {
		if a != nil {
			contain.Close(a)
		}
		if err != nil && ctx.Err() == nil {
			c.storeFailed("get", key, err)
		}
		l.note(err)
		return nil
	}
	verified, err := contain.Value(func() (*Artifact, error) { return verify(key, c.engineID, a) })
	if verified != a {
		contain.Close(a)
	}
	if err != nil {
		l.reject(key, err)
		return nil
	}
	return verified
}

func (l *lookup) note(err error) {
	if l.why == nil {
		l.why = err
	}
}

// miss reports that the search ended without code that can be used.
func (l *lookup) miss(key Key) {
	l.c.counters.misses.Add(1)
	l.c.emit(Event{Kind: EventMiss, Reason: reasonOf(l.why), Key: key, Err: l.why})
}

// reject reports that an artifact couldn't be used. One that is wrong is deleted,
// so that the next compile replaces it; one that merely couldn't be read stays.
func (l *lookup) reject(key Key, err error) {
	c := l.c
	err = entryDamage(err)
	l.note(err)
	if !isDamage(err) {
		c.storeFailed("read", key, err)
		return
	}
	c.corrupt(key, err)
	if c.opts.ReadOnly {
		return
	}
	if err := contain.Call(func() error { return c.store.Delete(c.ctx, key) }); err != nil {
		c.storeFailed("delete", key, err)
	}
}

// hit reports that the artifact could be used.
func (c *Cache) hit(key Key, a *Artifact) {
	c.counters.hits.Add(1)
	c.counters.saved.Add(int64(a.Info().CompileTime))
	c.emit(Event{Kind: EventHit, Key: key, Bytes: a.Size()})
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
	info.Engine, info.Created = c.engineID, time.Now()
	a := NewArtifact(seal(key, c.engineID, code), info)
	if c.opts.ReadOnly {
		return a
	}
	start := time.Now()
	if err := contain.Call(func() error { return c.store.Add(ctx, key, a) }); err != nil {
		c.storeFailed("add", key, err)
		return a
	}
	c.emit(Event{Kind: EventStored, Key: key, Bytes: a.Size(), Duration: time.Since(start)})
	return a
}

func (c *Cache) storeFailed(op string, key Key, err error) {
	c.counters.storeErrors.Add(1)
	c.emit(Event{Kind: EventStoreFailed, Key: key, Err: &Error{Op: op, Key: key, Err: err}})
}

// featureCache is what all other features need.
const featureCache = "cache"

// degrade reports, once for each feature, that it is off from here on. Without a
// cache, all others are, which goes without saying.
func (c *Cache) degrade(feature string, err error) {
	_, off := c.degraded.Load(featureCache)
	if _, known := c.degraded.LoadOrStore(feature, true); !known && !off {
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

// counters are what a Cache counts by itself.
type counters struct {
	hits, misses, corrupt, storeErrors          atomic.Uint64
	compiles, compileErrors, coalesced, stubbed atomic.Uint64
	compileTime, saved                          atomic.Int64
}
