package modcache

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// Lock implements [Locker]: it takes the lock of every layer that has locks,
// fastest first, so that both the processes of a machine and those of a fleet
// hold back. Layers that fail are passed over; it is an error only if none locks.
// Without layers that have locks it succeeds at once. How long it waits is up
// to ctx, not to the layers' Timeout.
func (l *Layered) Lock(ctx context.Context, key Key) (unlock func(), err error) {
	if err := l.begin("lock", key); err != nil {
		return func() {}, err
	}
	defer l.ops.Done()
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
		if err != nil {
			errs = append(errs, ly.wrap("lock", key, err))
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
	unlock, err := within(ctx, ly, ly.lockCalls, noLimit, func(ctx context.Context) (func(), error) {
		unlock, err := locker.Lock(ctx, key)
		if err == nil && unlock == nil {
			err = errors.New("the store returned no way to unlock")
		}
		return unlock, err
	}, ly.unlock)
	if err != nil {
		if ctx.Err() == nil {
			ly.count(err)
		}
		return nil, err
	}
	return func() { ly.unlock(unlock) }, nil
}

// unlock calls what a store returned from Lock, if anything, within the layer's Timeout.
// It waits for no other call.
func (ly *layer) unlock(unlock func()) {
	if unlock == nil {
		return
	}
	_, err := within(context.Background(), ly, nil, ly.Timeout,
		func(context.Context) (struct{}, error) { unlock(); return struct{}{}, nil }, nil)
	if err != nil {
		_ = ly.report(EventStoreFailed, "unlock", Key{}, err)
	}
}
