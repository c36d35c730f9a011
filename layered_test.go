package modcache_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/modcachetest"
)

func TestLayeredKeepsTheContract(t *testing.T) {
	for name, c := range map[string]struct {
		make   func() []modcache.Layer
		opts   modcachetest.Options
		behind bool // some layer is written behind
	}{
		"one direct": {func() []modcache.Layer { return []modcache.Layer{direct(newShelf())} }, modcachetest.Options{ExclusiveLocks: true}, false},
		"one slow":   {func() []modcache.Layer { return []modcache.Layer{{Store: newFileShelf()}} }, modcachetest.Options{ExclusiveLocks: true}, false},
		"memory over disk": {func() []modcache.Layer {
			return []modcache.Layer{direct(newShelf()), {Store: newFileShelf()}}
		}, modcachetest.Options{}, false},
		"three, the last behind": {func() []modcache.Layer {
			return []modcache.Layer{direct(newShelf()), {Store: newFileShelf()}, {Store: newShelf(), Write: modcache.WriteBehind}}
		}, modcachetest.Options{}, true},
		"all behind": {func() []modcache.Layer {
			return []modcache.Layer{
				{Store: newShelf(), Direct: true, Write: modcache.WriteBehind},
				{Store: newFileShelf(), Write: modcache.WriteBehind},
			}
		}, modcachetest.Options{Deferred: true}, true},
		"small memory over disk": {func() []modcache.Layer {
			small := newShelf()
			small.budget = 1000
			return []modcache.Layer{direct(small), {Store: newFileShelf()}}
		}, modcachetest.Options{MayEvict: true}, false}, // one layer may lack what the other has
		"layered over layered": {func() []modcache.Layer {
			return []modcache.Layer{direct(newShelf()), {Store: modcache.NewLayered(nil, direct(newShelf()), modcache.Layer{Store: newFileShelf()})}}
		}, modcachetest.Options{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			layers := map[modcache.Store][]modcache.Layer{}
			over := func(tb testing.TB, ls []modcache.Layer) modcache.Store {
				l := layered(tb, nil, ls...)
				layers[l] = ls
				return l
			}
			c.opts.Reopen = func(tb testing.TB, s modcache.Store) modcache.Store {
				require.NoError(tb, s.(*modcache.Layered).Close())
				return over(tb, layers[s])
			}
			if !c.behind { // one's queue is not the other's
				c.opts.Share = func(tb testing.TB, s modcache.Store) modcache.Store { return over(tb, layers[s]) }
			}
			c.opts.ReadOnly = func(tb testing.TB, s modcache.Store) modcache.Store {
				var ls []modcache.Layer
				for _, ly := range layers[s] {
					ly.Store, ly.Write = readOnly{ly.Store}, modcache.WriteNever
					ls = append(ls, ly)
				}
				return over(tb, ls)
			}
			modcachetest.TestStore(t, func(tb testing.TB) modcache.Store { return over(tb, c.make()) }, &c.opts)
		})
	}
	t.Run("without layers", func(t *testing.T) {
		l := layered(t, nil, modcache.Layer{})
		miss(t, l, keyNo(1))
		require.ErrorIs(t, l.Add(t.Context(), keyNo(1), code(keyNo(1))), modcache.ErrReadOnly)
		require.NoError(t, l.Delete(t.Context(), keyNo(1)))
		require.NoError(t, l.Flush(t.Context()))
	})
}

type readOnly struct{ modcache.Store }

func (readOnly) Add(context.Context, modcache.Key, *modcache.Artifact) error {
	return modcache.ErrReadOnly
}
func (readOnly) Delete(context.Context, modcache.Key) error { return modcache.ErrReadOnly }

// The model is what each layer must hold, and what each was asked.
func TestLayeredAgreesWithItsModel(t *testing.T) {
	for seed := range uint64(6) {
		modelHistory(t, seed)
	}
}

func modelHistory(t *testing.T, seed uint64) {
	ctx := t.Context()
	r := rand.New(rand.NewPCG(seed, 0))
	shelves := []*shelf{newShelf(), newShelf(), newFileShelf(), newShelf()}
	shelves[1].budget = 110
	policies := []modcache.Layer{
		{Direct: true},
		{Promote: modcache.PromotePolicy(r.IntN(2))},
		{Write: modcache.WriteBehind},
		{Write: modcache.WriteNever},
	}
	var layers []modcache.Layer
	for i, ly := range policies {
		ly.Store = shelves[i]
		layers = append(layers, ly)
	}
	l := layered(t, &modcache.LayeredOptions{BreakAfter: -1}, layers...)
	var model [4]map[modcache.Key]bool
	var lookups [4]uint64
	for i := range model {
		model[i] = map[modcache.Key]bool{}
	}
	takes := func(i int, k modcache.Key) bool {
		return !shelves[i].failing.Load() && (shelves[i].budget == 0 || code(k).Size() <= shelves[i].budget)
	}
	var hits, misses, promoted uint64
	for range 300 {
		k := keyNo(byte(r.IntN(20)))
		switch op := r.IntN(12); {
		case op < 5:
			a, ok, err := l.Get(ctx, k)
			found := -1
			failed := false
			for i := range shelves {
				lookups[i]++
				failed = failed || shelves[i].failing.Load()
				if !shelves[i].failing.Load() && model[i][k] {
					found = i
					break
				}
			}
			require.Equal(t, found >= 0, ok)
			if found < 0 {
				misses++
				require.Equal(t, failed, err != nil, "a miss comes with an error if a layer failed, and only then")
				break
			}
			hits++
			require.NoError(t, err)
			require.Equal(t, code(k).Size(), a.Size())
			require.NoError(t, a.Close())
			_ = l.Flush(ctx)
			for i := range found {
				if layers[i].Promote == modcache.PromoteHits && layers[i].Write != modcache.WriteNever && takes(i, k) {
					model[i][k] = true
					promoted++
				}
			}
		case op < 7:
			err := l.Add(ctx, k, code(k))
			fails := shelves[0].failing.Load() || shelves[1].failing.Load()
			require.Equal(t, fails, err != nil, "%v", err)
			_ = l.Flush(ctx)
			for i := range 3 {
				if takes(i, k) {
					model[i][k] = true
				}
			}
		case op < 8:
			err := l.Delete(ctx, k)
			failed := false
			for i := range model {
				if shelves[i].failing.Load() {
					failed = true
				} else {
					delete(model[i], k)
				}
			}
			require.Equal(t, failed, err != nil)
		case op < 10: // somebody else fills the layer that Layered never writes
			if !shelves[3].failing.Load() {
				put(t, shelves[3], k)
				model[3][k] = true
			}
		default:
			shelves[r.IntN(4)].failing.Store(r.IntN(2) == 0)
		}
		for i, s := range shelves {
			require.Equal(t, model[i], s.keys(), "layer %d", i)
			require.Equal(t, lookups[i], s.Metrics().Lookups, "layer %d", i)
		}
	}
	_ = l.Flush(ctx)
	m := l.Metrics()
	require.Equal(t, [3]uint64{hits + misses, hits, misses}, [3]uint64{m.Lookups, m.Hits, m.Misses})
	require.Equal(t, promoted, m.Promotions)
	require.Zero(t, shelves[2].open.Load(), "handles that were never closed")
}

func TestLayeredAddReachesEveryLayer(t *testing.T) {
	mem, disk, ro := newShelf(), newFileShelf(), newShelf()
	l := layered(t, nil, direct(mem), modcache.Layer{Store: disk}, modcache.Layer{Store: ro, Write: modcache.WriteNever})
	put(t, l, keyNo(1))
	require.True(t, mem.has(keyNo(1)))
	require.True(t, disk.has(keyNo(1)))
	require.False(t, ro.has(keyNo(1)))

	t.Run("a refusal is no error if another layer takes it", func(t *testing.T) {
		mem.budget = 1
		put(t, l, keyNo(2))
		require.True(t, disk.has(keyNo(2)))
	})
	t.Run("a refusal by all is", func(t *testing.T) {
		disk.budget = 1
		require.ErrorIs(t, l.Add(t.Context(), keyNo(3), code(keyNo(3))), modcache.ErrTooLarge)
		mem.budget, disk.budget = 0, 0
	})
	t.Run("a failure always is", func(t *testing.T) {
		disk.failing.Store(true)
		defer disk.failing.Store(false)
		err := l.Add(t.Context(), keyNo(4), code(keyNo(4)))
		require.ErrorIs(t, err, errInjected)
		require.ErrorContains(t, err, "layer shelf: add "+keyNo(4).String())
		hit(t, l, keyNo(4))
	})
	m := l.Metrics()
	require.EqualValues(t, 3, m.Adds)
	require.EqualValues(t, 1, m.RejectedAdds)
}

func TestLayeredErrorsOfAllLayersAreJoined(t *testing.T) {
	errA, errB := errors.New("a"), errors.New("b")
	fail := func(err error) modcache.Store {
		return modcachetest.NewFaulty(newShelf(), &modcachetest.Plan{Faults: []modcachetest.Fault{{Err: err}}})
	}
	l := layered(t, nil, modcache.Layer{Store: fail(errA), Direct: true}, modcache.Layer{Store: fail(errB)})
	_, ok, err := l.Get(t.Context(), keyNo(1))
	require.False(t, ok)
	for _, err := range []error{err, l.Add(t.Context(), keyNo(1), code(keyNo(1))), l.Delete(t.Context(), keyNo(1)), l.Flush(t.Context())} {
		require.ErrorIs(t, err, errA)
		require.ErrorIs(t, err, errB)
	}
	m := l.Metrics()
	require.EqualValues(t, 8, m.Errors)
	require.EqualValues(t, 1, m.Lookups)
	require.EqualValues(t, 1, m.FlushErrors)
}

func TestLayeredLayersMayBeShared(t *testing.T) {
	disk := newFileShelf()
	a := layered(t, nil, direct(newShelf()), modcache.Layer{Store: disk})
	b := layered(t, nil, direct(newShelf()), modcache.Layer{Store: disk})
	put(t, a, keyNo(1))
	hit(t, b, keyNo(1))
	require.NoError(t, a.Close())
	put(t, b, keyNo(2))
	hit(t, b, keyNo(2))
}

func TestLayeredClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := modcachetest.NewFaulty(newFileShelf(), &modcachetest.Plan{Faults: []modcachetest.Fault{{Op: modcachetest.OpAdd, Delay: time.Second}}})
		l := modcache.NewLayered(nil, direct(newShelf()), modcache.Layer{Store: disk, Write: modcache.WriteBehind})
		for n := range byte(5) {
			put(t, l, keyNo(n))
		}
		start := time.Now()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { require.NoError(t, l.Close()) })
		}
		wg.Wait()
		require.Equal(t, 5*time.Second, time.Since(start), "Close drains the queue")
		for n := range byte(5) {
			hit(t, disk, keyNo(n)) // and leaves the layer open
		}
		_, ok, err := l.Get(t.Context(), keyNo(1))
		require.False(t, ok)
		require.ErrorIs(t, err, modcache.ErrClosed)
		_, err = l.Lock(t.Context(), keyNo(1))
		require.ErrorIs(t, err, modcache.ErrClosed)
	})
}

func TestLayeredUnderManyGoroutines(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	mem, disk, far := newShelf(), newFileShelf(), newFileShelf()
	plan := func(seed uint64) *modcachetest.Plan {
		return &modcachetest.Plan{Seed: seed, Faults: []modcachetest.Fault{
			{Rate: 0.03, Err: errInjected}, {Rate: 0.02, Panic: "boom"}, {Rate: 0.02, Delay: time.Millisecond},
		}}
	}
	l := modcache.NewLayered(&modcache.LayeredOptions{QueueBytes: 1000, BreakAfter: 4, Cooldown: time.Millisecond, MaxCalls: 4, OnEvent: func(modcache.Event) {}},
		direct(mem),
		modcache.Layer{Store: modcachetest.NewFaulty(disk, plan(1)), Timeout: 2 * time.Millisecond},
		modcache.Layer{Store: modcachetest.NewFaulty(far, plan(2)), Timeout: 2 * time.Millisecond, Write: modcache.WriteBehind})
	var wg sync.WaitGroup
	for g := range uint64(8) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(g, 1))
			for range 400 {
				k := keyNo(byte(r.IntN(12)))
				ctx, cancel := context.WithCancel(context.Background())
				if r.IntN(4) == 0 {
					time.AfterFunc(time.Duration(r.IntN(1000))*time.Microsecond, cancel)
				}
				switch r.IntN(12) {
				case 0:
					_ = l.Delete(ctx, k)
					_ = mem.Delete(ctx, k)
				case 1, 2:
					_ = l.Add(ctx, k, code(k))
				case 3:
					_ = l.Flush(ctx)
				case 4:
					_, _ = l.Metrics(), l.PromotionReport()
				case 5:
					if unlock, err := l.Lock(ctx, k); err == nil {
						unlock()
					}
				case 6:
					_ = mem.Delete(ctx, k)
				default:
					a, ok, _ := l.Get(ctx, k)
					if !ok {
						break
					}
					b, err := a.Bytes()
					if err != nil || int64(len(b)) != code(k).Size() || b[0] != k[0] {
						t.Errorf("a hit returned %d bytes, %v", len(b), err)
					}
					_ = a.Close()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	_ = l.Close()
	m := l.Metrics()
	require.Equal(t, m.Lookups, m.Hits+m.Misses)
	for _, ly := range l.Layers() {
		require.Zero(t, ly.Queued, ly.Name)
		require.Zero(t, ly.QueuedBytes, ly.Name)
	}
	// A call that was given up closes what it got when it ends.
	for _, s := range []*shelf{disk, far} {
		require.Eventually(t, func() bool { return s.open.Load() == 0 }, time.Minute, time.Millisecond, "handles leaked")
	}
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines+1 }, time.Minute, time.Millisecond, "goroutines leaked (one is the condition's own)")
}

// TestLayeredWithLocal is the layering for a pool of workers: each has a Local of
// its own in front of what all share. The race detector tells if a Local is touched
// by another goroutine, above all while its own leaves a lookup early.
func TestLayeredWithLocal(t *testing.T) {
	ctx := context.Background()
	memory, disk := modcache.NewMemory(nil), openTestDisk(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			local := modcache.NewLocal(nil)
			l := modcache.NewLayered(nil, modcache.Layer{Store: local}, modcache.Layer{Store: memory}, modcache.Layer{Store: disk})
			defer l.Close()
			for i := range 300 {
				key := modcache.Key{byte(i % 7)}
				canceled, cancel := context.WithCancel(ctx)
				if i%3 == 0 {
					cancel()
				}
				a, ok, err := l.Get(canceled, key)
				cancel()
				if ok {
					b, err := a.Bytes()
					if err != nil || len(b) != 1 || b[0] != key[0] {
						t.Errorf("entry %v is %v, %v", key, b, err)
					}
					a.Close()
				} else if err == nil {
					if err := l.Add(ctx, key, modcache.NewArtifact([]byte{key[0]}, modcache.Info{})); err != nil {
						t.Error(err)
					}
				}
			}
			require.Equal(t, uint64(7), local.Metrics().Entries, "what is in memory is promoted into the Local")
		})
	}
	wg.Wait()
}

// TestLayeredOfStoresKeepsTheContract runs the suite on layers of the stores of this package.
func TestLayeredOfStoresKeepsTheContract(t *testing.T) {
	const budget = 16 << 20
	memory, local := memoryOf(budget), localOf(budget)
	t.Run("one", func(t *testing.T) {
		modcachetest.TestStore(t, func(tb testing.TB) modcache.Store {
			return layered(tb, nil, modcache.Layer{Store: memory(tb)})
		}, &modcachetest.Options{Budget: budget})
	})
	t.Run("Memory and Disk", func(t *testing.T) {
		modcachetest.TestStore(t, func(tb testing.TB) modcache.Store {
			return layered(tb, nil, modcache.Layer{Store: memory(tb)}, modcache.Layer{Store: openTestDisk(tb)})
		}, &modcachetest.Options{Observe: func(tb testing.TB, observer func(modcache.Event)) modcache.Store {
			o := &modcache.LayeredOptions{OnEvent: observer}
			return layered(tb, o, modcache.Layer{Store: memory(tb)}, modcache.Layer{Store: openTestDisk(tb)})
		}})
	})
	t.Run("Local, Memory and Disk", func(t *testing.T) {
		modcachetest.TestStore(t, func(tb testing.TB) modcache.Store {
			return layered(tb, nil, modcache.Layer{Store: local(tb)}, modcache.Layer{Store: memory(tb)}, modcache.Layer{Store: openTestDisk(tb)})
		}, &modcachetest.Options{SingleGoroutine: true})
	})
	t.Run("with a deferred layer", func(t *testing.T) {
		modcachetest.TestStore(t, func(tb testing.TB) modcache.Store {
			return layered(tb, nil, modcache.Layer{Store: openTestDisk(tb), Write: modcache.WriteBehind})
		}, &modcachetest.Options{Deferred: true})
	})
}
