package modcache

import (
	"context"
	"errors"
	"fmt"
)

// sharedLookup is one lookup of the layers, which all callers that want the key
// meanwhile share.
type sharedLookup struct {
	cancel  context.CancelCauseFunc
	holders int  // callers, and the lookup itself; guarded by Layered.mu
	stale   bool // the entry changed meanwhile: don't join, don't promote; guarded by Layered.mu

	done chan struct{}
	a    *Artifact // these are set before done is closed; nil is a miss
	from *layer
	err  error
}

// Get implements [Store]. It returns the hit of the first layer that has one, and
// keeps other layers' errors to metrics and events; only a miss comes with the
// joined errors of all layers that could not tell. A context that ends frees this
// caller alone. A hit of the first layer allocates nothing here if that is a
// [Memory].
func (l *Layered) Get(ctx context.Context, key Key) (*Artifact, bool, error) {
	seen := l.changes.Load()
	var frontErr error
	if l.front != nil && !l.closed.Load() {
		var a *Artifact
		if a, frontErr = l.front.get(ctx, key); a != nil {
			l.hit(l.front, key, a)
			return a, true, nil
		}
	}
	a, from, err := l.lookup(ctx, key, seen)
	if a != nil {
		if l.alone && from != l.front && l.front.Promote != PromoteNever && l.front.Write != WriteNever && a.InMemory() {
			l.promoteInto(l.front, &sharedLookup{a: a, from: from}, key)
		}
		l.hit(from, key, a)
		return a, true, nil
	}
	err = errors.Join(frontErr, err)
	l.misses.Add(1)
	if l.options.OnEvent != nil {
		notify(l.options.OnEvent, Event{Kind: EventMiss, Reason: reasonOf(err), Key: key, Err: err})
	}
	return nil, false, err
}

func (l *Layered) hit(ly *layer, key Key, a *Artifact) {
	ly.hits.Add(key[0])
	if l.options.OnEvent != nil {
		notify(l.options.OnEvent, Event{Kind: EventHit, Key: key, Layer: ly.Name, Bytes: a.Size()})
	}
}

// lookup joins the shared lookup of the key or starts one. The front layer was
// asked already, when the count of changes was seen.
func (l *Layered) lookup(ctx context.Context, key Key, seen uint64) (*Artifact, *layer, error) {
	l.mu.Lock()
	if l.closed.Load() {
		l.mu.Unlock()
		return nil, nil, errLayeredClosed
	}
	s := l.lookups[key]
	if s == nil {
		if err := ctx.Err(); err != nil {
			l.mu.Unlock()
			return nil, nil, fmt.Errorf("modcache: layered store: get %v: %w", key, err)
		}
		// What ended meanwhile may have put the entry into the front layer: ask
		// it again then, and not otherwise, so that its own counters show one
		// lookup per lookup.
		asked := l.front
		if l.changes.Load() != seen && !l.alone {
			asked = nil
		}
		if asked != nil && len(l.layers) == 1 && asked.queue.pending[key] == nil {
			l.mu.Unlock()
			return nil, nil, nil
		}
		s = l.launch(ctx, key, asked)
	}
	s.holders++
	l.mu.Unlock()

	defer l.leave(ctx, s, key)
	select {
	case <-s.done:
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("modcache: layered store: get %v: %w", key, ctx.Err())
	}
	if s.a == nil {
		return nil, nil, s.err
	}
	a, err := s.a.share()
	return a, s.from, err
}

// launch starts the shared lookup of the key; mu is held. A layer that was asked
// already is not asked again.
func (l *Layered) launch(ctx context.Context, key Key, asked *layer) *sharedLookup {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	s := &sharedLookup{cancel: cancel, holders: 1, done: make(chan struct{})}
	l.lookups[key] = s
	l.ops.Add(1)
	go func() {
		defer l.ops.Done()
		defer l.land(s, key) // deferred: a store may end this goroutine
		s.err = errExited
		s.a, s.from, s.err = l.search(ctx, key, asked)
		if s.a != nil {
			l.promote(s, key)
		}
	}()
	return s
}

// search asks the layers in order, and what is on its way into them first.
func (l *Layered) search(ctx context.Context, key Key, asked *layer) (*Artifact, *layer, error) {
	var errs []error
	for _, ly := range l.layers {
		if a := l.onItsWay(ly, key); a != nil {
			return a, ly, nil
		}
		if ly == asked {
			continue
		}
		a, err := ly.get(ctx, key)
		if a != nil {
			return a, ly, nil
		}
		if err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil { // nobody is waiting any more
			break
		}
	}
	return nil, nil, errors.Join(errs...)
}

// land publishes what the lookup found, and leaves it to the callers.
func (l *Layered) land(s *sharedLookup, key Key) {
	l.mu.Lock()
	if l.lookups[key] == s {
		delete(l.lookups, key)
	}
	l.changes.Add(1)
	s.holders--
	last := s.holders == 0
	l.mu.Unlock()
	s.cancel(nil)
	close(s.done)
	if last {
		closeQuietly(s.a)
	}
}

// leave lets a caller go. The last one ends a lookup that is still under way, for
// the reason that its own context ended, or closes what it found.
func (l *Layered) leave(ctx context.Context, s *sharedLookup, key Key) {
	l.mu.Lock()
	s.holders--
	last := s.holders == 0
	if s.holders == 1 { // the lookup itself, or, after it, another caller
		s.cancel(context.Cause(ctx))
		if l.lookups[key] == s {
			l.forget(key)
		}
	}
	l.mu.Unlock()
	if last {
		closeQuietly(s.a)
	}
}

// forget keeps the shared lookup of key, if there is one, from being joined and from
// promoting what it finds; mu is held.
func (l *Layered) forget(key Key) {
	if s := l.lookups[key]; s != nil {
		s.stale = true
		delete(l.lookups, key)
	}
}
