// Package bounded calls code that may never return, and goes on without it.
//
// The rule for all that waits for others, here and in the packages above:
//
//   - One call is waited for as long as its caller says, by [Call]. Then it goes on by itself, on a goroutine of its own. So it
//     has nothing that its caller uses, and what it returns at last is given back by the caller's late.
//   - Calls that are made again and again are made in a [Lane], which is for one thing that may hang: what reads from one
//     store, what changes it, the artifacts that one layer has returned. What hangs is waited for once: after it, no other such call is
//     made for a minute, or until one has returned. Those that hang take a bounded number of slots, and when
//     all are taken, nobody tries.
//   - Lanes are apart where things can hang apart, so that what hangs in one keeps nobody from another. Where a call makes
//     calls in other lanes, it is given longer than these.
//   - What was taken is given back in any case, by [Lane.GiveBack].
//
// What fails, or is slow for other reasons, is for package breaker; and what panics or ends its goroutine, for package contain.
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

// Forever is a Wait that only the context of a call ends.
const Forever = 10 * 365 * 24 * time.Hour

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
			defer free()
			if late != nil {
				_ = contain.Call(func() error { late(r.v); return nil })
			}
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
