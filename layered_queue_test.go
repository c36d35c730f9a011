package modcache_test

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/modcachetest"
)

func TestLayeredWriteBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, s := faulty(modcachetest.Fault{Op: modcachetest.OpAdd, Delay: time.Second})
		l := layered(t, nil, modcache.Layer{Store: slow, Write: modcache.WriteBehind})
		start := time.Now()
		put(t, l, keyNo(1))
		put(t, l, keyNo(1)) // on its way already
		put(t, l, keyNo(2))
		hit(t, l, keyNo(1))
		hit(t, l, keyNo(2))
		require.Zero(t, time.Since(start), "nobody waited")
		m := l.Layers()[0]
		require.EqualValues(t, 2, m.Queued)
		require.EqualValues(t, code(keyNo(1)).Size()+code(keyNo(2)).Size(), m.QueuedBytes)
		require.NoError(t, l.Flush(t.Context()))
		require.Equal(t, 2*time.Second, time.Since(start))
		require.Equal(t, 2, slow.Calls(modcachetest.OpAdd))
		require.True(t, s.has(keyNo(1)))
		require.True(t, s.has(keyNo(2)))
		require.Zero(t, l.Layers()[0].QueuedBytes)
	})
}

func TestLayeredFlushWaitsNoLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, _ := faulty(modcachetest.Fault{Op: modcachetest.OpAdd, Delay: 5 * time.Second})
		l := layered(t, nil, modcache.Layer{Store: slow, Write: modcache.WriteBehind})
		put(t, l, keyNo(1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := l.Flush(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "still under way")
		require.NoError(t, l.Flush(t.Context()))
	})
}

func TestLayeredReportsWhatWriteBehindLoses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed []modcache.Event
		var mu sync.Mutex
		slow, s := faulty(modcachetest.Fault{Op: modcachetest.OpAdd, Delay: time.Second}, modcachetest.Fault{Op: modcachetest.OpAdd, Nth: 2, Err: errInjected})
		l := layered(t, &modcache.LayeredOptions{QueueBytes: 250, OnEvent: func(e modcache.Event) {
			mu.Lock()
			defer mu.Unlock()
			if e.Kind == modcache.EventStoreFailed {
				failed = append(failed, e)
			}
		}}, modcache.Layer{Store: slow, Name: "far", Write: modcache.WriteBehind})
		put(t, l, keyNo(1))
		put(t, l, keyNo(2))
		err := l.Add(t.Context(), keyNo(3), code(keyNo(3)))
		require.ErrorIs(t, err, modcache.ErrUnavailable)
		require.ErrorContains(t, err, "layer far: add "+keyNo(3).String())
		require.ErrorContains(t, err, "103 bytes don't fit the queue, which holds 203 of at most 250")

		err = l.Flush(t.Context())
		require.ErrorIs(t, err, errInjected)
		require.ErrorContains(t, err, "2 deferred writes were lost")
		require.NoError(t, l.Flush(t.Context()), "a loss is reported once")
		require.True(t, s.has(keyNo(1)))
		require.False(t, s.has(keyNo(2)))
		require.EqualValues(t, 1, l.Layers()[0].Dropped)
		m := l.Metrics()
		require.EqualValues(t, 2, m.Adds)
		require.EqualValues(t, 1, m.RejectedAdds)
		require.Len(t, failed, 2)
		require.Equal(t, keyNo(3), failed[0].Key)
		require.Equal(t, keyNo(2), failed[1].Key)

		put(t, l, keyNo(3))
		slow.Heal()
		require.NoError(t, l.Close())
		require.True(t, s.has(keyNo(3)))
	})
}

// A deferred write that finds a promotion of its key under way relies on it.
func TestLayeredReportsAPromotionThatStandsInForAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, _ := faulty(modcachetest.Fault{Op: modcachetest.OpAdd, Delay: time.Second}, modcachetest.Fault{Op: modcachetest.OpAdd, Err: errInjected})
		far := newShelf()
		put(t, far, keyNo(1))
		put(t, far, keyNo(2))
		l := layered(t, nil, modcache.Layer{Store: bad, Write: modcache.WriteBehind}, modcache.Layer{Store: far})
		hit(t, l, keyNo(1))
		hit(t, l, keyNo(2))
		put(t, l, keyNo(1))
		require.ErrorContains(t, l.Flush(t.Context()), "1 deferred writes were lost")
	})
}

func TestLayeredCloseReportsWhatWasLost(t *testing.T) {
	bad, _ := faulty(modcachetest.Fault{Op: modcachetest.OpAdd, Err: errInjected})
	l := modcache.NewLayered(nil, modcache.Layer{Store: bad, Write: modcache.WriteBehind})
	put(t, l, keyNo(1))
	require.ErrorIs(t, l.Close(), errInjected)
	require.NoError(t, l.Close())
}

func TestLayeredCloseIsNotHeldUpByAHangingLayer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging, _ := faulty(modcachetest.Fault{Op: modcachetest.OpAdd, Hang: true})
		l := modcache.NewLayered(&modcache.LayeredOptions{BreakAfter: 2}, modcache.Layer{Store: hanging, Timeout: time.Second, Write: modcache.WriteBehind})
		for n := range byte(100) {
			put(t, l, keyNo(n))
		}
		start := time.Now()
		err := l.Close()
		require.Equal(t, 2*time.Second, time.Since(start), "after two failures the layer is skipped")
		require.ErrorContains(t, err, "100 deferred writes were lost")
		hanging.Release()
	})
}

func TestLayeredDeleteCallsOffDeferredWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, s := faulty(modcachetest.Fault{Op: modcachetest.OpAdd, Delay: time.Second})
		src := newFileShelf()
		put(t, src, keyNo(1))
		put(t, src, keyNo(2))
		l := layered(t, nil, modcache.Layer{Store: slow, Write: modcache.WriteBehind})
		for n := byte(1); n <= 2; n++ {
			a, ok, err := src.Get(t.Context(), keyNo(n))
			require.True(t, ok, err)
			require.NoError(t, l.Add(t.Context(), keyNo(n), a))
			require.NoError(t, a.Close())
		}
		synctest.Wait() // the first is being written, the second waits
		require.NoError(t, l.Delete(t.Context(), keyNo(2)))
		require.NoError(t, l.Delete(t.Context(), keyNo(1)))
		miss(t, l, keyNo(1))
		miss(t, l, keyNo(2))
		require.NoError(t, l.Flush(t.Context()))
		synctest.Wait() // for the worker, which closes what was called off
		require.Empty(t, s.keys())
		require.Equal(t, 1, slow.Calls(modcachetest.OpAdd))
		require.Zero(t, src.open.Load(), "the queue let go of its handles")
		require.Zero(t, l.Layers()[0].QueuedBytes)
	})
}

func TestLayeredDeferredWriteOutlivesTheCallersHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, s := faulty(modcachetest.Fault{Op: modcachetest.OpAdd, Delay: time.Second})
		src := newFileShelf()
		put(t, src, keyNo(1))
		l := layered(t, nil, modcache.Layer{Store: slow, Write: modcache.WriteBehind})
		a, _, err := src.Get(t.Context(), keyNo(1))
		require.NoError(t, err)
		require.NoError(t, l.Add(t.Context(), keyNo(1), a))
		require.NoError(t, a.Close())
		require.ErrorIs(t, l.Add(t.Context(), keyNo(2), a), modcache.ErrClosed)
		require.ErrorIs(t, l.Flush(t.Context()), modcache.ErrClosed)
		require.True(t, s.has(keyNo(1)))
		require.Zero(t, src.open.Load())
	})
}

func TestLayeredPromotesOnlyWhereItIsWanted(t *testing.T) {
	mem, never, ro, far := newShelf(), newShelf(), newShelf(), newFileShelf()
	l := layered(t, nil, direct(mem),
		modcache.Layer{Store: never, Promote: modcache.PromoteNever},
		modcache.Layer{Store: ro, Write: modcache.WriteNever}, modcache.Layer{Store: far})
	put(t, far, keyNo(1))
	hit(t, l, keyNo(1))
	require.NoError(t, l.Flush(t.Context()))
	require.True(t, mem.has(keyNo(1)))
	require.False(t, never.has(keyNo(1)))
	require.False(t, ro.has(keyNo(1)))
	require.Zero(t, far.open.Load())
}

func TestLayeredEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, far := newShelf(), newShelf()
		var mu sync.Mutex
		var events []modcache.Event
		take := func() []modcache.Event {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			got := events
			events = nil
			for i := range got {
				got[i].Duration = 0
			}
			return got
		}
		l := layered(t, &modcache.LayeredOptions{OnEvent: func(e modcache.Event) {
			mu.Lock()
			events = append(events, e)
			mu.Unlock()
			panic("an observer that panics is contained")
		}}, modcache.Layer{Store: mem, Name: "memory", Direct: true}, modcache.Layer{Store: far, Name: "far"})
		k, size := keyNo(1), code(keyNo(1)).Size()

		miss(t, l, k)
		require.Equal(t, []modcache.Event{{Kind: modcache.EventMiss, Reason: modcache.ReasonAbsent, Key: k}}, take())

		put(t, far, k)
		hit(t, l, k)
		require.Equal(t, []modcache.Event{
			{Kind: modcache.EventPromoted, Key: k, Layer: "memory", Bytes: size},
			{Kind: modcache.EventHit, Key: k, Layer: "far", Bytes: size},
		}, take())

		hit(t, l, k)
		require.Equal(t, []modcache.Event{{Kind: modcache.EventHit, Key: k, Layer: "memory", Bytes: size}}, take())

		far.failing.Store(true)
		_, _, err := l.Get(t.Context(), keyNo(2))
		got := take()
		require.Len(t, got, 2)
		require.Equal(t, modcache.EventStoreFailed, got[0].Kind)
		require.Equal(t, "far", got[0].Layer)
		require.Equal(t, modcache.Event{Kind: modcache.EventMiss, Reason: modcache.ReasonIO, Key: keyNo(2), Err: err}, got[1])
		require.ErrorIs(t, err, errInjected)
	})
}

// An observer of a layer in memory that doesn't return keeps nobody from the other layers, nor from what is in memory.
func TestLayeredWhoseMemorysObserverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ever := make(chan struct{})
		memory := modcache.NewMemory(&modcache.MemoryOptions{MaxEntries: 1, OnEvent: func(modcache.Event) { <-ever }})
		slower := newShelf()
		l := modcache.NewLayered(nil, modcache.Layer{Store: memory}, modcache.Layer{Store: slower})
		put(t, slower, keyNo(1))
		hit(t, l, keyNo(1)) // promoted
		synctest.Wait()
		hit(t, memory, keyNo(1))

		start := time.Now()
		put(t, slower, keyNo(2))
		hit(t, l, keyNo(2)) // promoted, in place of the first
		hit(t, l, keyNo(2))
		require.Zero(t, time.Since(start), "a lookup doesn't wait for an observer")
		for n := byte(3); n < 12; n++ {
			_ = l.Add(t.Context(), keyNo(n), code(keyNo(n)))
			hit(t, l, keyNo(n))
		}
		require.LessOrEqual(t, time.Since(start), time.Duration(6)*modcache.DefaultLayerTimeout)
		require.NoError(t, l.Close())
		close(ever)
	})
}

// An observer may delete the entry of an event: the background write has ended.
func TestLayeredObserverMayDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, disk, src := newShelf(), newShelf(), newShelf()
		put(t, src, keyNo(2))
		var l *modcache.Layered
		var mu sync.Mutex
		seen := map[modcache.EventKind]int{}
		l = layered(t, &modcache.LayeredOptions{OnEvent: func(e modcache.Event) {
			mu.Lock()
			seen[e.Kind]++
			mu.Unlock()
			if e.Kind == modcache.EventStored || e.Kind == modcache.EventPromoted && e.Layer == "disk" {
				require.NoError(t, l.Delete(t.Context(), e.Key))
			}
		}}, direct(mem), modcache.Layer{Store: disk, Name: "disk", Write: modcache.WriteBehind},
			modcache.Layer{Store: src, Promote: modcache.PromoteNever, Write: modcache.WriteNever})
		put(t, l, keyNo(1))
		synctest.Wait()
		hit(t, l, keyNo(2))
		synctest.Wait()
		require.Empty(t, disk.keys())
		require.Empty(t, mem.keys())
		require.Equal(t, 2, seen[modcache.EventStored])
		require.Equal(t, 2, seen[modcache.EventPromoted])
	})
}

func TestLayeredMissesHaveReasons(t *testing.T) {
	for want, err := range map[modcache.Reason]error{
		modcache.ReasonCorrupt:  modcache.ErrCorrupt,
		modcache.ReasonAuth:     modcache.ErrAuth,
		modcache.ReasonTooLarge: modcache.ErrTooLarge,
		modcache.ReasonTimeout:  context.DeadlineExceeded,
		modcache.ReasonIO:       errors.New("disk on fire"),
	} {
		bad, _ := faulty(modcachetest.Fault{Err: err})
		var got modcache.Reason
		l := layered(t, &modcache.LayeredOptions{OnEvent: func(e modcache.Event) { got = max(got, e.Reason) }}, modcache.Layer{Store: bad})
		_, _, _ = l.Get(t.Context(), keyNo(1))
		require.Equal(t, want, got)
	}
}

// What lies in a file is promoted as a whole, sealed or not, into a file and into memory.
func TestLayeredPromotesFiles(t *testing.T) {
	needsCompiler(t)
	m := modcache.NewModule(wasmtest.Sum(3000, 0)) // too large for an entry that is read at once
	far := openDisk(t, tempCacheDir(t), nil)
	require.NoError(t, newCache(t, far, nil).Warm(bg, nil, m))
	files, err := modcache.OpenFS(os.DirFS(far.Dir()), nil)
	require.NoError(t, err)
	for _, from := range []modcache.Store{far, files} {
		for _, into := range []modcache.Store{openDisk(t, tempCacheDir(t), nil), modcache.NewMemory(nil)} {
			for _, sealed := range []bool{true, false} {
				l := modcache.NewLayered(nil, modcache.Layer{Store: into}, modcache.Layer{Store: from, Write: modcache.WriteNever})
				c := newCache(t, l, nil)
				r := newRuntime(t, c, nil)
				if sealed {
					found, err := r.Stored(bg, m)
					require.NoError(t, err)
					require.True(t, found)
				} else {
					a, ok, err := l.Get(bg, r.Key(m))
					require.NoError(t, err)
					require.True(t, ok)
					require.NoError(t, a.Close())
				}
				require.NoError(t, c.Close(bg))
				require.NoError(t, l.Close())
				require.NoError(t, l.PromotionReport().Last.Err)
				require.EqualValues(t, 1, l.PromotionReport().Promoted)
				require.NoError(t, into.Delete(bg, r.Key(m)))
			}
		}
	}
}
