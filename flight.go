package modcache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/tetratelabs/wazero"
)

// flight is one piece of work that several callers wait for. It belongs to none
// of them: a caller whose context ends leaves, and only when all have left is the work
// cancelled. Whoever comes while it winds down shares what becomes of it.
//
// It differs from x/sync/singleflight in that, and in handing each waiter a hold on the
// result before anybody could release it.
type flight[V any] struct {
	c         *Cache
	waiters   int           // guarded by c.mu
	cancelled bool          // guarded by c.mu
	slow      chan struct{} // closed when the work is more than a lookup
	done      chan struct{}
	cancel    context.CancelFunc

	// Set before done is closed.
	val      V
	err      error
	panicked *flightPanic
}

// flightPanic is what callers panic with when the work did.
type flightPanic struct {
	value any
	stack []byte
}

func (p *flightPanic) Error() string { return fmt.Sprintf("%v\n\n%s", p.value, p.stack) }

// Unwrap returns the value if it is an error, as the runtime's panics are.
func (p *flightPanic) Unwrap() error {
	err, _ := p.value.(error)
	return err
}

// errFlightExited is what callers get if the work's goroutine was ended under it, by
// runtime.Goexit in a store or an observer (which a test's FailNow calls).
var errFlightExited = errors.New("modcache: a store or an observer ended the goroutine of a compile")

// join returns the flight for key, having started one with run if there is none,
// and counts the caller as a waiter. When run succeeds, grant gives n waiters a
// hold on the result each, and returns what nobody needs after all. The caller
// holds c.mu, and so does grant's.
//
// run calls slow when it is about to do what takes long.
func join[V any](c *Cache, flights map[Key]*flight[V], key Key,
	run func(ctx context.Context, slow func()) (V, error), grant func(v V, n int) (free []wazero.CompiledModule)) (f *flight[V], started bool) {
	if f := flights[key]; f != nil {
		f.waiters++
		c.counters.coalesced.Add(1)
		return f, false
	}
	f = &flight[V]{c: c, waiters: 1, slow: make(chan struct{}), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(c.ctx)
	f.cancel = cancel
	flights[key] = f
	c.flights.Add(1)
	go func() {
		defer c.flights.Done()
		defer cancel()
		var v V
		var panicked *flightPanic
		err := errFlightExited
		defer func() {
			var free []wazero.CompiledModule
			c.mu.Lock()
			delete(flights, key)
			f.val, f.err, f.panicked = v, err, panicked
			if err == nil && panicked == nil {
				free = grant(v, f.waiters)
			}
			close(f.done)
			c.mu.Unlock()
			closeAll(ctx, free)
		}()
		slow := false
		v, panicked, err = protect(func() (V, error) {
			return run(ctx, func() {
				if !slow {
					slow = true
					close(f.slow)
				}
			})
		})
	}()
	return f, true
}

// quick waits until the work is done or turns out to take long, but not forever:
// what is looked up may be on the far side of a network.
func (f *flight[V]) quick() {
	const patience = time.Second
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-f.done:
	case <-f.slow:
	case <-timer.C:
	}
}

// wait returns the result with the hold that comes with it, or the context's
// error if that ends first.
func (f *flight[V]) wait(ctx context.Context) (V, error) {
	select {
	case <-f.done:
		return f.result()
	case <-ctx.Done():
	}
	f.c.mu.Lock()
	select {
	case <-f.done: // with a hold for us
		f.c.mu.Unlock()
		return f.result()
	default:
	}
	f.waiters--
	if f.waiters == 0 {
		f.cancelled = true
		f.cancel()
	}
	f.c.mu.Unlock()
	var none V
	return none, context.Cause(ctx)
}

// abandoned reports that the work failed because everybody had left.
func (f *flight[V]) abandoned() bool {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	return f.cancelled && f.err != nil
}

func (f *flight[V]) result() (V, error) {
	if f.panicked != nil {
		panic(f.panicked)
	}
	return f.val, f.err
}

// protect runs f and catches its panic.
func protect[V any](f func() (V, error)) (v V, panicked *flightPanic, err error) {
	defer func() {
		if r := recover(); r != nil {
			if p, ok := r.(*flightPanic); ok {
				panicked = p // from a flight within this one
				return
			}
			panicked = &flightPanic{value: r, stack: debug.Stack()}
		}
	}()
	v, err = f()
	return v, nil, err
}
