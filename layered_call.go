package modcache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache/internal/stripe"
)

var (
	errExited        = errors.New("the call ended its goroutine")
	errTooSlow error = tooSlowError{}
)

// tooSlowError is a deadline of the layer's, not of a caller.
type tooSlowError struct{}

func (tooSlowError) Error() string        { return "too slow" }
func (tooSlowError) Is(target error) bool { return target == context.DeadlineExceeded }

// layer is one store of a Layered with all that is known about it.
type layer struct {
	Layer
	observe func(Event)

	slots         chan struct{} // taken by calls under way, given up ones included; nil: no bound
	lockSlots     chan struct{} // the same for locks, which wait for others by design
	reads, writes breaker

	getTime, addTime stopwatch // of bounded calls

	hits     stripe.Counter // the only counter that the fastest path touches
	errs     atomic.Uint64
	timeouts atomic.Uint64
	skipped  atomic.Uint64
	hung     atomic.Int64
	told     atomic.Pointer[Metrics] // what the store said last

	queue      queue           // guarded by Layered.mu
	promotions LayerPromotions // guarded by Layered.mu
}

// direct reports whether the store is called on the caller's goroutine.
func (ly *layer) direct() bool { return ly.Timeout <= 0 }

// ask is the store's Get with its panics contained. A miss is nil, nil.
func (ly *layer) ask(ctx context.Context, key Key) (a *Artifact, err error) {
	defer func() {
		if r := recover(); r != nil {
			a, err = nil, panicError(r)
		}
	}()
	a, ok, err := ly.Store.Get(ctx, key)
	if ok && err == nil {
		if a == nil {
			return nil, errors.New("the store claims a hit without an artifact")
		}
		return a, nil
	}
	closeQuietly(a)
	return nil, err
}

// get asks the store; a miss is nil, nil.
func (ly *layer) get(ctx context.Context, key Key) (a *Artifact, err error) {
	if !ly.reads.allow() {
		return nil, ly.skip("get", key)
	}
	if ly.direct() { // apart, because the closures of a bounded call cost allocations
		a, err = ly.ask(ctx, key)
	} else {
		a, err = ly.getWithin(ctx, key)
	}
	if err != nil {
		return nil, ly.failed(ctx, &ly.reads, "get", key, err)
	}
	ly.reads.success()
	return a, nil
}

func (ly *layer) getWithin(ctx context.Context, key Key) (*Artifact, error) {
	defer ly.getTime.since(time.Now())
	get := func(ctx context.Context) (*Artifact, error) { return ly.ask(ctx, key) }
	return within(ctx, ly, ly.slots, ly.Timeout, get, closeQuietly)
}

// add stores a, whose handle stays the caller's.
func (ly *layer) add(ctx context.Context, key Key, a *Artifact) error {
	if !ly.writes.allow() {
		return ly.skip("add", key)
	}
	if !ly.direct() {
		defer ly.addTime.since(time.Now())
	}
	err := ly.do(ctx, ly.Timeout, func(ctx context.Context) error {
		// A handle of its own: the store may go on reading after it was given up.
		own, err := a.share()
		if err != nil {
			return err
		}
		defer closeQuietly(own)
		return ly.Store.Add(ctx, key, own)
	})
	if err != nil {
		return ly.failed(ctx, &ly.writes, "add", key, err)
	}
	ly.writes.success()
	return nil
}

// stored tells the observer that an entry is in the layer, one way or another.
func (ly *layer) stored(kind EventKind, key Key, a *Artifact, took time.Duration) {
	notify(ly.observe, Event{Kind: kind, Key: key, Layer: ly.Name, Bytes: a.Size(), Duration: took})
}

// delete doesn't ask the breaker: to skip it would leave behind what the caller
// wants gone. The same goes for flush.
func (ly *layer) delete(ctx context.Context, key Key) error {
	err := ly.do(ctx, ly.Timeout, func(ctx context.Context) error { return ly.Store.Delete(ctx, key) })
	if err != nil {
		return ly.failed(ctx, &ly.writes, "delete", key, err)
	}
	ly.writes.success()
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
	cause := err
	err = fmt.Errorf("modcache: layer %s: flush: %w", ly.Name, err)
	if ctx.Err() == nil {
		ly.count(cause)
		notify(ly.observe, Event{Kind: EventStoreFailed, Layer: ly.Name, Err: err})
	}
	return err
}

// do is within for calls that return nothing but an error.
func (ly *layer) do(ctx context.Context, limit time.Duration, fn func(context.Context) error) error {
	_, err := within(ctx, ly, ly.slots, limit,
		func(ctx context.Context) (struct{}, error) { return struct{}{}, fn(ctx) },
		func(struct{}) {})
	return err
}

// noLimit is a time limit that lets only the context end a call.
const noLimit time.Duration = math.MaxInt64

// within calls fn, contains its panic, and returns when limit is over even if fn
// doesn't. What fn returns after that goes to discard. A call that was given up
// keeps its slot until it ends, so that a layer which never answers holds a
// bounded number of goroutines. If limit <= 0, fn runs on this goroutine for as
// long as it likes.
func within[T any](ctx context.Context, ly *layer, slots chan struct{}, limit time.Duration, fn func(context.Context) (T, error), discard func(T)) (T, error) {
	var none T
	if limit <= 0 {
		return contain(ctx, fn)
	}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	callCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tooSlow := func(cause error) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return fmt.Errorf("%w: no answer in %v: %w", errTooSlow, limit, cause)
	}
	if slots != nil {
		select {
		case slots <- struct{}{}:
		case <-callCtx.Done():
			return none, tooSlow(ErrUnavailable)
		}
	}
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	var settled atomic.Bool // by whoever comes first: fn's result, or the limit
	go func() {
		r := result{err: errExited} // stays if fn ends this goroutine
		defer func() {
			if slots != nil {
				<-slots
			}
			if settled.CompareAndSwap(false, true) {
				done <- r
				return
			}
			ly.hung.Add(-1)
			discard(r.v)
		}()
		r.v, r.err = contain(callCtx, fn)
	}()
	var r result
	select {
	case r = <-done:
	case <-callCtx.Done():
		if settled.CompareAndSwap(false, true) {
			ly.hung.Add(1)
			return none, tooSlow(context.DeadlineExceeded)
		}
		r = <-done
	}
	if r.err != nil && callCtx.Err() != nil {
		return none, tooSlow(r.err)
	}
	return r.v, r.err
}

// contain turns a panic of fn into an error.
func contain[T any](ctx context.Context, fn func(context.Context) (T, error)) (v T, err error) {
	defer func() {
		if r := recover(); r != nil {
			v, err = *new(T), panicError(r)
		}
	}()
	return fn(ctx)
}

// closeQuietly closes a handle whose fate nobody can do anything about.
func closeQuietly(a *Artifact) {
	defer func() { _ = recover() }()
	if a != nil {
		_ = a.Close()
	}
}

func panicError(r any) error {
	if err, ok := r.(error); ok {
		return fmt.Errorf("panic: %w", err)
	}
	return fmt.Errorf("panic: %v", r)
}

// failed takes note of an error of the store, tells the observer, and says what
// failed where. ctx is the caller's: if it has ended, the store is not to blame.
func (ly *layer) failed(ctx context.Context, b *breaker, op string, key Key, err error) error {
	if ctx.Err() != nil {
		b.abstain()
		return ly.wrap(op, key, err)
	}
	e := Event{Kind: EventStoreFailed, Key: key, Layer: ly.Name}
	switch {
	case isDamage(err):
		b.success()
		e.Kind = EventCorrupt
	case refused(err):
		b.success()
	case b.failure():
		err = fmt.Errorf("%w (failure %d in a row: the layer is skipped for a while)", err, b.limit)
	}
	ly.count(err)
	e.Err = ly.wrap(op, key, err)
	notify(ly.observe, e)
	return e.Err
}

// skip says that the layer was not asked.
func (ly *layer) skip(op string, key Key) error {
	ly.skipped.Add(1)
	return ly.wrap(op, key, ErrUnavailable)
}

func (ly *layer) count(err error) {
	if refused(err) || isDamage(err) {
		return
	}
	ly.errs.Add(1)
	if errors.Is(err, errTooSlow) {
		ly.timeouts.Add(1)
	}
}

func (ly *layer) wrap(op string, key Key, err error) error {
	return fmt.Errorf("modcache: layer %s: %s %v: %w", ly.Name, op, key, err)
}

// refused reports whether a healthy store declined to take an artifact.
func refused(err error) bool {
	return errors.Is(err, ErrTooLarge) || errors.Is(err, ErrReadOnly)
}
