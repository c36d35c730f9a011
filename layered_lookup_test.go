package modcache_test

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/modcachetest"
)

// gated is a store whose lookups wait to be let through, and end with their context.
type gated struct {
	storetest.Fake
	cancelled atomic.Int32
	pass      chan struct{}
}

func newGated(s modcache.Store) *gated {
	g := &gated{pass: make(chan struct{})}
	g.Under = s
	g.OnGet = func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
		select {
		case <-g.pass:
			return s.Get(ctx, key)
		case <-ctx.Done():
			g.cancelled.Add(1)
			return nil, false, ctx.Err()
		}
	}
	return g
}

func TestLayeredLookupsOfAKeyAskTheSlowLayerOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, disk := newShelf(), newFileShelf()
		put(t, disk, keyNo(1))
		g := newGated(disk)
		l := layered(t, nil, direct(mem), modcache.Layer{Store: g})
		var wg sync.WaitGroup
		handles := make(chan *modcache.Artifact, 64)
		for range 64 {
			wg.Go(func() {
				a, ok, err := l.Get(t.Context(), keyNo(1))
				require.NoError(t, err)
				require.True(t, ok)
				handles <- a
			})
		}
		synctest.Wait()
		close(g.pass)
		wg.Wait()
		require.EqualValues(t, 1, g.Calls().Get)
		// Everybody has a handle of his own.
		for range 64 {
			a := <-handles
			b := make([]byte, a.Size())
			_, err := a.ReadAt(b, 0)
			require.NoError(t, err)
			require.NoError(t, a.Close())
			require.NoError(t, a.Close())
			_, err = a.ReadAt(b, 0)
			require.ErrorIs(t, err, modcache.ErrClosed)
		}
		require.NoError(t, l.Flush(t.Context()))
		require.Zero(t, disk.open.Load())
		require.True(t, mem.has(keyNo(1)), "promoted")
		m := l.Metrics()
		require.EqualValues(t, 64, m.Hits)
		require.EqualValues(t, 64, m.Lookups)
		require.EqualValues(t, 1, m.Promotions)
		require.EqualValues(t, 64, mem.Metrics().Lookups, "the front layer was asked once per lookup")
	})
}

// TestLayeredLookupWithoutACompileIsItsOwn: a store that has less time for another caller may give up.
func TestLayeredLookupWithoutACompileIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newFileShelf()
		put(t, disk, keyNo(1))
		g := newGated(disk)
		under := g.OnGet
		g.OnGet = func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
			if modcache.CompileEstimate(ctx) >= 0 {
				return nil, false, context.DeadlineExceeded
			}
			return under(ctx, key)
		}
		l := layered(t, nil, modcache.Layer{Store: g})
		needed := modcache.WithCompileEstimate(t.Context(), -1)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				a, ok, err := l.Get(needed, keyNo(1))
				require.NoError(t, err)
				require.True(t, ok)
				require.NoError(t, a.Close())
			})
		}
		synctest.Wait()
		_, _, err := l.Get(t.Context(), keyNo(1))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		close(g.pass)
		wg.Wait()
		require.EqualValues(t, 2, g.Calls().Get)
	})
}

func TestLayeredContextFreesItsCallerAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newFileShelf()
		put(t, disk, keyNo(1))
		g := newGated(disk)
		l := layered(t, nil, direct(newShelf()), modcache.Layer{Store: g})
		first, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, _, err := l.Get(first, keyNo(1))
			gone <- err
		}()
		synctest.Wait()
		stays := make(chan struct{})
		go func() {
			hit(t, l, keyNo(1))
			close(stays)
		}()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-gone, context.Canceled)
		close(g.pass)
		<-stays
		require.EqualValues(t, 1, g.Calls().Get)
		require.Zero(t, g.cancelled.Load())
	})
}

// A layer that hangs, when it is asked or when its artifact is read, has its part of what a Cache waits, once, and hides no other.
func TestLayeredThatHangsHidesNoOther(t *testing.T) {
	needsCompiler(t)
	var modules []*modcache.Module
	far := &storetest.Fake{}
	for i := range int32(4) {
		modules = append(modules, modcache.NewModule(wasmtest.Const(i)))
	}
	require.NoError(t, newCache(t, far, nil).Warm(bg, nil, modules...))
	for i := range 4 {
		read, nested := i&1 != 0, i&2 != 0
		synctest.Test(t, func(t *testing.T) {
			answer := make(chan struct{})
			near := &storetest.Fake{OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
				if read {
					return modcache.NewArtifactFrom(storetest.Source{OnRead: func([]byte, int64) (int, error) { <-answer; return 0, io.EOF }}, 500, modcache.Info{}), true, nil
				}
				<-answer
				return nil, false, nil
			}}
			l := layered(t, nil, modcache.Layer{Store: near, Write: modcache.WriteNever}, modcache.Layer{Store: far})
			if nested {
				l = layered(t, nil, modcache.Layer{Store: l}, modcache.Layer{Store: &storetest.Fake{}})
			}
			c := newCache(t, l, nil)
			r := newRuntime(t, c, nil)
			start := time.Now()
			for _, m := range modules {
				cm, err := r.Compile(bg, m)
				require.NoError(t, err)
				require.NoError(t, cm.Close(bg))
			}
			require.Less(t, time.Since(start), time.Minute)
			require.Zero(t, c.Metrics().Compiles)
			close(answer)
		})
	}
}

// A layer that hangs when it is asked, or when it is given code, has a Cache wait once a minute, or until it answers, whether or
// not it heeds its context.
func TestLayeredThatHangsIsWaitedForOnceAMinute(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		for i := range 8 {
			get, heeds, nested := i&1 != 0, i&2 != 0, i&4 != 0
			t.Run(fmt.Sprintf("%s get=%v heeds=%v nested=%v", w.Name, get, heeds, nested), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					answer := make(chan struct{})
					answers := sync.OnceFunc(func() { close(answer) })
					defer answers()
					hang := func(ctx context.Context) error {
						if !heeds {
							ctx = context.Background()
						}
						select {
						case <-answer:
							return nil
						case <-ctx.Done():
							return ctx.Err()
						}
					}
					near := &storetest.Fake{}
					if get {
						near.OnGet = func(ctx context.Context, _ modcache.Key) (*modcache.Artifact, bool, error) {
							return nil, false, hang(ctx)
						}
					} else {
						near.OnAdd = func(ctx context.Context, _ modcache.Key, _ *modcache.Artifact) error { return hang(ctx) }
					}
					far := &storetest.Fake{}
					l := layered(t, nil, modcache.Layer{Store: near}, modcache.Layer{Store: far})
					if nested {
						l = layered(t, nil, modcache.Layer{Store: l}, modcache.Layer{Store: &storetest.Fake{}})
					}
					c := newCache(t, l, &modcache.Options{SmallModules: -1})
					var n int32
					start, waited := time.Now(), 0
					next := func() {
						began := time.Now()
						_, err := w.Run(c, wasmtest.Const(n))
						require.NoError(t, err)
						if n++; time.Since(began) > time.Second {
							waited++
						}
						time.Sleep(time.Second)
					}
					for time.Since(start) < 60*time.Second {
						next()
					}
					require.Equal(t, 1, waited)
					require.Equal(t, get, near.Calls().Get < int(n))
					if heeds { // it has answered, in its way
						for time.Since(start) < 100*time.Second {
							next()
						}
						require.Equal(t, 2, waited)
					}
					answers()
					synctest.Wait()
					if !heeds {
						if nested {
							time.Sleep(bounded.Pause) // the layers around it have failed too, for all that they know
						}
						before := near.Calls()
						next()
						require.Greater(t, near.Calls().Get, before.Get)
						require.Greater(t, near.Calls().Add, before.Add)
						require.Equal(t, 1, waited)
					}
				})
			})
		}
	}
}

// A Timeout that is less than what a Cache waits is a failure like others: the layer isn't skipped for one.
func TestLayeredWithAShortTimeout(t *testing.T) {
	needsCompiler(t)
	synctest.Test(t, func(t *testing.T) {
		slow, _ := faulty(modcachetest.Fault{Op: modcachetest.OpGet, Delay: time.Hour, Nth: 1})
		l := layered(t, nil, modcache.Layer{Store: slow, Timeout: time.Second}, modcache.Layer{Store: &storetest.Fake{}})
		c := newCache(t, l, &modcache.Options{SmallModules: -1})
		for n := range int32(4) {
			_, err := ways[0].Run(c, wasmtest.Const(n))
			require.NoError(t, err)
		}
		require.EqualValues(t, 1, l.Layers()[0].Timeouts)
		require.Zero(t, l.Layers()[0].Skipped)
	})
}

// However many artifacts of a layer hang when they are read, all at once or one a minute, those of others are found.
func TestLayeredWhoseArtifactsAllHang(t *testing.T) {
	needsCompiler(t)
	const most = 256
	m, far := modcache.NewModule(wasmtest.Const(0)), &storetest.Fake{}
	fill := newCache(t, far, nil)
	require.NoError(t, fill.Warm(bg, nil, m))
	for _, atOnce := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			answer := make(chan struct{})
			near := &storetest.Fake{OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
				src := storetest.Source{OnRead: func([]byte, int64) (int, error) { <-answer; return 0, io.EOF }}
				return modcache.NewArtifactFrom(src, 500, modcache.Info{Engine: fill.EngineID()}), true, nil
			}}
			l := layered(t, nil, modcache.Layer{Store: near, Write: modcache.WriteNever}, modcache.Layer{Store: far})
			r := newRuntime(t, newCache(t, l, nil), nil)
			find := func() {
				found, err := r.Stored(bg, m)
				require.NoError(t, err)
				require.True(t, found)
			}
			var finding sync.WaitGroup
			for range most + 40 {
				finding.Go(find)
				if !atOnce {
					finding.Wait()
					time.Sleep(bounded.Pause)
				}
			}
			finding.Wait()
			require.EqualValues(t, most, l.Layers()[0].Hung)
			require.True(t, l.Layers()[0].Open)
			start := time.Now()
			find()
			require.Zero(t, time.Since(start))
			close(answer)
			synctest.Wait()
			require.Zero(t, l.Layers()[0].Hung)
			require.False(t, l.Layers()[0].Open)
		})
	}
}

// A caller who has little time doesn't have others skip a layer, or get a miss.
func TestLayeredIsNotHurried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newGated(newFileShelf()), newFileShelf()
		put(t, near, keyNo(1))
		l := layered(t, nil, modcache.Layer{Store: near}, modcache.Layer{Store: far})
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			_, _, err := l.Get(ctx, keyNo(1))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
		}
		time.AfterFunc(time.Second, func() { close(near.pass) })
		hurried, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		go func() { _, _, _ = l.Get(hurried, keyNo(1)) }()
		synctest.Wait()
		hit(t, l, keyNo(1))
	})
}

func TestLayeredLastCallerEndsTheLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGated(newFileShelf())
		far := newGated(newFileShelf())
		l := layered(t, nil, modcache.Layer{Store: g}, modcache.Layer{Store: far, Direct: true})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, _, err := l.Get(ctx, keyNo(1))
				require.ErrorIs(t, err, context.Canceled)
			})
		}
		wg.Wait()
		synctest.Wait()
		require.EqualValues(t, 1, g.cancelled.Load())
		require.Zero(t, far.Calls().Get, "nobody waits for what the next layer says")
		require.Zero(t, l.Metrics().Errors, "the layer is not to blame")
		close(g.pass)
		close(far.pass)
		miss(t, l, keyNo(1)) // a later caller doesn't join what was cancelled
		_, _, err := l.Get(ctx, keyNo(1))
		require.ErrorIs(t, err, context.Canceled)
		require.EqualValues(t, 2, g.Calls().Get, "a caller who has gone starts nothing")
	})
}

func TestLayeredAbandonedLookupHelpsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		deaf := &storetest.Fake{Under: newShelf(), OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
			<-block
			return nil, false, nil
		}}
		far := newFileShelf()
		put(t, far, keyNo(1))
		l := layered(t, nil, direct(newShelf()), modcache.Layer{Store: deaf, Direct: true}, modcache.Layer{Store: far})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := l.Get(ctx, keyNo(1))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		done := make(chan struct{})
		go func() {
			hit(t, l, keyNo(1))
			close(done)
		}()
		synctest.Wait()
		close(block)
		<-done
	})
}

// Between a miss of the front layer and the lookup that follows it, the entry may
// arrive in the front layer.
func TestLayeredFindsWhatArrivesInTheFrontLayerMeanwhile(t *testing.T) {
	// late lets something happen after the front layer's first miss.
	late := func(mem *shelf, happens func()) *storetest.Fake {
		first := true
		return &storetest.Fake{Under: mem, OnGet: func(ctx context.Context, k modcache.Key) (*modcache.Artifact, bool, error) {
			a, ok, err := mem.Get(ctx, k)
			if first {
				first = false
				happens()
			}
			return a, ok, err
		}}
	}
	t.Run("by a promotion", func(t *testing.T) {
		var l *modcache.Layered
		far := newShelf()
		put(t, far, keyNo(1))
		front := late(newShelf(), func() { hit(t, l, keyNo(1)) })
		l = layered(t, nil, modcache.Layer{Store: front, Direct: true}, modcache.Layer{Store: far})
		hit(t, l, keyNo(1))
		require.EqualValues(t, 1, far.Metrics().Lookups, "the slow layer is asked once")
	})
	t.Run("by a deferred write", func(t *testing.T) {
		var l *modcache.Layered
		front := late(newShelf(), func() {
			put(t, l, keyNo(1))
			require.NoError(t, l.Flush(t.Context()))
		})
		l = layered(t, nil, modcache.Layer{Store: front, Direct: true, Write: modcache.WriteBehind})
		hit(t, l, keyNo(1))
	})
}

func TestLayeredLookupFromBeforeTheAddIsNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newFileShelf()
		block := make(chan struct{})
		var asked atomic.Int32
		old := &storetest.Fake{Under: disk, OnGet: func(ctx context.Context, k modcache.Key) (*modcache.Artifact, bool, error) {
			a, ok, err := disk.Get(ctx, k)
			if asked.Add(1) == 1 {
				<-block // the first answer is late
			}
			return a, ok, err
		}}
		l := layered(t, nil, modcache.Layer{Store: old})
		done := make(chan struct{})
		go func() {
			miss(t, l, keyNo(1))
			close(done)
		}()
		synctest.Wait()
		put(t, l, keyNo(1))
		hit(t, l, keyNo(1))
		close(block)
		<-done
	})
}

func TestLayeredDeletedEntryIsNotPromotedBack(t *testing.T) {
	t.Run("by a lookup under way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			mem, disk := newShelf(), newFileShelf()
			put(t, disk, keyNo(1))
			block := make(chan struct{})
			slow := &storetest.Fake{Under: disk, OnGet: func(ctx context.Context, k modcache.Key) (*modcache.Artifact, bool, error) {
				a, ok, err := disk.Get(ctx, k)
				<-block
				return a, ok, err
			}}
			l := layered(t, nil, direct(mem), modcache.Layer{Store: slow})
			done := make(chan struct{})
			go func() {
				hit(t, l, keyNo(1))
				close(done)
			}()
			synctest.Wait()
			require.NoError(t, l.Delete(t.Context(), keyNo(1)))
			close(block)
			<-done
			require.NoError(t, l.Flush(t.Context()))
			require.False(t, mem.has(keyNo(1)))
			miss(t, l, keyNo(1))
		})
	})
	t.Run("by a lookup that ends while others are deleted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			mem, disk := newShelf(), newShelf()
			put(t, disk, keyNo(1))
			look, del := make(chan struct{}), make(chan struct{})
			slow := &storetest.Fake{Under: disk,
				OnGet: func(ctx context.Context, k modcache.Key) (*modcache.Artifact, bool, error) {
					a, ok, err := disk.Get(ctx, k)
					<-look
					return a, ok, err
				},
				OnDelete: func(ctx context.Context, k modcache.Key) error {
					<-del
					return disk.Delete(ctx, k)
				}}
			l := layered(t, nil, direct(mem), modcache.Layer{Store: slow})
			var wg sync.WaitGroup
			wg.Go(func() { hit(t, l, keyNo(1)) })
			synctest.Wait()
			wg.Go(func() { require.NoError(t, l.Delete(t.Context(), keyNo(1))) })
			synctest.Wait()
			close(look)
			synctest.Wait()
			close(del)
			wg.Wait()
			require.NoError(t, l.Flush(t.Context()))
			require.False(t, mem.has(keyNo(1)))
		})
	})
	t.Run("by a promotion under way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			mem, disk := newShelf(), newFileShelf()
			put(t, disk, keyNo(1))
			block := make(chan struct{})
			slow := &storetest.Fake{Under: mem, OnAdd: func(ctx context.Context, k modcache.Key, a *modcache.Artifact) error {
				<-block
				return mem.Add(ctx, k, a)
			}}
			l := layered(t, nil, modcache.Layer{Store: slow}, modcache.Layer{Store: disk})
			hit(t, l, keyNo(1))
			done := make(chan struct{})
			go func() {
				require.NoError(t, l.Delete(t.Context(), keyNo(1)))
				close(done)
			}()
			synctest.Wait()
			close(block)
			<-done
			miss(t, l, keyNo(1))
		})
	})
}

func TestLayeredCallerNeverWaitsForAPromotion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mid := modcachetest.NewFaulty(newFileShelf(), &modcachetest.Plan{Faults: []modcachetest.Fault{{Op: modcachetest.OpAdd, Delay: time.Second}}})
		far := newFileShelf()
		l := layered(t, nil, direct(newShelf()), modcache.Layer{Store: mid}, modcache.Layer{Store: far})
		for n := range byte(3) {
			put(t, far, keyNo(n))
		}
		start := time.Now()
		for n := range byte(3) {
			hit(t, l, keyNo(n))
			hit(t, l, keyNo(n)) // from the queue, if not from memory
		}
		require.Zero(t, time.Since(start))
		require.NoError(t, l.Flush(t.Context()))
		require.Equal(t, 3*time.Second, time.Since(start))
		for n := range byte(3) {
			hit(t, mid, keyNo(n))
		}
	})
}

func TestLayeredFrontHitAllocatesNothing(t *testing.T) {
	if cachetest.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	entry := code(keyNo(1))
	mem := &storetest.Fake{OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) { return entry, true, nil }}
	l := layered(t, nil, direct(mem), modcache.Layer{Store: newFileShelf()})
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		a, ok, err := l.Get(context.Background(), keyNo(1))
		if !ok || err != nil {
			t.Fatal("a miss", err)
		}
		_ = a.Close()
	}))
}

// Each Get is followed by one hit or miss, whatever becomes of it.
func TestLayeredReportsEachGetOnce(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var mu sync.Mutex
	var got []modcache.Reason
	l := modcache.NewLayered(&modcache.LayeredOptions{OnEvent: func(e modcache.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Kind == modcache.EventHit || e.Kind == modcache.EventMiss {
			got = append(got, e.Reason)
		}
	}}, direct(newShelf()), modcache.Layer{Store: newFileShelf()})
	_, _, _ = l.Get(t.Context(), keyNo(1))
	_, _, _ = l.Get(ended, keyNo(1))
	put(t, l, keyNo(1))
	hit(t, l, keyNo(1))
	require.NoError(t, l.Close())
	_, _, _ = l.Get(t.Context(), keyNo(1))
	_, _, _ = l.Get(ended, keyNo(1))
	require.Equal(t, []modcache.Reason{modcache.ReasonAbsent, modcache.ReasonTimeout, 0, modcache.ReasonIO, modcache.ReasonIO}, got)
	m := l.Metrics()
	require.Equal(t, [3]uint64{5, 1, 4}, [3]uint64{m.Lookups, m.Hits, m.Misses})
}

func BenchmarkLayered(b *testing.B) {
	ctx := context.Background()
	get := func(b *testing.B, s modcache.Store) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				a, ok, err := s.Get(ctx, keyNo(1))
				if !ok || err != nil {
					b.Error("a miss", err)
					return
				}
				_ = a.Close()
			}
		})
	}
	entry := code(keyNo(1))
	fixed := &storetest.Fake{OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) { return entry, true, nil }}
	b.Run("front hit", func(b *testing.B) {
		get(b, modcache.NewLayered(nil, direct(fixed), modcache.Layer{Store: newFileShelf()}))
	})
	b.Run("front hit, bare store", func(b *testing.B) { get(b, fixed) })
	b.Run("second layer hit", func(b *testing.B) {
		get(b, modcache.NewLayered(nil,
			modcache.Layer{Store: newShelf(), Direct: true, Promote: modcache.PromoteNever}, modcache.Layer{Store: fixed}))
	})
}

// An artifact that hangs when it is read holds up neither other promotions nor Close.
func TestLayeredPromotesAroundWhatHangs(t *testing.T) {
	for _, front := range []modcache.Store{&storetest.Fake{}, modcache.NewMemory(nil)} {
		synctest.Test(t, func(t *testing.T) {
			answer := make(chan struct{})
			far := &storetest.Fake{OnGet: func(_ context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
				if key == keyNo(0) {
					return code(key), true, nil
				}
				src := storetest.Source{OnRead: func([]byte, int64) (int, error) { <-answer; return 0, io.EOF }}
				return modcache.NewArtifactFrom(src, 1000, modcache.Info{}), true, nil
			}}
			l := modcache.NewLayered(nil, modcache.Layer{Store: front}, modcache.Layer{Store: far, Write: modcache.WriteNever})
			for i := range byte(100) {
				a, ok, err := l.Get(bg, keyNo(99-i))
				require.NoError(t, err)
				require.True(t, ok)
				require.NoError(t, a.Close())
			}
			start := time.Now()
			_ = l.Close()
			require.Less(t, time.Since(start), time.Minute)
			require.EqualValues(t, 1, front.Metrics().Entries)
			close(answer)
		})
	}
}

// What is promoted is read for as long as it takes, however little the layer in front may take: else the one that it comes from
// would seem to hang.
func TestLayeredPromotesFromASlowLayer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far := &storetest.Fake{OnGet: func(_ context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
			src := storetest.Source{OnRead: func(p []byte, off int64) (int, error) {
				time.Sleep(time.Second)
				return len(p), nil
			}}
			return modcache.NewArtifactFrom(src, 1000, modcache.Info{}), true, nil
		}}
		front := &storetest.Fake{}
		l := modcache.NewLayered(nil, modcache.Layer{Store: front, Timeout: time.Millisecond}, modcache.Layer{Store: far, Write: modcache.WriteNever})
		for i := range byte(3) {
			a, ok, err := l.Get(bg, keyNo(i))
			require.NoError(t, err)
			require.True(t, ok)
			require.NoError(t, a.Close())
		}
		require.NoError(t, l.Close())
		require.Len(t, front.Keys(), 3)
	})
}
