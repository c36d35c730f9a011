// Package flight shares one piece of work among all who want the same thing at the
// same time.
//
// The work belongs to none of them: a caller whose context ends leaves, and only when
// all have left is the work cancelled. Whoever comes while it winds down shares what
// becomes of it. It differs from x/sync/singleflight in that, and in giving each waiter
// a hold on the result before anybody could release it.
package flight

import (
	"context"
	"errors"
	"sync"

	"github.com/modcache/modcache/internal/contain"
)

// ErrAbandoned is what a waiter gets who came when everybody else had left, and the
// work had been cancelled. It says nothing about the work: ask again.
var ErrAbandoned = errors.New("abandoned by those who wanted it before")

// Group is the flights under way, by key. It is used under a lock of the owner's, so
// that looking for a result and joining the flight that makes it are one step.
type Group[K comparable, V any] struct {
	// Lock guards the group. The caller of Join holds it.
	Lock sync.Locker
	// Running counts the goroutines of the group, for who waits for their end.
	Running *sync.WaitGroup
	// Grant, if set, is called under Lock when work has succeeded, and gives n waiters a
	// hold on the result each: no waiter knows of it yet, and nobody joins any more. n may
	// be 0. What it returns, if anything, is called once Lock is free.
	Grant func(key K, v V, n int) (after func())

	flights map[K]*Flight[V]
}

// Flight is one piece of work under way.
type Flight[V any] struct {
	lock      sync.Locker
	cancel    context.CancelCauseFunc
	waiters   int           // guarded by lock
	left      bool          // everybody had left at some time; guarded by lock
	forgotten bool          // guarded by lock
	done      chan struct{} // closed when the work has ended

	// Set before done is closed.
	v        V
	err      error
	panicked *contain.Panic
}

// Join returns the flight for key, having started one if there is none, and counts the
// caller as a waiter, who has to call Wait. Lock is held. The work's context has the
// values of ctx, and ends with it, or when every waiter has left. If the work ends its
// goroutine, the error is [contain.ErrExited].
func (g *Group[K, V]) Join(ctx context.Context, key K, work func(context.Context) (V, error)) (f *Flight[V], started bool) {
	if f := g.flights[key]; f != nil {
		f.waiters++
		return f, false
	}
	f = &Flight[V]{lock: g.Lock, waiters: 1, done: make(chan struct{})}
	ctx, f.cancel = context.WithCancelCause(ctx)
	if g.flights == nil {
		g.flights = make(map[K]*Flight[V])
	}
	g.flights[key] = f
	g.Running.Add(1)
	go func() {
		defer g.Running.Done()
		defer f.cancel(nil)
		f.err = contain.ErrExited // unless work returns
		defer g.land(key, f)      // deferred: the work may end this goroutine
		defer func() {
			if r := recover(); r != nil {
				f.panicked = contain.Caught(r)
			}
		}()
		f.v, f.err = work(ctx)
	}()
	return f, true
}

// Forget keeps the flight for key, if there is one, from being joined from here on.
// Lock is held.
func (g *Group[K, V]) Forget(key K) {
	if f := g.flights[key]; f != nil {
		f.forgotten = true
		delete(g.flights, key)
	}
}

// Forgotten reports whether the flight can't be joined any more because of Forget. Lock is held.
func (f *Flight[V]) Forgotten() bool { return f.forgotten }

func (g *Group[K, V]) land(key K, f *Flight[V]) {
	var after func()
	g.Lock.Lock()
	if g.flights[key] == f {
		delete(g.flights, key)
	}
	if f.err == nil && g.Grant != nil {
		after = g.Grant(key, f.v, f.waiters)
	}
	close(f.done)
	g.Lock.Unlock()
	if after != nil {
		after()
	}
}

// Done is closed when the work has ended.
func (f *Flight[V]) Done() <-chan struct{} { return f.done }

// Wait returns the result, with the hold that comes with it. If ctx ends first, its
// cause is the error, and the caller has left. If the work panicked, so does Wait.
// Lock isn't held.
func (f *Flight[V]) Wait(ctx context.Context) (v V, err error) {
	select {
	case <-f.done:
		return f.result()
	case <-ctx.Done():
	}
	f.lock.Lock()
	defer f.lock.Unlock()
	select {
	case <-f.done: // with a hold for us
		return f.result()
	default:
	}
	f.waiters--
	if f.waiters == 0 {
		f.left = true
		f.cancel(context.Cause(ctx))
	}
	return v, context.Cause(ctx)
}

func (f *Flight[V]) result() (V, error) {
	switch {
	case f.panicked != nil:
		f.panicked.Again()
	case f.err != nil && f.left:
		return f.v, ErrAbandoned
	}
	return f.v, f.err
}
