package modcache

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/contain"
)

// Lock implements [Locker]: it takes the lock of every layer that has locks,
// fastest first, so that both the processes of a machine and those of a fleet
// hold back. Layers that fail are passed over; it is an error only if none locks.
// A [Disk] over a directory whose lock another one has taken for it counts as locked.
// One that refuses with [ErrReadOnly] counts as one without locks.
// Without layers that have locks it succeeds at once. How long it waits is up
// to ctx, not to the layers' Timeout. A layer whose lock doesn't return when ctx has ended is passed over
// for a minute, or until it returns; so is one that doesn't return from unlocking within its Timeout.
func (l *Layered) Lock(ctx context.Context, key Key) (unlock func(), err error) {
	if err := l.begin("lock", key); err != nil {
		return func() {}, err
	}
	defer l.ops.Done()
	if ctx.Value(lockFilesKey{}) == nil {
		ctx = context.WithValue(ctx, lockFilesKey{}, new(lockFiles))
	}
	var held []func()
	release := sync.OnceFunc(func() {
		for _, unlock := range slices.Backward(held) {
			unlock()
		}
	})
	var errs []error
	for _, ly := range l.layers {
		locker, ok := ly.Store.(Locker)
		if !ok || ly.reads.Open() {
			continue
		}
		unlock, err := ly.lock(ctx, locker, key)
		if errors.Is(err, ErrReadOnly) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		held = append(held, unlock)
	}
	if len(errs) > 0 && (ctx.Err() != nil || len(held) == 0) {
		release()
		return func() {}, joined("lock", key, errs...)
	}
	return release, nil
}

func (ly *layer) lock(ctx context.Context, locker Locker, key Key) (func(), error) {
	lock := func(ctx context.Context) (func(), error) {
		unlock, err := locker.Lock(ctx, key)
		if err == nil && unlock == nil {
			err = errors.New("the store returned no way to unlock")
		}
		return unlock, err
	}
	var unlock func()
	var err error
	if ly.changesAtOnce() {
		unlock, err = contain.Value(func() (func(), error) { return lock(ctx) })
	} else {
		unlock, err = bounded.Do(ctx, ly.locks, noLimit, lock, ly.unlock)
	}
	switch {
	case err == nil:
		return func() { ly.unlock(unlock) }, nil
	case ctx.Err() != nil:
		return nil, ly.wrap("lock", key, ctx.Err())
	case err == bounded.ErrHangs, err == bounded.ErrFull:
		return nil, ly.skip("lock", key, ErrUnavailable)
	case errors.Is(err, ErrReadOnly):
		return nil, err
	}
	ly.count(err)
	return nil, ly.wrap("lock", key, err)
}

// unlock calls what a store returned from Lock, if anything, within the layer's Timeout.
// It waits for no other call.
func (ly *layer) unlock(unlock func()) {
	if unlock == nil {
		return
	}
	call := func() error { unlock(); return nil }
	var err error
	if ly.changesAtOnce() {
		err = contain.Call(call)
	} else {
		err = ly.locks.GiveBack(ly.Timeout, call)
	}
	if err == bounded.ErrNoAnswer {
		err = &tooSlowError{annotated: annotated{err: err}}
	}
	if err != nil {
		_ = ly.report(EventStoreFailed, "unlock", Key{}, err)
	}
}
