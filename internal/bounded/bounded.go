// Package bounded calls code that may never return, and goes on without it.
package bounded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/modcache/modcache/internal/contain"
)

var (
	// ErrNoAnswer means that a call took longer than its limit. It goes on.
	ErrNoAnswer = fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
	// ErrFull means that there was no slot within the limit.
	ErrFull = errors.New("too many calls are under way")
)

// Limit says how long to wait for a call, and how many there may be.
type Limit struct {
	Wait  time.Duration
	Slots *semaphore.Weighted // taken until the call ends, also if it was given up; nil means no bound
	Hung  *atomic.Int64       // if set, counts the calls that were given up and haven't ended

	grace time.Duration // how much sooner than the call is given up its context ends
	over  error         // why it ends then; nil is context.DeadlineExceeded
}

// Call calls f on a goroutine of its own, with its panic or Goexit as an error, and
// returns when the limit is over or ctx has ended even if f doesn't. The context of f
// ends then. What f returns after that goes to late, unless that is nil.
func Call[T any](ctx context.Context, l Limit, f func(context.Context) (T, error), late func(T)) (T, error) {
	v, _, err := attempt(ctx, l, f, late)
	return v, err
}

// attempt is Call, and also says whether the call goes on.
func attempt[T any](ctx context.Context, l Limit, f func(context.Context) (T, error), late func(T)) (v T, left bool, err error) {
	if err := ctx.Err(); err != nil {
		return v, false, err
	}
	end := time.Now().Add(l.Wait)
	if l.Slots != nil && !l.Slots.TryAcquire(1) {
		waiting, cancel := context.WithDeadline(ctx, end)
		defer cancel()
		if l.Slots.Acquire(waiting, 1) != nil {
			return v, false, cmp.Or(context.Cause(ctx), ErrFull)
		}
	}
	callCtx, cancel := context.WithDeadlineCause(ctx, end.Add(-l.grace), l.over)
	defer cancel()
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	var settled atomic.Bool // by whoever comes first: the result, or the limit
	go func() {
		r := result{err: contain.ErrExited} // unless f returns
		free := func() {
			if l.Slots != nil {
				l.Slots.Release(1)
			}
		}
		defer func() {
			if settled.CompareAndSwap(false, true) {
				free()
				done <- r
				return
			}
			if l.Hung != nil {
				l.Hung.Add(-1)
			}
			if late != nil {
				late(r.v)
			}
			free()
		}()
		r.v, r.err = contain.Value(func() (T, error) { return f(callCtx) })
	}()
	select {
	case r := <-done:
		return r.v, false, r.err
	case <-callCtx.Done():
	}
	if l.grace > 0 {
		select {
		case r := <-done:
			return r.v, false, r.err
		case <-ctx.Done():
		case <-time.After(time.Until(end)):
		}
	}
	if l.Hung != nil {
		l.Hung.Add(1) // before the call can take it back
	}
	if settled.CompareAndSwap(false, true) {
		return v, true, cmp.Or(context.Cause(ctx), ErrNoAnswer)
	}
	if l.Hung != nil {
		l.Hung.Add(-1) // it has ended after all
	}
	r := <-done
	return r.v, false, r.err
}
