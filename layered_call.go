package modcache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/breaker"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/queue"
	"github.com/modcache/modcache/internal/stripe"
)

// tooSlowError is a deadline of the layer's, not of a caller.
type tooSlowError struct {
	annotated
	limit time.Duration
}

func (*tooSlowError) Is(target error) bool { return target == context.DeadlineExceeded }

// layer is one store of a Layered with all that is known about it.
type layer struct {
	Layer
	where   string // for errors
	last    bool   // there is none behind it
	watched bool   // it is Direct, but an observer is told of what leaves it
	observe func(Event)

	calls         *semaphore.Weighted // taken by calls under way, given up ones included
	locks         *bounded.Lane       // for calls that wait for others by design
	artifacts     *bounded.Lane       // for reads of what it has returned, or is to get
	reads, writes breaker.Breaker

	getTime, addTime stopwatch // of calls that aren't Direct

	passed  sync.Map     // Key: of a WriteNever layer, which couldn't delete it: not asked for it again
	passing atomic.Int64 // how many these are

	hits        stripe.Counter // the only counter that the fastest path touches
	errs        atomic.Uint64
	timeouts    atomic.Uint64
	skipped     atomic.Uint64
	hung        atomic.Int64
	lastMetrics atomic.Pointer[Metrics] // that the store returned

	// Guarded by Layered.mu:
	queue      queue.Queue[Key, write]
	dropped    uint64 // writes that didn't fit the queue
	promotions LayerPromotions
}

// ask is the store's Get, behind a spot in it, with its panics contained. A miss is nil. in is where in the store
// it was found, if that is a Layered.
func (ly *layer) ask(ctx context.Context, key Key, behind spot) (a *Artifact, in *spot, err error) {
	var ok bool
	err = contain.Call(func() (err error) {
		if l, layers := ly.Store.(*Layered); layers {
			var at spot
			a, at, err = l.getBehind(ctx, key, behind)
			ok, in = a != nil, &at
			return err
		}
		a, ok, err = ly.Store.Get(ctx, key)
		return err
	})
	switch {
	case !ok || err != nil:
		closeArtifact(a)
		return nil, nil, err
	case a == nil:
		return nil, nil, errors.New("the store claims a hit without an artifact")
	case a.InMemory() || a.lane != nil: // which is that of a layer in it
		return a, in, nil
	}
	defer contain.Close(a)
	a, err = a.shareIn(ly.artifacts)
	return a, in, err
}

// closeArtifact closes a handle, if there is one, that nobody wants.
func closeArtifact(a *Artifact) {
	if a != nil {
		contain.Close(a)
	}
}

// share is how long the layer may take. One that hangs hides none behind it from a Cache, which waits so long for each.
func (ly *layer) share(ctx context.Context) time.Duration {
	if ly.last || !fromCache(ctx) { // as only a Cache does
		return ly.Timeout
	}
	return min(ly.Timeout, waitFor(ctx, ly.Store))
}

// get asks the store, behind a spot in it; a miss is nil. in is as of ask. Only one that is Direct may take longer than limit.
func (ly *layer) get(ctx context.Context, key Key, behind spot, limit time.Duration) (a *Artifact, in *spot, err error) {
	if ly.Write == WriteNever {
		if _, ok := ly.passed.Load(key); ok {
			return nil, nil, nil
		}
	}
	if ly.reads.Ask() == breaker.No {
		return nil, nil, ly.skip("get", key, ErrUnavailable)
	}
	if ly.Direct { // apart, because the closures of a bounded call cost allocations
		a, in, err = ly.ask(ctx, key, behind)
	} else {
		a, in, err = ly.getWithin(ctx, key, behind, limit)
	}
	if err != nil {
		return nil, nil, ly.failed(ctx, &ly.reads, "get", key, err)
	}
	ly.reads.Succeed()
	return a, in, nil
}

// maxPassed is how many keys a layer isn't asked for.
const maxPassed = 4096

// pass has the layer not be asked for a key any more. If these become too many, it is asked for all others again.
func (ly *layer) pass(key Key) {
	if _, known := ly.passed.LoadOrStore(key, nil); !known && ly.passing.Add(1) > maxPassed {
		ly.passed.Clear()
		ly.passing.Store(1)
		ly.passed.Store(key, nil)
	}
}

func (ly *layer) getWithin(ctx context.Context, key Key, behind spot, limit time.Duration) (*Artifact, *spot, error) {
	defer ly.getTime.since(time.Now())
	type answer struct {
		a  *Artifact
		in *spot
	}
	got, err := within(ctx, ly, ly.calls, limit, func(ctx context.Context) (got answer, err error) {
		got.a, got.in, err = ly.ask(ctx, key, behind)
		answered(ctx, &ly.reads, err)
		return got, err
	}, func(late answer) { closeArtifact(late.a) })
	return got.a, got.in, err
}

// add stores a, whose handle stays the caller's.
func (ly *layer) add(ctx context.Context, key Key, a *Artifact) error {
	if ly.writes.Ask() == breaker.No {
		return ly.skip("add", key, ErrUnavailable)
	}
	if !ly.changesAtOnce() {
		defer ly.addTime.since(time.Now())
	}
	err := ly.do(ctx, ly.Timeout, func(ctx context.Context) error {
		// A handle of its own: the store may go on reading after it was given up.
		own, err := a.share()
		if err != nil {
			return err
		}
		defer contain.Close(own)
		err = contain.Call(func() error { return ly.Store.Add(ctx, key, own) })
		answered(ctx, &ly.writes, err)
		return err
	})
	if err != nil {
		return ly.failed(ctx, &ly.writes, "add", key, err)
	}
	ly.writes.Succeed()
	return nil
}

// stored reports that an entry is in the layer, one way or another.
func (ly *layer) stored(kind EventKind, key Key, a *Artifact, took time.Duration) {
	notify(ly.observe, Event{Kind: kind, Key: key, Layer: ly.Name, Name: a.Info().Name, Bytes: a.Size(), Duration: took})
}

// delete doesn't ask the breaker: to skip it would leave behind what the caller
// wants gone. The same goes for flush. In a Layered, it deletes up to a spot.
func (ly *layer) delete(ctx context.Context, key Key, upTo spot) error {
	err := ly.do(ctx, ly.Timeout, func(ctx context.Context) error { return deleteFrom(ctx, ly.Store, key, upTo) })
	if err != nil {
		return ly.failed(ctx, &ly.writes, "delete", key, err)
	}
	ly.writes.Succeed()
	return nil
}

// flushFactor times its Timeout is what a layer may take for a Flush, which does
// the work of many calls.
const flushFactor = 10

func (ly *layer) flush(ctx context.Context) error {
	limit := ly.Timeout
	if limit <= math.MaxInt64/flushFactor {
		limit *= flushFactor
	}
	err := ly.do(ctx, limit, func(ctx context.Context) error { return ly.Store.Flush(ctx) })
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ly.wrap("flush", Key{}, err)
	}
	return ly.report(EventStoreFailed, "flush", Key{}, err)
}

// do is within for calls that return nothing but an error.
func (ly *layer) do(ctx context.Context, limit time.Duration, fn func(context.Context) error) error {
	_, err := within(ctx, ly, ly.calls, limit,
		func(ctx context.Context) (struct{}, error) { return struct{}{}, fn(ctx) }, nil)
	return err
}

// changesAtOnce reports whether what changes the store never blocks either.
func (ly *layer) changesAtOnce() bool { return ly.Direct && !ly.watched }

// noLimit is a time limit that lets only the context end a call.
const noLimit time.Duration = math.MaxInt64

// within calls call, contains its panic, and returns when limit is over even if call
// doesn't. What it returns after that goes to drop, if there is one. A call that was given up
// keeps its place among the bounded calls until it ends, so that a layer which never
// answers holds a bounded number of goroutines. If the layer changesAtOnce, call runs on this
// goroutine for as long as it likes.
func within[T any](ctx context.Context, ly *layer, bound *semaphore.Weighted, limit time.Duration, call func(context.Context) (T, error), drop func(T)) (T, error) {
	if ly.changesAtOnce() {
		return contain.Value(func() (T, error) { return call(ctx) })
	}
	start := time.Now()
	v, err := bounded.Call(ctx, bounded.Limit{Wait: limit, Slots: bound, Hung: &ly.hung}, call, drop)
	switch { // the errors of stores may wrap such of ours
	case err == nil:
		return v, nil
	case ctx.Err() != nil:
		return v, ctx.Err()
	case err == bounded.ErrFull:
		err = ErrUnavailable
	case err == bounded.ErrNoAnswer:
		err = context.DeadlineExceeded
	case time.Since(start) < limit:
		return v, err
	}
	return v, &tooSlowError{annotated{before: fmt.Sprintf("too slow: no answer in %v: ", limit), err: err}, limit}
}

// answered has a layer that answers too late be asked again, unless it did so before: one that is always too late is skipped.
func answered(ctx context.Context, b *breaker.Breaker, err error) {
	if err != nil || ctx.Err() == nil {
		return
	}
	if pauses, _ := b.Pauses(); pauses == 1 {
		b.Recover()
	}
}

// hangs reports whether an error says that a Cache has waited for a layer as long as for a store that hangs, which it does
// once. Only this layer's own: in one that is a Layered, others may answer.
func hangs(ctx context.Context, err error) bool {
	slow, ok := err.(*tooSlowError)
	return ok && slow.limit >= storeWait && fromCache(ctx)
}

// failed counts and reports an error of the store, and says what failed where. ctx is the caller's: if it has ended, the store is not to blame.
func (ly *layer) failed(ctx context.Context, b *breaker.Breaker, op string, key Key, err error) error {
	if ctx.Err() != nil {
		b.Abstain()
		return ly.wrap(op, key, err)
	}
	kind := EventStoreFailed
	switch {
	case leavesAlone(err): // the store finds out by itself when to ask again; on top of that, skipping it would be late
		b.Abstain()
		return ly.skip(op, key, err)
	case isDamage(err):
		b.Succeed()
		kind = EventCorrupt
	case refused(err):
		b.Succeed()
	case hangs(ctx, err):
		if b.Fail(breaker.Hard, bounded.Pause) {
			err = &annotated{err: err, after: fmt.Sprintf(" (the layer is skipped for %v, or until it answers)", bounded.Pause)}
		}
	case b.Fail(breaker.Soft, 0):
		err = &annotated{err: err, after: fmt.Sprintf(" (failure %d in a row: the layer is skipped for a while)", b.Limit)}
	}
	return ly.report(kind, op, key, err)
}

// report counts an error, tells the observer of it, and says what failed where.
func (ly *layer) report(kind EventKind, op string, key Key, err error) error {
	ly.count(err)
	err = ly.wrap(op, key, err)
	notify(ly.observe, Event{Kind: kind, Key: key, Layer: ly.Name, Err: err})
	return err
}

// leavesAlone reports whether err is that of a remote store which leaves its server alone, and not one that somebody made of it, who
// may have taken long.
func leavesAlone(err error) bool {
	e, ok := err.(*Error)
	return ok && errors.Is(e.Err, breaker.ErrOpen)
}

// skip says that nobody was asked.
func (ly *layer) skip(op string, key Key, err error) error {
	ly.skipped.Add(1)
	return ly.wrap(op, key, err)
}

func (ly *layer) count(err error) {
	if refused(err) || isDamage(err) {
		return
	}
	ly.errs.Add(1)
	var slow *tooSlowError
	if errors.As(err, &slow) {
		ly.timeouts.Add(1)
	}
}

func (ly *layer) wrap(op string, key Key, err error) error {
	return &Error{Op: op, Store: ly.where, Key: key, Err: err}
}

// refused reports whether a healthy store declined to take an artifact.
func refused(err error) bool {
	return errors.Is(err, ErrTooLarge) || errors.Is(err, ErrReadOnly)
}
