package bounded

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/modcache/modcache/internal/breaker"
)

const (
	// Pause is for how long no other call is made after one that hangs, unless that or another returns.
	Pause = time.Minute
	// Grace is how much sooner than a call is given up its context ends, which tells one that heeds it from one that hangs.
	Grace = 100 * time.Millisecond
)

// ErrHangs means that a call wasn't made, because the last one hangs.
var ErrHangs = fmt.Errorf("the last such call was not answered in time, and another is tried after %v only", Pause)

// errOver is why the context of a call in a Lane ends, unless its caller's does.
var errOver = fmt.Errorf("the time for an answer is over: %w", context.DeadlineExceeded)

// Lane is for calls of one kind, such as all that read from one store. There are so many at once, and while one
// hangs, hardly any: it is waited for once.
type Lane struct {
	// Set before the first call, or never:
	Hung  *atomic.Int64 // counts the calls that were given up and haven't ended
	Heeds bool          // a call is to return when its caller's context ends: it hangs if it hasn't a Grace later

	size  int64
	slots *semaphore.Weighted // taken until a call ends, also if it was given up
	hangs breaker.Breaker
}

// NewLane returns a Lane for size calls at once.
func NewLane(size int64) *Lane {
	return &Lane{size: size, slots: semaphore.NewWeighted(size), hangs: breaker.Breaker{Limit: 1, Pause: Pause}}
}

// Hangs reports whether calls are turned away.
func (l *Lane) Hangs() bool { return l.hangs.Open() }

// Drain waits until no call is under way. If it returns no error, others begin after Refill only.
func (l *Lane) Drain(ctx context.Context) error { return l.slots.Acquire(ctx, l.size) }

// Refill undoes a Drain.
func (l *Lane) Refill() { l.slots.Release(l.size) }

// Do is [Call] in a Lane. An f that doesn't return within wait hangs, whether or not somebody still waits for it.
// So does one that returns an error because its context ends, a Grace earlier.
func Do[T any](ctx context.Context, l *Lane, wait time.Duration, f func(context.Context) (T, error), late func(T)) (v T, err error) {
	switch l.hangs.Ask() {
	case breaker.No:
		return v, ErrHangs
	case breaker.Probe:
		if l.slots.TryAcquire(1) {
			l.slots.Release(1)
			break
		}
		l.hangs.Fail(breaker.Hard, 0) // all of them hang, and if one returns, it says so
		return v, ErrHangs
	}
	w, start := &watch{l: l}, time.Now()
	v, left, err := attempt(ctx, Limit{Wait: wait, Slots: l.slots, Hung: l.Hung, grace: min(Grace, wait/2), over: errOver}, func(ctx context.Context) (v T, err error) {
		defer func() {
			switch hung := w.end(); {
			case hung || err == nil || ctx.Err() == nil:
				l.hangs.Succeed() // it has answered
			case context.Cause(ctx) == errOver:
				l.hangs.Fail(breaker.Hard, 0)
			}
		}()
		return f(ctx)
	}, late)
	switch { // of errors that are ours, since those of others may panic
	case err == ErrFull:
		l.hangs.Fail(breaker.Hard, 0)
	case ctx.Err() != nil:
		l.hangs.Abstain()
		if left {
			rest := wait - time.Since(start)
			if l.Heeds {
				rest = min(rest, Grace)
			}
			w.hungAfter(rest)
		}
	case left:
		w.hung()
	}
	return v, err
}

// Try is Do for a call that says nothing about the others: it is made even while they hang.
func Try[T any](ctx context.Context, l *Lane, wait time.Duration, f func(context.Context) (T, error), late func(T)) (T, error) {
	return Call(ctx, Limit{Wait: wait, Slots: l.slots, Hung: l.Hung}, f, late)
}

// GiveBack calls f, which gives back what a call has returned, in any case, and waits for it as long, unless something hangs in the
// Lane. If f hangs, the Lane remembers it.
func (l *Lane) GiveBack(wait time.Duration, f func() error) error {
	if l.Hangs() {
		wait = Grace
	}
	slot := l.slots.TryAcquire(1) // if there is none, nothing more is taken that is to be given back
	w := &watch{l: l}
	_, left, err := attempt(context.Background(), Limit{Wait: wait, Hung: l.Hung}, func(context.Context) (struct{}, error) {
		if slot {
			defer l.slots.Release(1)
		}
		defer w.end()
		return struct{}{}, f()
	}, func(struct{}) { l.hangs.Succeed() })
	if left {
		w.hung()
	}
	return err
}

// watch is what is known of one call.
type watch struct {
	l           *Lane
	ended, late atomic.Bool
	timer       atomic.Pointer[time.Timer] // calls hung
}

// hung notes that the call hangs, unless it has ended meanwhile.
func (w *watch) hung() {
	w.late.Store(true)
	w.l.hangs.Fail(breaker.Hard, 0)
	if w.ended.Load() {
		w.l.hangs.Succeed()
	}
}

// hungAfter has hung called after d, unless the call has ended by then.
func (w *watch) hungAfter(d time.Duration) {
	timer := time.AfterFunc(d, w.hung)
	w.timer.Store(timer)
	if w.ended.Load() {
		timer.Stop()
	}
}

// end notes that the call has ended, and reports whether it was late.
func (w *watch) end() (late bool) {
	w.ended.Store(true)
	if timer := w.timer.Load(); timer != nil {
		timer.Stop()
	}
	return w.late.Load()
}
