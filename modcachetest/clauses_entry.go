package modcachetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"

	"github.com/modcache/modcache"
)

// entryClauses are about what is kept under a key.
var entryClauses = []clause{
	{name: "absent-key-is-a-miss-without-error", check: func(e *env) error {
		return e.hasNot(keyOf(1))
	}},

	{name: "added-entry-is-readable", check: func(e *env) error {
		key := keyOf(1)
		b := payload(key, 0, min(1000, e.o.MaxSize))
		return errors.Join(e.add(key, b), e.has(key, b), e.has(key, b))
	}},

	{name: "every-size-is-kept-whole", check: func(e *env) error {
		sizes := []int64{1, 2, 63, 64, 65, 511, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 18, e.o.MaxSize}
		for i, size := range sizes {
			if size > e.o.MaxSize {
				continue
			}
			key := keyOf(i)
			b := payload(key, 0, size)
			if err := errors.Join(e.add(key, b), e.has(key, b), e.s.Delete(e.ctx, key)); err != nil {
				return fmt.Errorf("%d bytes: %w", size, err)
			}
		}
		return nil
	}},

	{name: "info-travels-with-the-entry", check: func(e *env) error {
		key := keyOf(1)
		if err := e.add(key, payload(key, 0, min(100, e.o.MaxSize))); err != nil {
			return err
		}
		a, err := e.get(e.ctx, key)
		if a == nil {
			return errors.Join(err, e.has(key))
		}
		defer func() { _ = a.Close() }()
		got, want := a.Info(), infoOf(a.Size())
		if !got.Created.Equal(want.Created) {
			return fmt.Errorf("the Info.Created is %v, was added as %v", got.Created, want.Created)
		}
		if got.Created = want.Created; got != want {
			return fmt.Errorf("the Info is %+v, was added as %+v", got, want)
		}
		return nil
	}},

	{name: "keys-that-differ-in-one-bit-are-apart", check: func(e *env) error {
		var keys []modcache.Key
		for bit := range 8 * len(modcache.Key{}) {
			key := keyOf(1)
			key[bit/8] ^= 1 << (bit % 8)
			keys = append(keys, key)
		}
		size := min(64, e.o.MaxSize)
		for _, key := range keys {
			if err := e.s.Add(e.ctx, key, artifactOf(payload(key, 0, size))); err != nil {
				return err
			}
		}
		if err := e.settle(); err != nil {
			return err
		}
		for bit, key := range keys {
			if err := e.has(key, payload(key, 0, size)); err != nil {
				return fmt.Errorf("bit %d: %w", bit, err)
			}
		}
		return e.hasNot(keyOf(1))
	}},

	{name: "add-over-an-intact-entry-is-a-no-op", check: func(e *env) error {
		key := keyOf(1)
		size := min(500, e.o.MaxSize)
		first, second := payload(key, 1, size), payload(key, 2, size)
		if err := errors.Join(e.add(key, first), e.add(key, second)); err != nil {
			return err
		}
		if e.o.MayEvict {
			return e.has(key, first, second)
		}
		return e.has(key, first)
	}},

	{name: "deleted-entry-is-gone", check: func(e *env) error {
		key, other := keyOf(1), keyOf(2)
		b := payload(key, 0, min(500, e.o.MaxSize))
		c := payload(other, 0, min(500, e.o.MaxSize))
		return errors.Join(e.add(key, b), e.add(other, c), e.has(key, b),
			e.s.Delete(e.ctx, key), e.hasNot(key), e.has(other, c))
	}},

	{name: "delete-of-an-absent-key-is-nil", check: func(e *env) error {
		if err := e.s.Delete(e.ctx, keyOf(1)); err != nil {
			return fmt.Errorf("Delete: %w", err)
		}
		return nil
	}},

	{name: "deleted-key-can-be-added-again", check: func(e *env) error {
		key := keyOf(1)
		size := min(500, e.o.MaxSize)
		first, second := payload(key, 1, size), payload(key, 2, size)
		return errors.Join(e.add(key, first), e.s.Delete(e.ctx, key), e.add(key, second), e.has(key, second))
	}},

	{name: "flush-keeps-entries", check: func(e *env) error {
		key := keyOf(1)
		b := payload(key, 0, min(500, e.o.MaxSize))
		return errors.Join(e.s.Flush(e.ctx), e.add(key, b), e.s.Flush(e.ctx), e.has(key, b), e.s.Flush(e.ctx))
	}},

	{name: "too-large-artifact-is-refused", needs: func(o *Options) bool { return o.Budget > 0 }, check: func(e *env) error {
		small, large := keyOf(1), keyOf(2)
		b := payload(small, 0, max(e.o.Budget/16, 1))
		if err := e.add(small, b); err != nil {
			return err
		}
		err := e.s.Add(e.ctx, large, artifactOf(payload(large, 0, e.o.Budget+1)))
		if !errors.Is(err, modcache.ErrTooLarge) {
			return fmt.Errorf("Add of %d bytes to a budget of %d returned %v, want ErrTooLarge", e.o.Budget+1, e.o.Budget, err)
		}
		return errors.Join(e.hasNot(large), e.has(small, b))
	}},

	{name: "metrics-count-every-lookup-once", check: func(e *env) error {
		key := keyOf(1)
		if err := e.add(key, payload(key, 0, min(500, e.o.MaxSize))); err != nil {
			return err
		}
		before := e.s.Metrics()
		var hits, misses uint64
		for i := range 10 {
			b, err := e.read(keyOf(i % 2))
			switch {
			case err != nil:
				return err
			case b != nil:
				hits++
			default:
				misses++
			}
		}
		after := e.s.Metrics()
		d, err := after.Sub(before)
		if err != nil {
			return err
		}
		if d.Lookups != hits+misses || d.Hits != hits || d.Misses != misses {
			return fmt.Errorf("after %d hits and %d misses, the counters grew by %d lookups, %d hits, %d misses", hits, misses, d.Lookups, d.Hits, d.Misses)
		}
		return nil
	}},

	{name: "metrics-count-accepted-adds", check: func(e *env) error {
		before := e.s.Metrics()
		for i := range 3 {
			if err := e.add(keyOf(i), payload(keyOf(i), 0, min(100, e.o.MaxSize))); err != nil {
				return err
			}
		}
		d, err := e.s.Metrics().Sub(before)
		if err != nil {
			return err
		}
		if d.Adds != 3 {
			return fmt.Errorf("three artifacts were added, and Adds grew by %d", d.Adds)
		}
		return nil
	}},

	{name: "cancelled-context-is-not-a-miss", check: func(e *env) error {
		key, b, err := e.stored(500)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(e.ctx)
		cancel()
		a, ok, err := e.s.Get(ctx, key)
		switch {
		case ok && err != nil:
			return fmt.Errorf("Get returned ok = true together with the error %w", err)
		case ok:
			_ = a.Close()
		case err == nil && !e.o.MayEvict:
			return errors.New("Get with a cancelled context reported a miss of an entry that is there: it must be a hit or an error")
		}
		return e.has(key, b)
	}},

	{name: "add-with-a-cancelled-context-keeps-its-word", check: func(e *env) error {
		key := keyOf(1)
		b := payload(key, 0, min(500, e.o.MaxSize))
		ctx, cancel := context.WithCancel(e.ctx)
		cancel()
		if err := e.s.Add(ctx, key, artifactOf(b)); err == nil {
			return errors.Join(e.settle(), e.has(key, b))
		}
		got, err := e.read(key)
		if err != nil || got == nil {
			return err
		}
		return e.has(key, b)
	}},

	{name: "every-lookup-reports-one-hit-or-miss", needs: func(o *Options) bool { return o.Observe != nil }, check: everyLookupReports},

	{name: "random-history-agrees-with-a-map", check: randomHistory},
}

// randomHistory runs random operations beside a map. Where the store may evict,
// the map holds all contents that an entry could have.
func randomHistory(e *env) error {
	r := rand.New(rand.NewPCG(1, 2))
	model := map[modcache.Key][][]byte{}
	for step := range 600 {
		key := keyOf(r.IntN(12))
		var err error
		switch op := r.IntN(10); {
		case op < 4:
			b := payload(key, step, r.Int64N(min(5000, e.o.MaxSize))+1)
			if err = e.add(key, b); len(model[key]) == 0 || e.o.MayEvict {
				model[key] = append(model[key], b)
			}
		case op < 8:
			if len(model[key]) == 0 {
				err = e.hasNot(key)
			} else {
				err = e.has(key, model[key]...)
			}
		case op < 9:
			err = e.s.Delete(e.ctx, key)
			delete(model, key)
		default:
			err = e.s.Flush(e.ctx)
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
	}
	return nil
}

// everyLookupReports counts the events of each Get by itself.
func everyLookupReports(e *env) error {
	var hits, misses atomic.Int32
	e = e.on(e.o.Observe(e.tb, func(event modcache.Event) {
		switch event.Kind {
		case modcache.EventHit:
			hits.Add(1)
		case modcache.EventMiss:
			misses.Add(1)
		}
	}))
	lookup := func(ctx context.Context, key modcache.Key, what string) error {
		hits.Store(0)
		misses.Store(0)
		a, ok, err := e.s.Get(ctx, key)
		if ok {
			_ = a.Close()
		}
		if h, m := hits.Load(), misses.Load(); h+m != 1 || (h == 1) != ok {
			return fmt.Errorf("Get of %s returned ok = %v (error: %v), and %d hits and %d misses were reported", what, ok, err, h, m)
		}
		return nil
	}
	present, damaged, absent := keyOf(1), keyOf(2), keyOf(3)
	b := payload(present, 0, min(500, e.o.MaxSize))
	if err := errors.Join(e.add(present, b), e.add(damaged, b), e.s.Flush(e.ctx)); err != nil {
		return err
	}
	ended, cancel := context.WithCancel(e.ctx)
	cancel()
	err := errors.Join(
		lookup(e.ctx, present, "an entry"),
		lookup(e.ctx, absent, "an absent key"),
		lookup(ended, present, "an entry, with a context that has ended,"),
		lookup(ended, absent, "an absent key, with a context that has ended,"))
	if e.o.Damage != nil {
		e.o.Damage(e.tb, e.s, damaged)
		err = errors.Join(err, lookup(e.ctx, damaged, "a damaged entry"), lookup(e.ctx, damaged, "a damaged entry, once more,"))
	}
	err = errors.Join(err, e.s.Delete(e.ctx, present), lookup(e.ctx, present, "a deleted entry"))
	if c, ok := e.s.(io.Closer); ok {
		err = errors.Join(err, c.Close(), lookup(e.ctx, absent, "a key, from a closed store,"))
	}
	return err
}
