package modcachetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/contain"
)

func manyGoroutines(o *Options) bool { return !o.SingleGoroutine }

// concurrencyClauses use a store from several goroutines at once. They are worth
// most under the race detector.
var concurrencyClauses = []clause{
	{name: "racing-adds-of-a-key-leave-one-of-them", needs: manyGoroutines, check: func(e *env) error {
		key := keyOf(1)
		var versions [][]byte
		for v := range 8 {
			versions = append(versions, payload(key, v, min(20_000, e.o.MaxSize)))
		}
		err := together(16, func(g int) error {
			if g < len(versions) {
				return e.s.Add(e.ctx, key, artifactOf(versions[g]))
			}
			for range 20 {
				if b, err := e.read(key); err != nil {
					return err
				} else if b != nil && !contains(versions, b) {
					return errors.New("Get returned bytes that nobody added")
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := e.settle(); err != nil {
			return err
		}
		winner, err := e.read(key)
		if err != nil || winner == nil {
			return errors.Join(err, e.has(key, versions...))
		}
		if !contains(versions, winner) {
			return errors.New("Get returned bytes that nobody added")
		}
		if e.o.MayEvict {
			return nil
		}
		return e.has(key, winner)
	}},

	{name: "goroutines-see-only-what-was-added", needs: manyGoroutines, check: func(e *env) error {
		const keys = 6
		size := func(n int) int64 { return min(int64(100+3000*n), e.o.MaxSize) }
		return together(8, func(g int) error {
			r := rand.New(rand.NewPCG(uint64(g), 7))
			for range 60 {
				n := r.IntN(keys)
				key := keyOf(n)
				var err error
				switch r.IntN(8) {
				case 0:
					err = e.s.Delete(e.ctx, key)
				case 1, 2, 3:
					err = e.s.Add(e.ctx, key, artifactOf(payload(key, 0, size(n))))
				case 4:
					err = e.s.Flush(e.ctx)
				case 5:
					e.s.Metrics()
				default:
					var b []byte
					if b, err = e.read(key); b != nil && !bytes.Equal(b, payload(key, 0, size(n))) {
						err = errors.New("Get returned bytes that were never added under this key")
					}
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}},

	{name: "racing-lookups-get-handles-of-their-own", needs: manyGoroutines, check: func(e *env) error {
		key, b, err := e.stored(20_000)
		if err != nil {
			return err
		}
		const racers = 16
		handles := make([]*modcache.Artifact, racers)
		err = together(racers, func(g int) error {
			a, err := e.get(e.ctx, key)
			if a == nil {
				return errors.Join(err, e.has(key, b))
			}
			handles[g] = a
			return nil
		})
		// Each racer is done with its handle before the next begins to read.
		for _, a := range handles {
			if a != nil {
				err = errors.Join(err, readsAs(a, b), a.Close())
			}
		}
		return err
	}},
}

// together runs fn in n goroutines that start at once.
func together(n int, fn func(g int) error) error {
	var group errgroup.Group
	start := make(chan struct{})
	for g := range n {
		group.Go(func() error {
			<-start
			return contain.Call(func() error { return fn(g) })
		})
	}
	close(start)
	return group.Wait()
}

func contains(all [][]byte, b []byte) bool {
	return slices.ContainsFunc(all, func(one []byte) bool { return bytes.Equal(one, b) })
}

// sharingClauses are about stores that more than one handle, or process, uses.
var sharingClauses = []clause{
	{name: "flushed-entries-survive-reopening", needs: func(o *Options) bool { return o.Reopen != nil }, check: func(e *env) error {
		kept, gone := keyOf(1), keyOf(2)
		b := payload(kept, 0, min(5000, e.o.MaxSize))
		err := errors.Join(e.add(kept, b), e.add(gone, payload(gone, 0, 100)),
			e.s.Delete(e.ctx, gone), e.s.Flush(e.ctx))
		if err != nil {
			return err
		}
		again := e.on(e.o.Reopen(e.tb, e.s))
		if err := errors.Join(again.has(kept, b), again.hasNot(gone)); err != nil {
			return fmt.Errorf("after reopening: %w", err)
		}
		a, err := again.get(e.ctx, kept)
		if a == nil {
			return errors.Join(err, again.has(kept))
		}
		defer func() { _ = a.Close() }()
		got, want := a.Info(), infoOf(int64(len(b)))
		if !got.Created.Equal(want.Created) || got.Engine != want.Engine || got.Module != want.Module ||
			got.WasmSize != want.WasmSize || got.CompileTime != want.CompileTime {
			return fmt.Errorf("after reopening, Info is %+v, was added as %+v", got, want)
		}
		return nil
	}},

	{name: "handles-share-their-entries", needs: func(o *Options) bool { return o.Share != nil }, check: func(e *env) error {
		other := e.on(e.o.Share(e.tb, e.s))
		one, two := keyOf(1), keyOf(2)
		b, c := payload(one, 0, min(5000, e.o.MaxSize)), payload(two, 0, min(5000, e.o.MaxSize))
		return errors.Join(
			e.add(one, b), other.has(one, b),
			other.add(two, c), e.has(two, c),
			other.s.Delete(e.ctx, one), e.hasNot(one),
			e.s.Delete(e.ctx, two), other.hasNot(two))
	}},

	{name: "read-only-handle-refuses-changes", needs: func(o *Options) bool { return o.ReadOnly != nil }, check: func(e *env) error {
		present, absent := keyOf(1), keyOf(2)
		b := payload(present, 0, min(5000, e.o.MaxSize))
		if err := errors.Join(e.add(present, b), e.s.Flush(e.ctx)); err != nil {
			return err
		}
		ro := e.on(e.o.ReadOnly(e.tb, e.s))
		if err := ro.has(present, b); err != nil {
			return err
		}
		if err := ro.s.Add(e.ctx, absent, artifactOf(b)); !errors.Is(err, modcache.ErrReadOnly) {
			return fmt.Errorf("Add returned %v, want ErrReadOnly", err)
		}
		if err := ro.s.Delete(e.ctx, present); !errors.Is(err, modcache.ErrReadOnly) {
			return fmt.Errorf("Delete returned %v, want ErrReadOnly", err)
		}
		return errors.Join(ro.hasNot(absent), ro.has(present, b), e.hasNot(absent), e.has(present, b))
	}},

	{name: "lock-can-be-taken-and-given-back", needs: manyGoroutines, check: func(e *env) error {
		l, ok := e.s.(modcache.Locker)
		if !ok {
			return nil
		}
		for range 3 {
			unlock, err := l.Lock(e.ctx, keyOf(1))
			if err != nil {
				return fmt.Errorf("Lock: %w", err)
			}
			other, err := l.Lock(e.ctx, keyOf(2)) // another key's lock is another lock
			if err != nil {
				return fmt.Errorf("Lock of a second key: %w", err)
			}
			unlock()
			unlock()
			other()
		}
		return nil
	}},

	{name: "held-lock-keeps-others-waiting", needs: func(o *Options) bool { return o.ExclusiveLocks && !o.SingleGoroutine }, check: func(e *env) error {
		l, ok := e.s.(modcache.Locker)
		if !ok {
			return errors.New("the options promise locks, but the store is no modcache.Locker")
		}
		unlock, err := l.Lock(e.ctx, keyOf(1))
		if err != nil {
			return fmt.Errorf("Lock: %w", err)
		}
		ctx, cancel := context.WithTimeout(e.ctx, 50*time.Millisecond)
		defer cancel()
		if second, err := l.Lock(ctx, keyOf(1)); err == nil {
			second()
			return errors.New("a lock that is held was given to a second caller")
		}
		var released, early atomic.Bool
		done := make(chan error, 1)
		go func() {
			second, err := l.Lock(e.ctx, keyOf(1))
			if err == nil {
				early.Store(!released.Load())
				second()
			}
			done <- err
		}()
		released.Store(true)
		unlock()
		if err := <-done; err != nil {
			return fmt.Errorf("Lock after the first was given back: %w", err)
		}
		if early.Load() {
			return errors.New("a lock that is held was given to a second caller")
		}
		return nil
	}},
}
