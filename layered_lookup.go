package modcache

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/flight"
)

// spot is where an artifact was found: in a layer, and if the layer's store is a Layered, at a spot in that. In a store
// without layers it is nowhere, which is the zero spot.
type spot struct {
	layer *layer
	in    *spot
}

// last reports whether no layers are behind it.
func (s spot) last() bool {
	return s.layer == nil || s.layer.last && s.within(s.layer).last()
}

// within returns the spot in a layer's own layers, or nowhere if it is in another layer, or that has none.
func (s spot) within(ly *layer) spot {
	if s.layer != ly || s.in == nil {
		return spot{}
	}
	return *s.in
}

// found is what a lookup of the layers has found, for all callers that share it.
type found struct {
	a     *Artifact    // nil: a miss
	from  spot         // where it was
	holds atomic.Int32 // callers that haven't taken their handle
}

// lookupKey is what lookups are shared by. A layer may take longer than a Cache waits, where none does, and longer than a
// compile, where there is none.
type lookupKey struct {
	key      Key
	caches   bool
	compiles bool
}

// grant gives each of n callers a hold on what was found.
func grant(_ lookupKey, f *found, n int) func() {
	f.holds.Store(int32(n))
	if n > 0 || f.a == nil {
		return nil
	}
	return func() { contain.Close(f.a) }
}

// take gives the caller's hold up for a handle of its own.
func (f *found) take() (*Artifact, error) {
	defer func() {
		if f.holds.Add(-1) == 0 {
			contain.Close(f.a)
		}
	}()
	return f.a.share()
}

// Get implements [Store]. It returns the hit of the first layer that has one, and
// keeps other layers' errors to metrics and events; only a miss comes with the
// errors of all layers that could not tell. A context that ends frees this
// caller alone. A hit of the first layer allocates nothing here if that is a
// [Memory].
func (l *Layered) Get(ctx context.Context, key Key) (*Artifact, bool, error) {
	a, _, err := l.get(ctx, key)
	return a, a != nil, err
}

// get is Get, and says where the artifact was.
func (l *Layered) get(ctx context.Context, key Key) (a *Artifact, from spot, err error) {
	seen := l.changes.Load()
	var frontErr error
	if l.front != nil && !l.closed.Load() {
		var in *spot
		if a, in, frontErr = l.front.get(ctx, key, spot{}, noLimit); a != nil {
			l.hit(l.front, key, a)
			return a, spot{l.front, in}, nil
		}
	}
	a, from, err = l.lookup(ctx, key, seen)
	if a != nil {
		if l.alone && from.layer != l.front && l.front.takesPromotions() && a.InMemory() {
			l.promoteInto(l.front, key, a, write{from: from.layer}, func() bool { return false })
		}
		l.hit(from.layer, key, a)
		return a, from, nil
	}
	return nil, spot{}, l.miss(key, joined("get", key, frontErr, err))
}

// getBehind is get in what is behind a spot, where the entry is of no use; nowhere means all.
func (l *Layered) getBehind(ctx context.Context, key Key, behind spot) (a *Artifact, from spot, err error) {
	if behind == (spot{}) {
		return l.get(ctx, key)
	}
	if err := l.begin("get", key); err != nil {
		return nil, spot{}, l.miss(key, err)
	}
	defer l.ops.Done()
	l.mu.Lock()
	deleted := l.deleted
	l.mu.Unlock()
	f, err := l.search(ctx, key, behind, nil, func() bool { return l.deleted != deleted })
	if err != nil || f.a == nil {
		return nil, spot{}, l.miss(key, err)
	}
	l.hit(f.from.layer, key, f.a)
	return f.a, f.from, nil
}

// getFrom is the Get of a store behind a spot in it, and says where in it the artifact was.
func getFrom(ctx context.Context, s Store, key Key, behind spot) (a *Artifact, from spot, err error) {
	if l, ok := s.(*Layered); ok {
		return l.getBehind(ctx, key, behind)
	}
	a, ok, err := s.Get(ctx, key)
	if err != nil || !ok {
		closeArtifact(a)
		a = nil
	}
	return a, spot{}, err
}

func (l *Layered) miss(key Key, err error) error {
	l.misses.Add(1)
	if l.observe != nil {
		notify(l.observe, Event{Kind: EventMiss, Reason: reasonOf(err), Key: key, Err: err})
	}
	return err
}

func (l *Layered) hit(ly *layer, key Key, a *Artifact) {
	ly.hits.Add(key[0])
	if l.observe != nil {
		notify(l.observe, Event{Kind: EventHit, Key: key, Layer: ly.Name, Name: a.Info().Name, Bytes: a.Size()})
	}
}

// lookup takes part in the shared lookup of the key. The front layer was asked already,
// when the count of changes was seen.
func (l *Layered) lookup(ctx context.Context, key Key, seen uint64) (*Artifact, spot, error) {
	for {
		f, err := l.join(ctx, key, seen)
		if f == nil {
			return nil, spot{}, err
		}
		got, err := f.Wait(ctx)
		switch {
		case err == flight.ErrAbandoned:
			continue
		case err == nil && got.a == nil:
			return nil, spot{}, nil
		case err == nil:
			a, err := got.take()
			return a, got.from, err
		case ctx.Err() != nil:
			err = ctx.Err()
		}
		if _, ok := err.(*Error); !ok {
			err = layeredError("get", key, err)
		}
		return nil, spot{}, err
	}
}

// join joins the shared lookup of the key or starts one. It returns nil if there is no
// need to, or no use.
func (l *Layered) join(ctx context.Context, key Key, seen uint64) (*flight.Flight[*found], error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed.Load():
		return nil, layeredError("get", key, ErrClosed)
	case ctx.Err() != nil:
		return nil, layeredError("get", key, ctx.Err())
	}
	// What ended meanwhile may have put the entry into the front layer: ask
	// it again then, and not otherwise, so that its own counters show one
	// lookup per lookup.
	asked := l.front
	if l.changes.Load() != seen && !l.alone {
		asked = nil
	}
	if asked != nil && len(l.layers) == 1 && asked.queue.Find(key) == nil {
		return nil, nil
	}
	var f *flight.Flight[*found]
	f, _ = l.lookups.Join(context.WithoutCancel(ctx), lookupKey{key, fromCache(ctx), CompileEstimate(ctx) >= 0}, func(ctx context.Context) (*found, error) {
		defer l.changes.Add(1)
		return l.search(ctx, key, spot{}, asked, func() bool { return ctx.Err() != nil || f.Forgotten() })
	})
	return f, nil
}

// forget keeps the shared lookup of key, if there is one, from being joined and from
// promoting what it finds.
func (l *Layered) forget(key Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetLookups(key)
}

// forgetLookups is forget with mu held.
func (l *Layered) forgetLookups(key Key) {
	for _, caches := range []bool{false, true} {
		for _, compiles := range []bool{false, true} {
			l.lookups.Forget(lookupKey{key, caches, compiles})
		}
	}
}

// search asks the layers behind a spot in order, and what is on its way into them first; nowhere means all. A layer that
// was asked already is not asked again. What is found is promoted unless stale, which is
// called under mu, says no.
func (l *Layered) search(ctx context.Context, key Key, behind spot, asked *layer, stale func() bool) (*found, error) {
	var errs []error
	for _, ly := range l.behind(behind) {
		var a *Artifact
		var at *spot
		in := behind.within(ly)
		if in == (spot{}) {
			a = l.onItsWay(ly, key)
		}
		if a == nil && ly != asked {
			var err error
			if a, at, err = ly.get(ctx, key, in, ly.share(ctx)); err != nil {
				errs = append(errs, err)
			}
		}
		if a != nil {
			l.promote(key, a, write{from: ly, sealed: fromCache(ctx)}, stale)
			return &found{a: a, from: spot{ly, at}}, nil
		}
		if ctx.Err() != nil { // nobody is waiting any more
			return nil, context.Cause(ctx)
		}
	}
	if len(errs) > 0 {
		return nil, joined("get", key, errs...)
	}
	return new(found), nil
}

// behind returns the layers that have something behind a spot; nowhere means all, and so does a spot in the store that a Cache
// used before.
func (l *Layered) behind(s spot) []*layer {
	i := slices.Index(l.layers, s.layer)
	if i < 0 {
		return l.layers
	}
	if s.within(s.layer).last() {
		i++
	}
	return l.layers[i:]
}
