package modcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/brief"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/wazerohook"
)

// This file is how a Cache talks to its store: no panic, no damage and no delay of a store's
// gets past it, and everything is counted and reported. Package bounded has the rule for what may hang.

// What a Cache waits for a call of somebody else's code. The call goes on without it then.
const (
	storeWait    = 5 * time.Second  // or, for what reads, as long as the compile is estimated to take
	unknownWait  = 30 * time.Second // for what reads, where there is no estimate
	observerWait = 3 * time.Second

	// After a lock that couldn't be had, no other is waited for longer than that, for a while.
	heldWait = 100 * time.Millisecond

	maxStoreCalls = 256 // of a kind at once, those included that were given up
)

// lanes are the kinds of calls of a store, which may hang without the others.
type lanes struct {
	reads, changes, locks, reports *bounded.Lane

	takeOvers *bounded.Lane // of reads from a directory of wazero's
	opens     *bounded.Lane // of the directory of Open, of which there is one at a time: while it hangs, it isn't tried again
	adds      *bounded.Lane // of waits for an Add that was given up, by those who want it to succeed
}

func newLanes() lanes {
	lane := func() *bounded.Lane { return bounded.NewLane(maxStoreCalls) }
	l := lanes{lane(), lane(), lane(), lane(), lane(), bounded.NewLane(1), lane()}
	l.locks.Heeds = true
	return l
}

// without calls f while no call is under way, or if ctx ends before: what hangs is then left to itself.
func (l *lanes) without(ctx context.Context, f func() error) (err error) {
	for _, lane := range []*bounded.Lane{l.reads, l.changes, l.locks, l.reports, l.takeOvers, l.adds} {
		if lane.Drain(ctx) == nil {
			defer lane.Refill()
		} else {
			err = &Error{Op: "close", Err: fmt.Errorf("what is under way in the store is left to itself: %w", bounded.ErrNoAnswer)}
		}
	}
	return cmp.Or(f(), err)
}

// ask calls the store, and waits for at most so long. What it returns later goes to late. While such calls hang, the store
// isn't called; and while reads hang, nothing is locked or stored either. Only a Layered may have layers that don't hang.
func ask[T any](ctx context.Context, c *Cache, lane *bounded.Lane, wait time.Duration, call func(context.Context, Store) (T, error), late func(T)) (v T, err error) {
	s := c.Store()
	if instant(s) && !observed(s) {
		return contain.Value(func() (T, error) { return call(ctx, s) })
	}
	asked := func(ctx context.Context) (T, error) { return call(ctx, s) }
	err = bounded.ErrHangs
	if lane == c.reads || lane == c.reports || !c.reads.Hangs() {
		v, err = bounded.Do(ctx, lane, wait, asked, late)
	}
	if _, layers := s.(*Layered); layers && err == bounded.ErrHangs {
		v, err = bounded.Try(ctx, lane, bounded.Grace, asked, late)
	}
	return v, err
}

// observed reports whether a store that is instant by itself calls an observer of the program's, which may do anything.
func observed(s Store) bool {
	m, ok := s.(*Memory)
	return ok && m.budget.observer != nil
}

// write is ask for calls that change the store.
func (c *Cache) write(ctx context.Context, wait time.Duration, call func(context.Context, Store) error) error {
	_, err := ask(ctx, c, c.changes, wait, func(ctx context.Context, s Store) (struct{}, error) { return struct{}{}, call(ctx, s) }, nil)
	return err
}

// lookup is one search for code that can be used, under one key or several. It remembers
// why it found none.
type lookup struct {
	c     *Cache
	name  string // of the module
	most  int64  // bytes that the code can take; 0 if that isn't known
	why   error  // the first reason that is more than absence
	ended bool   // reported as a hit or a miss
	whole bool   // what is found isn't loaded, so that it is verified at once
	spare bool   // what isn't found is made, also where modules have to be there

	places []place // by key
}

// place says where an artifact was found under a key.
type place struct {
	key    Key
	from   spot
	behind spot        // what is there and before it is of no use; nowhere at first
	leads  Fingerprint // the module that the alias names which was found last, if any
	alias  spot        // where that was
}

// place returns what is known of key.
func (l *lookup) place(key Key) *place {
	i := slices.IndexFunc(l.places, func(p place) bool { return p.key == key })
	if i < 0 {
		i = len(l.places)
		l.places = append(l.places, place{key: key})
	}
	return &l.places[i]
}

// pass has further gets of the key ask behind the layer in which the last one has found an artifact. again says whether
// there are layers behind.
func (l *lookup) pass(key Key) (again bool) {
	p := l.place(key)
	if p.from.last() {
		return false
	}
	p.behind = p.from
	return true
}

// get returns the artifact under key, or nil. Whatever the store is, the artifact was
// made for this key by this engine, its bytes are verified, now or as they are read, and
// a seal ends them. The caller closes it, having called reject if it is of no use, and tries again if reject
// says so.
func (l *lookup) get(ctx context.Context, key Key) *Artifact {
	l.c.tryDirectory()
	for again := true; again; {
		a, wrong := l.ask(ctx, key)
		if wrong == nil {
			return a
		}
		again = l.reject(key, wrong)
	}
	return nil
}

// ask asks the store once. It returns what is wrong with an artifact in place of that.
func (l *lookup) ask(ctx context.Context, key Key) (a *Artifact, wrong error) {
	type answer struct {
		a     *Artifact
		from  spot
		fresh bool // from a store that readsFrames
	}
	c, p := l.c, l.place(key)
	behind := p.behind
	if c.opts.RequireHit && !l.spare { // there is no compile that could be faster than the store
		ctx = WithCompileEstimate(ctx, -1)
	}
	ctx, end := c.begin(ctx, Step{Kind: StepLookup, Key: key, Name: l.name})
	found, err := ask(ctx, c, c.reads, waitFor(ctx, c.Store()), func(ctx context.Context, s Store) (found answer, err error) {
		found.fresh = readsFrames(s)
		found.a, found.from, err = getFrom(withCache(c.forStore(ctx)), s, key, behind)
		return found, err
	}, func(late answer) { closeArtifact(late.a) })
	if found.a == nil {
		found.a, found.fresh = c.unmoved(key), false
	}
	p.from = found.from
	if found.a != nil {
		a, wrong = l.usable(ctx, key, found.a, found.fresh)
	}
	step := StepEnd{Err: cmp.Or(err, wrong)}
	if a != nil {
		step.Bytes = a.Size()
	}
	end(step)
	if ctx.Err() != nil && !isDamage(wrong) { // nobody waits for it any more
		err, wrong = cmp.Or(err, wrong), nil
	}
	switch {
	case err != nil && ctx.Err() == nil:
		c.storeFailed("get", key, l.name, err)
		fallthrough
	case err != nil:
		l.note(err)
	case wrong == nil:
		c.health.worked("get")
	}
	return a, wrong
}

// usable returns what may be used of an artifact that the store has returned under key, which it takes over.
func (l *lookup) usable(ctx context.Context, key Key, found *Artifact, fresh bool) (*Artifact, error) {
	a, err := verify(key, l.c.engineID, found, l.most, fresh)
	if err != nil {
		l.c.release(found)
		return nil, err
	}
	u, unread := a.src.(*unsealed)
	switch {
	case unread && a.Size() <= sealPiece:
		defer l.c.release(a)
		return read(ctx, l.c, a, func(*Artifact) (*Artifact, error) { return u.copy() }, nil)
	case unread && l.whole:
		if _, err := read(ctx, l.c, a, func(*Artifact) (struct{}, error) { return struct{}{}, checkSeal(u.key, u.a) }, nil); err != nil {
			l.c.release(a)
			return nil, err
		}
	}
	return a, nil
}

// release closes an artifact that get has returned, if any. Some file systems wait for their server then.
func (c *Cache) release(a *Artifact) {
	if a == nil || a.InMemory() {
		return
	}
	_ = c.laneOf(a).GiveBack(storeWait, a.Close)
}

func (l *lookup) note(err error) {
	if l.why == nil {
		l.why = err
	}
}

// miss reports that the search ended without code that can be used, unless its end was reported.
func (l *lookup) miss(key Key) {
	if l.ended {
		return
	}
	l.ended = true
	l.c.counters.misses.Add(1)
	l.c.emit(Event{Kind: EventMiss, Reason: reasonOf(l.why), Key: key, Name: l.name, Err: l.why})
}

// hit reports that the search ended with code that could be used.
func (l *lookup) hit(key Key, a *Artifact) {
	l.ended = true
	l.c.hit(key, l.name, a)
}

// reject reports that an artifact couldn't be used, and again says whether the next get may find a better one. One that
// is wrong is deleted where it was found, so that the next compile replaces it; one that merely couldn't be read stays.
func (l *lookup) reject(key Key, err error) (again bool) {
	c := l.c
	err = entryDamage(err)
	l.note(err)
	if !isDamage(err) {
		if !c.Closed() {
			c.storeFailed("read", key, l.name, err)
		}
		return l.pass(key)
	}
	c.corrupt(key, l.name, err)
	again = l.pass(key)
	l.delete(key, l.place(key).from)
	return again
}

// delete deletes what get has found under key at a spot, if the Cache may write.
func (l *lookup) delete(key Key, from spot) {
	c := l.c
	if !c.writes() {
		return
	}
	if c.memory != nil {
		_ = c.memory.Delete(c.ctx, key)
	}
	err := c.write(c.ctx, storeWait, func(ctx context.Context, s Store) error {
		if l, ok := s.(*Layered); ok && c.readOnly() { // the first layer is memory, which is written; those behind it aren't
			return l.delete(ctx, key, spot{layer: l.layers[0]})
		}
		return deleteFrom(ctx, s, key, from)
	})
	if err != nil {
		c.storeFailed("delete", key, l.name, err)
	}
}

// hit reports that the artifact could be used.
func (c *Cache) hit(key Key, name string, a *Artifact) {
	c.counters.hits.Add(1)
	c.counters.saved.Add(int64(a.Info().CompileTime))
	c.emit(Event{Kind: EventHit, Key: key, Name: name, Bytes: a.Size()})
}

// entryDamage is err, as ErrCorrupt if it says that an entry isn't one of wazero's.
func entryDamage(err error) error {
	if errors.Is(err, wazerohook.ErrEntry) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

func (c *Cache) corrupt(key Key, name string, err error) {
	c.counters.corrupt.Add(1)
	c.health.note(err, c.now())
	if c.tells(err) {
		c.emit(Event{Kind: EventCorrupt, Key: key, Name: name, Err: err})
	}
}

// put seals the code, which it takes over, and stores it if the Cache may write, in the
// background if that takes long; added is closed when that has ended. It returns the
// artifact for those who need it at once. fits is false if the store is known to have refused it for its size.
func (c *Cache) put(key Key, code []byte, info Info) (a *Artifact, added <-chan struct{}, fits bool) {
	info.Engine, info.Created = c.engineID, time.Now()
	a = NewArtifact(seal(key, c.engineID, code), info)
	ended := make(chan struct{})
	if !c.writes() {
		close(ended)
		return a, ended, true
	}
	if most := mostCode(int(info.WasmSize)); info.WasmSize > 0 && a.Size() > most {
		c.storeFailed("add", key, info.Name, fmt.Errorf("%w: %d bytes of code for %d of wasm would not be loaded again", ErrTooLarge, a.Size(), info.WasmSize))
		close(ended)
		return a, ended, false
	}
	c.adding.Store(ended, true)
	end := sync.OnceFunc(func() {
		c.adding.Delete(ended)
		close(ended)
	})
	start := time.Now()
	add := func(_ context.Context, s Store) (took time.Duration, err error) {
		err = contain.Call(func() error { return s.Add(withCache(c.ctx), key, a) }) // not given up with us
		if err == nil {
			took = max(1, time.Since(start))
		}
		return took, err
	}
	op := "add"
	if frame.IsAlias(info.Module, info.WasmSize) {
		op += ofAlias
	}
	stored := func(took time.Duration) {
		if took > 0 {
			c.health.worked(op)
			c.emit(Event{Kind: EventStored, Key: key, Name: info.Name, Bytes: a.Size(), Duration: took})
		}
	}
	// Close waits for it too. What observers take isn't the store's time.
	took, err := ask(context.WithoutCancel(c.ctx), c, c.changes, storeWait, add, func(took time.Duration) {
		end() // now that the lane knows of it
		stored(took)
	})
	if err != nil {
		c.storeFailed(op, key, info.Name, err)
	}
	if err != bounded.ErrNoAnswer { // the store's own errors may wrap it
		end() // or it never began
	}
	stored(took)
	return a, ended, !errors.Is(err, ErrTooLarge)
}

func (c *Cache) storeFailed(op string, key Key, name string, err error) {
	c.counters.storeErrors.Add(1)
	e := Event{Kind: EventStoreFailed, Key: key, Name: name, Err: &Error{Op: strings.TrimSuffix(op, ofAlias), Key: key, Name: name, Err: err}}
	e.again = c.health.failed(op, e.Err, c.now())
	if op == "get" && errors.Is(err, ErrUnavailable) { // hits in a layer before it, or in none, don't end that
		e.again = c.wasTold("unavailable")
	}
	if c.tells(err) {
		c.emit(e)
	}
}

// featureCache is what all other features need.
const featureCache = "cache"

// degrade reports, once for each feature, that it is off from here on. Without a
// cache, all others are, which goes without saying.
func (c *Cache) degrade(feature string, err error) {
	_, off := c.degraded.Load(featureCache)
	if _, known := c.degraded.LoadOrStore(feature, brief.Error(err)); !known && !off {
		c.emit(Event{Kind: EventDegraded, Err: fmt.Errorf("modcache: no %s: %w", feature, err)})
	}
}

// emit reports what happened to the observer and the log. Whoever causes an event may hold
// what an observer waits for, a compile's slot or the module itself, so that nobody waits
// for an observer for long, and for one that doesn't return only once.
func (c *Cache) emit(e Event) {
	if observe := c.opts.OnEvent; observe != nil {
		c.tell(&c.observerHung, "reports to OnEvent", func() { notify(observe, e) })
	}
	if l := c.opts.Logger; l != nil {
		c.tell(&c.loggerHung, "log", func() { e.log(c.ctx, l) })
	}
}

// tell calls an observer that returns nothing.
func (c *Cache) tell(hung *atomic.Int64, name string, call func()) {
	told(c, hung, name, func() struct{} { call(); return struct{}{} })
}

// told calls an observer. hung counts its calls that were given up and haven't returned;
// until they do, it is told nothing.
func told[T any](c *Cache, hung *atomic.Int64, name string, call func() T) (answer T, ok bool) {
	if hung.Load() > 0 {
		c.counters.dropped.Add(1)
		return answer, false
	}
	answer, err := bounded.Call(context.Background(), bounded.Limit{Wait: observerWait, Hung: hung},
		func(context.Context) (T, error) { return call(), nil }, nil)
	if errors.Is(err, bounded.ErrNoAnswer) {
		c.degrade(name, fmt.Errorf("a call has not returned within %v; events are dropped until it does", observerWait))
	}
	return answer, err == nil
}

// counters are what a Cache counts by itself.
type counters struct {
	hits, misses, corrupt, storeErrors          atomic.Uint64
	compiles, compileErrors, coalesced, stubbed atomic.Uint64
	direct, dropped                             atomic.Uint64
	templates, snapshots, snapshotsFound        atomic.Uint64
	offHeap, offHeapFailed                      atomic.Uint64
	compileTime, saved                          atomic.Int64
}
