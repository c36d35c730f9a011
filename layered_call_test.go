package modcache_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/breaker"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/modcachetest"
)

// faulty is a file shelf with a plan.
func faulty(faults ...modcachetest.Fault) (*modcachetest.FaultyStore, *shelf) {
	s := newFileShelf()
	return modcachetest.NewFaulty(s, &modcachetest.Plan{Faults: faults}), s
}

func TestLayeredHangingLayerHidesNoHit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging, _ := faulty(modcachetest.Fault{Hang: true})
		far := newFileShelf()
		put(t, far, keyNo(1))
		l := layered(t, &modcache.LayeredOptions{BreakAfter: -1, MaxCalls: 3},
			modcache.Layer{Store: hanging, Name: "hanging", Timeout: time.Second, Promote: modcache.PromoteNever},
			modcache.Layer{Store: far, Name: "far"})
		start := time.Now()
		hit(t, l, keyNo(1))
		require.Equal(t, time.Second, time.Since(start))

		err := l.Add(t.Context(), keyNo(2), code(keyNo(2)))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "layer hanging: add")
		require.ErrorContains(t, err, "no answer in 1s")
		require.True(t, far.has(keyNo(2)))

		require.ErrorIs(t, l.Delete(t.Context(), keyNo(2)), context.DeadlineExceeded)
		require.False(t, far.has(keyNo(2)))
		require.EqualValues(t, 3, l.Layers()[0].Hung)

		// Three calls hang, and no more are made: nothing piles up.
		calls := hanging.Calls(modcachetest.OpAny)
		require.Equal(t, 3, calls)
		hit(t, l, keyNo(1))
		require.ErrorIs(t, l.Flush(t.Context()), modcache.ErrUnavailable)
		require.Equal(t, calls, hanging.Calls(modcachetest.OpAny))
		m := l.Layers()[0]
		require.EqualValues(t, 5, m.Timeouts)
		require.EqualValues(t, 5, m.Errors)

		// When they end, the layer is used again.
		hanging.Release()
		synctest.Wait()
		require.Zero(t, l.Layers()[0].Hung)
		require.NoError(t, l.Flush(t.Context()))
	})
}

func TestLayeredClosesWhatComesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging, s := faulty(modcachetest.Fault{Op: modcachetest.OpGet, Hang: true})
		put(t, s, keyNo(1))
		l := layered(t, nil, modcache.Layer{Store: hanging, Timeout: time.Second})
		_, ok, err := l.Get(t.Context(), keyNo(1))
		require.False(t, ok)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		hanging.Release()
		synctest.Wait()
		require.EqualValues(t, 1, s.Metrics().Hits)
		require.Zero(t, s.open.Load())
	})
}

func TestLayeredSkipsAndProbesALayerThatKeepsFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, s := faulty(modcachetest.Fault{Op: modcachetest.OpGet, Err: errInjected})
		put(t, s, keyNo(1))
		var opened int
		l := layered(t, &modcache.LayeredOptions{BreakAfter: 3, Cooldown: time.Second, OnEvent: func(e modcache.Event) {
			if e.Kind == modcache.EventStoreFailed {
				opened++
			}
		}}, modcache.Layer{Store: bad})
		asked := func() int {
			before := bad.Calls(modcachetest.OpGet)
			_, _, err := l.Get(t.Context(), keyNo(1))
			require.Error(t, err)
			n := bad.Calls(modcachetest.OpGet) - before
			if n == 0 {
				require.ErrorIs(t, err, modcache.ErrUnavailable)
			}
			return n
		}
		for range 3 {
			require.Equal(t, 1, asked())
		}
		require.Equal(t, 0, asked())
		require.True(t, l.Layers()[0].Open)
		time.Sleep(time.Second)
		require.Equal(t, 1, asked(), "one probe")
		require.Equal(t, 0, asked())
		time.Sleep(time.Second)
		require.Equal(t, 0, asked(), "the pause has doubled")
		time.Sleep(time.Second)
		require.Equal(t, 1, asked())
		require.Equal(t, 5, opened, "skipped calls are no failures")
		require.EqualValues(t, 3, l.Layers()[0].Skipped)

		// Writes go on all the while.
		put(t, l, keyNo(2))

		bad.Heal()
		time.Sleep(4 * time.Second)
		hit(t, l, keyNo(1))
		require.False(t, l.Layers()[0].Open)
		hit(t, l, keyNo(1))

		// It has all its chances again, and the pause is the first one's.
		s.failing.Store(true)
		for range 3 {
			require.Equal(t, 1, asked())
		}
		require.Equal(t, 0, asked())
		time.Sleep(time.Second)
		require.Equal(t, 1, asked())
	})
}

// TestLayeredAsksAStoreThatLeavesItsServerAlone each time, for it knows best when that is over.
func TestLayeredAsksAStoreThatLeavesItsServerAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := &modcache.Error{Op: "get", Err: fmt.Errorf("%w: %w", modcache.ErrUnavailable, breaker.ErrOpen)}
		far, s := faulty(modcachetest.Fault{Op: modcachetest.OpGet, Err: away})
		put(t, s, keyNo(1))
		l := layered(t, &modcache.LayeredOptions{BreakAfter: 3, OnEvent: func(e modcache.Event) {
			require.NotEqual(t, modcache.EventStoreFailed, e.Kind)
		}}, modcache.Layer{Store: far})
		for i := range 100 {
			_, _, err := l.Get(t.Context(), keyNo(1))
			require.ErrorIs(t, err, away)
			require.Equal(t, i+1, far.Calls(modcachetest.OpGet))
		}
		m := l.Layers()[0]
		require.EqualValues(t, 100, m.Skipped)
		require.Zero(t, m.Errors)
		require.False(t, m.Open)
		far.Heal()
		hit(t, l, keyNo(1))

		// Whoever makes another error of it may have taken long.
		wrapped, _ := faulty(modcachetest.Fault{Op: modcachetest.OpGet, Err: fmt.Errorf("three times: %w", away)})
		l = layered(t, &modcache.LayeredOptions{BreakAfter: 3}, modcache.Layer{Store: wrapped})
		for range 10 {
			_, _, err := l.Get(t.Context(), keyNo(1))
			require.Error(t, err)
		}
		require.Equal(t, 3, wrapped.Calls(modcachetest.OpGet))
	})
}

func TestLayeredNeitherLocksSkippedLayersNorPromotesIntoThem(t *testing.T) {
	bad, s := faulty(modcachetest.Fault{Op: modcachetest.OpGet, Err: errInjected}, modcachetest.Fault{Op: modcachetest.OpAdd, Err: errInjected})
	far := newShelf()
	l := layered(t, &modcache.LayeredOptions{BreakAfter: 1, Cooldown: time.Hour}, modcache.Layer{Store: bad}, modcache.Layer{Store: far})
	for n := byte(1); n <= 2; n++ {
		put(t, far, keyNo(n))
		hit(t, l, keyNo(n))
		require.NoError(t, l.Flush(t.Context()))
	}
	require.Equal(t, 1, bad.Calls(modcachetest.OpGet))
	require.Equal(t, 1, bad.Calls(modcachetest.OpAdd))
	r := l.PromotionReport()
	require.Equal(t, modcache.PromotionCount{Failed: 1, Dropped: 1}, r.PromotionCount)
	require.Equal(t, keyNo(1), r.Last.Key, "what was not attempted is no event")
	unlock, err := l.Lock(t.Context(), keyNo(1))
	require.NoError(t, err)
	unlock()
	require.Zero(t, bad.Calls(modcachetest.OpLock))
	require.Empty(t, s.keys())
}

func TestLayeredCallerWhoseTimeIsUpAsksNobody(t *testing.T) {
	s, _ := faulty()
	l := layered(t, nil, modcache.Layer{Store: s})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		require.ErrorIs(t, l.Add(ctx, keyNo(1), code(keyNo(1))), context.Canceled)
		_, _, err := l.Get(ctx, keyNo(1))
		require.ErrorIs(t, err, context.Canceled)
	}
	require.Zero(t, s.Calls(modcachetest.OpAny))
	require.False(t, l.Layers()[0].Open)
	require.Zero(t, l.Metrics().Errors)
}

// A store that heeds its context ends at the same moment as its time.
func TestLayeredCountsEveryTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, _ := faulty(modcachetest.Fault{Op: modcachetest.OpGet, Delay: time.Hour}, modcachetest.Fault{Op: modcachetest.OpFlush, Delay: 5 * time.Second})
		l := layered(t, &modcache.LayeredOptions{BreakAfter: -1}, modcache.Layer{Store: slow, Timeout: time.Second})
		for range 50 {
			_, _, err := l.Get(t.Context(), keyNo(1))
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		require.EqualValues(t, 50, l.Layers()[0].Timeouts)
		require.NoError(t, l.Flush(t.Context()), "a Flush may take longer")
	})
}

func TestLayeredMakesOneProbeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, s := faulty(modcachetest.Fault{Op: modcachetest.OpGet, Hang: true})
		put(t, s, keyNo(1))
		l := layered(t, &modcache.LayeredOptions{BreakAfter: 1, Cooldown: time.Second}, modcache.Layer{Store: bad, Timeout: 10 * time.Second})
		_, _, err := l.Get(t.Context(), keyNo(1))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(time.Second)
		var wg sync.WaitGroup
		for n := range byte(8) {
			wg.Go(func() { _, _, _ = l.Get(t.Context(), keyNo(n)) })
		}
		wg.Wait()
		require.Equal(t, 2, bad.Calls(modcachetest.OpGet))
		// A probe whose caller goes away says nothing, and leaves room for the next.
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err = l.Get(ctx, keyNo(1))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
		bad.Release()
		synctest.Wait()
		hit(t, l, keyNo(1))
	})
}

func TestLayeredTakesRefusalsAndDamageForNoFailures(t *testing.T) {
	var kinds []modcache.EventKind
	for _, err := range []error{modcache.ErrCorrupt, modcache.ErrAuth, modcache.ErrTooLarge, modcache.ErrReadOnly} {
		bad, _ := faulty(modcachetest.Fault{Err: err})
		l := layered(t, &modcache.LayeredOptions{BreakAfter: 1, OnEvent: func(e modcache.Event) { kinds = append(kinds, e.Kind) }}, modcache.Layer{Store: bad})
		for range 3 {
			_, _, got := l.Get(t.Context(), keyNo(1))
			require.ErrorIs(t, got, err)
			require.NotErrorIs(t, got, modcache.ErrUnavailable)
		}
		require.Zero(t, l.Metrics().Errors)
	}
	require.Equal(t, []modcache.EventKind{modcache.EventCorrupt, modcache.EventMiss}, kinds[:2])
}

// Layers may panic, end the goroutine they are called on, or answer what no
// store may answer.
func TestLayeredContainsAMisbehavingLayer(t *testing.T) {
	goexit := &storetest.Fake{Under: newShelf(),
		OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
			runtime.Goexit()
			return nil, false, nil
		},
		OnAdd: func(context.Context, modcache.Key, *modcache.Artifact) error { runtime.Goexit(); return nil },
	}
	panics, _ := faulty(modcachetest.Fault{Panic: errInjected})
	noArtifact := &storetest.Fake{Under: newShelf(), OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) { return nil, true, nil }}
	files := newFileShelf()
	put(t, files, keyNo(9))
	both := &storetest.Fake{Under: newShelf(), OnGet: func(ctx context.Context, _ modcache.Key) (*modcache.Artifact, bool, error) {
		a, _, _ := files.Get(ctx, keyNo(9))
		return a, true, errInjected
	}}
	for name, c := range map[string]struct {
		layer modcache.Layer
		adds  bool // whether adding works
	}{
		"panics":                {modcache.Layer{Store: panics}, false},
		"panics directly":       {modcache.Layer{Store: panics, Direct: true}, false},
		"panics behind":         {modcache.Layer{Store: panics, Write: modcache.WriteBehind}, true},
		"exits":                 {modcache.Layer{Store: goexit}, false},
		"exits behind":          {modcache.Layer{Store: goexit, Write: modcache.WriteBehind}, true},
		"hit without artifact":  {modcache.Layer{Store: noArtifact}, true},
		"artifact with error":   {modcache.Layer{Store: both}, true},
		"is nil behind pointer": {modcache.Layer{Store: (*shelf)(nil)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			disk := newFileShelf()
			put(t, disk, keyNo(1))
			l := layered(t, nil, c.layer, modcache.Layer{Store: disk})
			for range 3 {
				hit(t, l, keyNo(1))
				_ = l.Flush(t.Context())
			}
			_, ok, err := l.Get(t.Context(), keyNo(2))
			require.False(t, ok)
			require.Error(t, err)
			err = l.Add(t.Context(), keyNo(3), code(keyNo(3)))
			require.Equal(t, c.adds, err == nil, "%v", err)
			hit(t, disk, keyNo(3))
			_ = l.Delete(t.Context(), keyNo(3))
			require.False(t, disk.has(keyNo(3)))
			require.Zero(t, files.open.Load())
			_, _ = l.Metrics(), l.Flush(t.Context())
			unlock, err := l.Lock(t.Context(), keyNo(1))
			require.NoError(t, err)
			unlock()
		})
	}
}

// A direct layer that ends the goroutine of a lookup loses that lookup alone.
func TestLayeredLookupOutlivesGoexit(t *testing.T) {
	n := 0
	once := &storetest.Fake{Under: newShelf(), OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
		if n++; n == 1 {
			runtime.Goexit()
		}
		return nil, false, nil
	}}
	l := layered(t, nil, direct(newShelf()), modcache.Layer{Store: once, Direct: true})
	_, ok, err := l.Get(t.Context(), keyNo(1))
	require.False(t, ok)
	require.ErrorContains(t, err, "ended its goroutine")
	miss(t, l, keyNo(1))
}

// A direct layer that ends the worker's goroutine doesn't strand the queue.
func TestLayeredWorkerOutlivesGoexit(t *testing.T) {
	mem := newShelf()
	n := 0
	once := &storetest.Fake{Under: mem, OnAdd: func(ctx context.Context, k modcache.Key, a *modcache.Artifact) error {
		if n++; n == 1 {
			runtime.Goexit()
		}
		return mem.Add(ctx, k, a)
	}}
	l := layered(t, nil, modcache.Layer{Store: once, Direct: true, Write: modcache.WriteBehind}, modcache.Layer{Store: newShelf()})
	put(t, l, keyNo(1))
	put(t, l, keyNo(2))
	require.Error(t, l.Flush(t.Context()))
	require.False(t, mem.has(keyNo(1)))
	require.True(t, mem.has(keyNo(2)))
	require.NoError(t, l.Close())
}

// An error names each thing once, however many stores it came through.
func TestLayeredErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail, slow := newShelf(), modcachetest.NewFaulty(newShelf(), &modcachetest.Plan{Faults: []modcachetest.Fault{{Delay: time.Hour}}})
		fail.failing.Store(true)
		inner := layered(t, nil, modcache.Layer{Store: fail, Name: "a"})
		l := layered(t, &modcache.LayeredOptions{BreakAfter: 3, Cooldown: time.Hour}, modcache.Layer{Store: inner}, modcache.Layer{Store: slow, Name: "b", Timeout: time.Second})
		k := keyNo(1)
		_, _, err := inner.Get(t.Context(), k)
		require.EqualError(t, err, "modcache: layer a: get "+k.String()+": injected")
		for _, note := range []string{"", "", " (failure 3 in a row: the layer is skipped for a while)"} {
			_, _, err = l.Get(t.Context(), k)
			require.EqualError(t, err, "modcache: layered: get "+k.String()+": layer layered: layer a: injected"+note+
				"; layer b: too slow: no answer in 1s: context deadline exceeded"+note)
			require.ErrorIs(t, err, errInjected)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		_, _, err = l.Get(t.Context(), k)
		require.EqualError(t, err, "modcache: layered: get "+k.String()+": layer layered: unavailable for now; layer b: unavailable for now")
		require.EqualError(t, l.Flush(t.Context()), "modcache: layered: flush: layer layered: layer a: injected; layer b: too slow: no answer in 10s: context deadline exceeded")
		behind := layered(t, nil, modcache.Layer{Store: fail, Name: "a", Write: modcache.WriteBehind})
		require.NoError(t, behind.Add(t.Context(), k, code(k)))
		require.EqualError(t, behind.Close(), "modcache: layer a: close: 1 deferred writes were lost, the last: add "+k.String()+": injected")
		require.EqualError(t, behind.Delete(t.Context(), k), "modcache: layered: delete "+k.String()+": closed")
		require.EqualError(t, layered(t, nil).Add(t.Context(), k, code(k)), "modcache: layered: add "+k.String()+": there are no layers: store is read-only")
	})
}
