package modcache

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
	"weak"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/contain"
)

// This file is how a Cache learns what happens in its store beside its own calls: what a layer
// hides because another one answered, and what happens in the background.

// observing is what a Cache remembers of such events.
type observing struct {
	stop func() // nil: the store doesn't tell

	mu   sync.Mutex            // guards these
	told []weak.Pointer[Error] // reported last, the newest at the end
	last map[string]time.Time  // when the same trouble was there
}

// quiet is how long a trouble has to be away to be news again.
const quiet = time.Minute

// observe has the store report to this Cache too.
func (c *Cache) observe(s Store) {
	watched, ok := s.(Observable)
	if !ok {
		return
	}
	tell := c.forwardAll
	if _, isDisk := s.(*Disk); isDisk {
		tell = c.forward
	}
	c.observeBy(func() (stop func()) { return watched.Observe(frozen(tell)) })
}

// observeBy calls what has the store report, in place of the one before.
func (c *Cache) observeBy(observe func() (stop func())) {
	stop, err := bounded.Call(c.ctx, bounded.Limit{Wait: storeWait},
		func(context.Context) (func(), error) { return observe(), nil }, stopObserving)
	if err != nil {
		c.degrade("reports of what happens in the store", err)
	}
	stopObserving(c.observing.stop)
	c.observing.stop = stop
}

// frozen returns an observer that tells events whose errors no longer change.
func frozen(tell func(Event)) func(Event) {
	return func(e Event) {
		e.Err = contain.Frozen(e.Err)
		tell(e)
	}
}

// stopObserving calls what a store's Observe has returned, which may be nil.
func stopObserving(stop func()) {
	if stop == nil {
		return
	}
	_, _ = bounded.Call(context.Background(), bounded.Limit{Wait: storeWait},
		func(context.Context) (struct{}, error) { stop(); return struct{}{}, nil }, nil)
}

// forwardAll is forward for stores in which more happens than the Cache sees in what its calls return.
func (c *Cache) forwardAll(e Event) {
	switch e.Kind {
	case EventStoreFailed:
		if !c.tells(e.Err) {
			return // a layer says what its store has said
		}
		c.health.note(e.Err, c.now())
		e.again = c.isOld("layer " + e.Layer)
		c.emit(e)
	case EventPromoted:
		c.emit(e)
	default:
		c.forward(e)
	}
}

// forward passes on what only a store knows. Hits and misses are the Cache's own, as are the
// failures of its calls.
func (c *Cache) forward(e Event) {
	switch e.Kind {
	case EventCorrupt:
		if !c.tells(e.Err) {
			return
		}
		s := c.health.note(e.Err, c.now())
		if errors.Is(e.Err, ErrOtherKey) {
			c.health.untrusted.Store(s)
			e.again = c.isOld("keys of " + e.Layer)
		}
		c.emit(e)
	case EventEvicted, EventDegraded, EventWaiting:
		c.emit(e)
	}
}

// tells reports whether an error is news, and not a part of one that was told, and remembers it.
func (c *Cache) tells(err error) bool {
	const remembered = 16
	o := &c.observing
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil {
		return true
	}
	for _, w := range o.told {
		if t := w.Value(); t != nil && errors.Is(err, t) {
			return false
		}
	}
	if e, ours := err.(*Error); ours { // which was made for one failure; others may be the same for many
		if len(o.told) == remembered {
			o.told = slices.Delete(o.told, 0, 1)
		}
		o.told = append(o.told, weak.Make(e))
	}
	return true
}

// isOld reports whether a trouble was there within the last minute.
func (c *Cache) isOld(trouble string) bool { return c.lasts(trouble, quiet, true) }

// wasTold reports whether a trouble was found not to be old within the last hour.
func (c *Cache) wasTold(trouble string) bool { return c.lasts(trouble, time.Hour, false) }

func (c *Cache) lasts(trouble string, ago time.Duration, renews bool) bool {
	now := c.now()
	o := &c.observing
	o.mu.Lock()
	defer o.mu.Unlock()
	last, ok := o.last[trouble]
	old := ok && now.Sub(last) < ago
	if old && !renews {
		return true
	}
	if o.last == nil {
		o.last = map[string]time.Time{}
	}
	o.last[trouble] = now
	return old
}
