package modcache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/breaker"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/flight"
	"github.com/modcache/modcache/internal/option"
	"github.com/modcache/modcache/internal/queue"
	"github.com/modcache/modcache/internal/watchers"
)

// WritePolicy says how a [Layer] takes part in [Layered.Add].
type WritePolicy uint8

const (
	// WriteThrough stores before Add returns.
	WriteThrough WritePolicy = iota
	// WriteBehind stores in the background. Until then the entry is served from
	// the queue, and other users of the store don't see it. A write that fails or
	// finds the queue full is counted, reported to the observer, and returned by
	// the next Flush or by Close.
	WriteBehind
	// WriteNever stores nothing, promotions included. Delete still reaches the
	// layer.
	WriteNever
)

// PromotePolicy says whether hits of slower layers are copied into a [Layer].
type PromotePolicy uint8

const (
	// PromoteHits copies them: at once where that takes no time (from memory
	// into memory), else in the background.
	PromoteHits PromotePolicy = iota
	// PromoteNever doesn't.
	PromoteNever
)

// Layer is one store of a [Layered]. Only Store is needed: the zero values of
// all else mean that the layer takes writes and promotions, and that a call
// which takes longer than DefaultLayerTimeout is given up.
type Layer struct {
	Store   Store         // a Layer without one is left out
	Name    string        // in errors, events and reports; "" = the store's type in lower case
	Write   WritePolicy   // how Add reaches it
	Promote PromotePolicy // whether hits of slower layers are copied into it

	// Timeout bounds every Get, Add and Delete, and a tenth of a Flush. A call
	// that doesn't return by then is left to itself, and what it returns later is
	// dropped. 0 means DefaultLayerTimeout, for each layer of a store that is a Layered; negative means no limit, for stores that
	// have limits of their own.
	//
	// Where a [Cache] has waited 5 seconds or more for a Get or a WriteThrough Add that was given up, the layer is skipped for a minute,
	// or until the call returns after all, if it was answered since the last one. A shorter Timeout makes a failure of it like others.
	Timeout time.Duration

	// Direct has the store called on the caller's goroutine, without a Timeout. It is
	// for stores that never block, nor end their goroutine (runtime.Goexit); panics are errors. Those of this package that live in memory are called so
	// unless they have a Timeout; a [Memory] with an observer, which may block, only for Get.
	Direct bool
}

// DefaultLayerTimeout is the Timeout of a [Layer] whose Timeout is 0.
const DefaultLayerTimeout = 10 * time.Second

// LayeredOptions configures a [Layered]. Zero fields mean the default, negative
// ones no limit.
type LayeredOptions struct {
	QueueBytes int64         // per layer, artifacts waiting for a background write; default 256 MiB, or an eighth of GOMEMLIMIT, but no less than 64 MiB; one that is larger by itself has room beside that
	MaxCalls   int           // per layer, calls under way, given up ones included; default 64
	BreakAfter int           // failures in a row after which a layer is skipped; default 5
	Cooldown   time.Duration // until a skipped layer is tried again, doubling up to a minute; default 1 s
	OnEvent    func(Event)   // see Event for when it is called
}

func (o *LayeredOptions) validate() LayeredOptions {
	var v LayeredOptions
	if o != nil {
		v = *o
	}
	v.QueueBytes = option.Queue(v.QueueBytes)
	v.MaxCalls = option.Number(v.MaxCalls, 64, math.MaxInt)
	v.BreakAfter = option.Number(v.BreakAfter, 5, 0)
	v.Cooldown = option.Number(v.Cooldown, time.Second, 0)
	return v
}

// instant reports whether calls of a store never block, so that they need neither a
// goroutine nor a time limit. What embeds one of these may do anything.
func instant(s Store) bool {
	switch s.(type) {
	case *Memory, *Local:
		return true
	}
	return false
}

// Layered makes one [Store] of several, fastest first: memory before disk
// before a cache that a fleet shares. A lookup asks them in order, and copies
// what it finds into the faster ones. A layer that fails, panics or is too slow
// never hides the hit of another; one that keeps failing is skipped for a while.
//
// Lookups of one key that the first layer can't answer at once share one lookup
// of the others, which no single caller's context ends.
//
// Where a [Cache] can't use what a layer has under a key, or can't read it, it looks for the key in the layers
// behind that; and while one artifact of a layer hangs when it is read, for a minute at a time, in place of reading another of
// that layer. So it does in the layers of a layer that is a Layered itself, but not in those of one that
// another type wraps: that hides which layer an artifact came from.
//
// A store may be a layer of several Layered at once, and the layers stay
// the caller's to close, after the Layered. With a [Local] as its first layer, a
// Layered is for one goroutine, as the Local is; elsewhere a Local can't be a layer,
// because layers are called from several goroutines.
type Layered struct {
	layers  []*layer
	front   *layer // the first layer, if it is Direct; else nil
	alone   bool   // front is a Local: for the caller's goroutine, and no other
	observe func(Event)

	watchers watchers.List[Event]

	misses      atomic.Uint64
	adds        atomic.Uint64
	rejected    atomic.Uint64
	flushes     atomic.Uint64
	flushErrors atomic.Uint64
	changes     atomic.Uint64 // lookups and background writes that ended

	closed atomic.Bool    // written under mu
	ops    sync.WaitGroup // what Close waits for; added to under mu

	mu       sync.Mutex // guards these and the layers' queues
	lookups  flight.Group[lookupKey, *found]
	deleting map[Key]int // deletes under way
	deleted  uint64      // how many have ended, of all keys: a promotion less costs little
	last     PromotionEvent
}

var _ Store = (*Layered)(nil)

// NewLayered makes a store of layers, fastest first. Close it before them. nil
// options are the defaults. Without layers it is a store that is always empty.
//
// A whole program: examples/layered.
func NewLayered(o *LayeredOptions, layers ...Layer) *Layered {
	v := o.validate()
	l := &Layered{observe: v.OnEvent, deleting: map[Key]int{}}
	l.lookups = flight.Group[lookupKey, *found]{Lock: &l.mu, Running: &l.ops, Grant: grant}
	names := map[string]bool{}
	for _, cfg := range layers {
		if cfg.Store != nil {
			l.layers = append(l.layers, l.newLayer(cfg, &v, names))
		}
	}
	if n := len(l.layers); n > 0 {
		l.layers[n-1].last = true
		if l.layers[0].Direct {
			l.front = l.layers[0]
			_, l.alone = l.front.Store.(*Local)
		}
	}
	return l
}

func (l *Layered) newLayer(cfg Layer, o *LayeredOptions, names map[string]bool) *layer {
	if cfg.Name == "" {
		t, _, _ := strings.Cut(reflect.TypeOf(cfg.Store).String(), "[") // without type arguments
		cfg.Name = strings.ToLower(t[strings.LastIndexByte(t, '.')+1:])
	}
	given := cfg.Name
	for n := 2; names[cfg.Name]; n++ {
		cfg.Name = fmt.Sprintf("%s#%d", given, n)
	}
	names[cfg.Name] = true
	watched := false
	if instant(cfg.Store) && cfg.Timeout == 0 {
		watched = !cfg.Direct && observed(cfg.Store)
		cfg.Direct = true
	}
	cfg.Timeout = option.Number(cfg.Timeout, DefaultLayerTimeout*time.Duration(stores(cfg.Store)), noLimit)
	ly := &layer{Layer: cfg, watched: watched, where: "layer " + cfg.Name, observe: func(e Event) {
		notify(o.OnEvent, e)
		l.watchers.Tell(e)
	}}
	ly.reads = breaker.Breaker{Limit: o.BreakAfter, Pause: o.Cooldown}
	ly.writes = breaker.Breaker{Limit: o.BreakAfter, Pause: o.Cooldown}
	ly.calls = semaphore.NewWeighted(int64(o.MaxCalls))
	ly.locks = bounded.NewLane(int64(o.MaxCalls))
	ly.locks.Heeds = true
	ly.artifacts = bounded.NewLane(maxStoreCalls)
	ly.locks.Hung, ly.artifacts.Hung = &ly.hung, &ly.hung
	ly.queue = queue.Queue[Key, write]{
		Lock: &l.mu, Workers: &l.ops, Max: 1, Limit: o.QueueBytes,
		Run:   func(j *queue.Job[Key, write]) error { return l.write(ly, j) },
		Ended: ly.written,
	}
	ly.promotions.Layer = cfg.Name
	return ly
}

// Observe implements [Observable]. What layers that are Observable tell is passed on too, under the
// names of the layers.
func (l *Layered) Observe(observer func(Event)) (stop func()) {
	stops := []func(){l.watchers.Add(observer), l.observeStores(observer, nil)}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// observeStores has all stores but one report to observer, under the names of their layers.
func (l *Layered) observeStores(observer func(Event), but Store) (stop func()) {
	var stops []func()
	for _, ly := range l.layers {
		if store, ok := ly.Store.(Observable); ok && ly.Store != but {
			_ = contain.Apart(func() error { // else the others still report
				stop := store.Observe(func(e Event) {
					e.Layer = ly.Name
					observer(e)
				})
				if stop != nil {
					stops = append(stops, stop)
				}
				return nil
			})
		}
	}
	return func() {
		for _, stop := range stops {
			_ = contain.Apart(func() error { stop(); return nil })
		}
	}
}

// begin registers an operation that Close waits for.
func (l *Layered) begin(op string, key Key) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return layeredError(op, key, ErrClosed)
	}
	l.ops.Add(1)
	return nil
}

// layeredError says that err is the Layered's own; it is nil if that is.
func layeredError(op string, key Key, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Store: "layered", Key: key, Err: err}
}

// joined makes one error of those of several layers; nil ones don't count.
func joined(op string, key Key, errs ...error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return layeredError(op, key, causes(errs))
}

// Add implements [Store]. It reaches all layers at once, as their [WritePolicy]
// says, and a layer that lacks the entry takes it although another has it. It
// returns the errors of all layers that failed, although others may
// have taken the artifact, which is readable then. That a layer refuses
// it, with [ErrTooLarge] or [ErrReadOnly], is an error only if none takes it.
func (l *Layered) Add(ctx context.Context, key Key, a *Artifact) error {
	if err := l.begin("add", key); err != nil {
		return err
	}
	defer l.ops.Done()
	errs := each(l.layers, func(ly *layer) error {
		switch ly.Write {
		case WriteThrough:
			start := time.Now()
			err := ly.add(ctx, key, a)
			if err == nil {
				ly.stored(EventStored, key, a, time.Since(start))
			}
			return err
		case WriteBehind:
			return l.writeBehind(ly, key, a)
		default:
			return ly.wrap("add", key, ErrReadOnly)
		}
	})
	l.forget(key) // a lookup that began before may have missed the entry

	var faults []error
	stored := false
	for _, err := range errs {
		stored = stored || err == nil
		if err != nil && !refused(err) {
			faults = append(faults, err)
		}
	}
	if stored {
		l.adds.Add(1)
		return joined("add", key, faults...)
	}
	l.rejected.Add(1)
	if len(errs) == 0 {
		return layeredError("add", key, fmt.Errorf("there are no layers: %w", ErrReadOnly))
	}
	return joined("add", key, errs...)
}

// Delete implements [Store]. It reaches all layers, those that are skipped
// otherwise too, and calls off background writes of the key. A WriteNever layer that refuses with
// [ErrReadOnly] isn't asked for the key from then on, so that what it has hides nothing in the
// others, unless all layers are WriteNever, or some thousand other keys were refused since. If a layer fails,
// the entry may still be in it; a write that was given up before may bring it
// back.
func (l *Layered) Delete(ctx context.Context, key Key) error { return l.delete(ctx, key, spot{}) }

// deleteFrom deletes the entry that a lookup has found, and that is of no use, in its layer and in those before it, into which it
// may have been promoted. What layers behind it have may be sound.
func deleteFrom(ctx context.Context, s Store, key Key, from spot) error {
	if l, ok := s.(*Layered); ok && from != (spot{}) {
		return l.delete(ctx, key, from)
	}
	return s.Delete(ctx, key)
}

// delete deletes in the layers up to a spot; nowhere means all of them.
func (l *Layered) delete(ctx context.Context, key Key, upTo spot) error {
	layers := l.layers
	if upTo != (spot{}) {
		layers = layers[:slices.Index(layers, upTo.layer)+1]
	}
	if err := l.begin("delete", key); err != nil {
		return err
	}
	defer l.ops.Done()
	// From here until the end, nobody promotes the key, and lookups that began
	// before the end never will: none of them may bring the entry back.
	l.mu.Lock()
	l.deleting[key]++
	dropped, running := callOff(key, layers)
	l.mu.Unlock()
	for _, a := range dropped {
		contain.Close(a)
	}
	waited := layeredError("delete", key, queue.Wait(ctx, running))

	replaced := slices.ContainsFunc(l.layers, func(ly *layer) bool { return ly.Write != WriteNever })
	errs := each(layers, func(ly *layer) error {
		in := upTo.within(ly)
		err := ly.delete(ctx, key, in)
		if replaced && ly.Write == WriteNever && errors.Is(err, ErrReadOnly) && in.last() {
			ly.pass(key)
		}
		return err
	})

	l.mu.Lock()
	l.forgetLookups(key)
	l.deleted++
	if l.deleting[key]--; l.deleting[key] == 0 {
		delete(l.deleting, key)
	}
	l.mu.Unlock()
	return joined("delete", key, append(errs, waited)...)
}

// Flush implements [Store]. It waits for the background writes and promotions
// that were under way, then flushes every layer that takes writes. Its error
// says which layers are not flushed, and which deferred writes were lost since
// the last Flush; each loss is reported once.
func (l *Layered) Flush(ctx context.Context) error {
	if err := l.begin("flush", Key{}); err != nil {
		return err
	}
	defer l.ops.Done()
	l.flushes.Add(1)
	waited := layeredError("flush", Key{}, queue.Wait(ctx, l.underWay()))
	errs := each(l.layers, func(ly *layer) error {
		if ly.Write == WriteNever {
			return nil
		}
		return ly.flush(ctx)
	})
	err := joined("flush", Key{}, append(append(errs, l.lost("flush")...), waited)...)
	if err != nil {
		l.flushErrors.Add(1)
	}
	return err
}

// Close waits for calls and background writes under way, and leaves the layers
// open. What they may take bounds how long it waits: when a layer hangs, its
// Timeout for some queued writes, until the layer is skipped; when an artifact hangs that is to be promoted, at most 30 seconds. Close
// returns the deferred writes that were lost since the last Flush. Afterwards,
// calls fail with [ErrClosed]. Calls that were given up may outlive it.
func (l *Layered) Close() error {
	l.mu.Lock()
	l.closed.Store(true)
	l.mu.Unlock()
	l.ops.Wait()
	return joined("close", Key{}, l.lost("close")...)
}

// each calls fn for all layers at once and returns their errors in order.
func each(layers []*layer, fn func(*layer) error) []error {
	errs := make([]error, len(layers))
	var wg sync.WaitGroup
	for i, ly := range layers {
		if !ly.changesAtOnce() && i < len(layers)-1 {
			wg.Go(func() { errs[i] = fn(ly) })
		} else {
			errs[i] = fn(ly)
		}
	}
	wg.Wait()
	return errs
}
