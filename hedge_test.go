package modcache_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// Most of these tests run in bubbles, in which compiling takes no time, waiting takes
// exactly as long as it says, and no goroutine may be left in the end.

const ms = time.Millisecond

// farStore is a store that may be slower than a compile.
type farStore struct {
	mapStore
	patience time.Duration
	delay    time.Duration
	deaf     bool // doesn't notice when its context ends

	note      sync.Mutex
	endedBy   error // what ended a Get
	estimates []time.Duration
}

func (s *farStore) Patience(time.Duration) time.Duration { return s.patience }

// newFarStore returns a store that answers after delay, and has the code of the modules.
func newFarStore(t *testing.T, delay time.Duration, modules ...[]byte) *farStore {
	s := &farStore{patience: 100 * ms}
	if len(modules) > 0 {
		c := newCache(t, &s.mapStore, nil)
		for _, wasm := range modules {
			require.NoError(t, c.Warm(bg, nil, modcache.NewModule(wasm)))
		}
		require.NoError(t, c.Close(bg))
		s.gets, s.adds = 0, 0
	}
	s.delay = delay
	s.onGet = func(ctx context.Context, _ modcache.Key) error {
		s.note.Lock()
		s.estimates = append(s.estimates, modcache.CompileEstimate(ctx))
		s.note.Unlock()
		done := ctx.Done()
		if s.deaf {
			done = nil
		}
		select {
		case <-time.After(s.delay):
			return nil
		case <-done:
			s.note.Lock()
			defer s.note.Unlock()
			s.endedBy = context.Cause(ctx)
			return ctx.Err()
		}
	}
	return s
}

// diary is the kinds of events in their order.
type diary struct {
	mu     sync.Mutex
	events []modcache.Event
	at     map[modcache.EventKind]func()
}

func (d *diary) options(o modcache.Options) *modcache.Options {
	o.OnEvent = func(e modcache.Event) {
		d.mu.Lock()
		d.events = append(d.events, e)
		at := d.at[e.Kind]
		d.mu.Unlock()
		if at != nil {
			at()
		}
	}
	return &o
}

func (d *diary) kinds() (kinds []modcache.EventKind) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.events {
		kinds = append(kinds, e.Kind)
	}
	return slices.Compact(kinds) // an artifact may come with an alias
}

// reason returns that of the only miss.
func (d *diary) reason(t *testing.T) (r modcache.Reason) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, e := range d.events {
		if e.Kind == modcache.EventMiss {
			r = e.Reason
			n++
		}
	}
	require.Equal(t, 1, n)
	return r
}

// requireCounts compares the counters of c with hits, misses, compiles and hedged compiles.
func requireCounts(t *testing.T, c *modcache.Cache, hits, misses, compiles, hedged uint64) {
	t.Helper()
	m := c.Metrics()
	require.Equal(t, [4]uint64{hits, misses, compiles, hedged}, [4]uint64{m.Hits, m.Misses, m.Compiles, m.Hedged})
	require.Equal(t, hits+misses, m.Lookups)
}

// bubble runs f where time is exact, with a module and what its export f returns.
func bubble(t *testing.T, f func(t *testing.T, wasm []byte)) {
	t.Helper()
	needsCompiler(t)
	synctest.Test(t, func(t *testing.T) { f(t, wasmtest.Sum(20, 0)) })
}

const sum20 = 210

// took measures by the clock of a bubble.
func took(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// requireIn compiles and runs wasm and requires that it takes that long.
func requireIn(t *testing.T, d time.Duration, r *modcache.Runtime, wasm []byte) {
	t.Helper()
	require.Equal(t, d, took(func() {
		compiled := compile(t, r, wasm)
		require.EqualValues(t, sum20, call(t, r, compiled))
		require.NoError(t, compiled.Close(bg))
	}))
}

func TestHedgeOvertakesASlowStore(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		s := newFarStore(t, time.Hour)
		var d diary
		c := newCache(t, s, d.options(modcache.Options{}))
		requireIn(t, 100*ms, newRuntime(t, c, nil), wasm)
		synctest.Wait()
		requireCounts(t, c, 0, 1, 1, 1)
		require.Zero(t, c.Metrics().StoreErrors)
		require.Equal(t, []modcache.EventKind{
			modcache.EventCompileStarted, modcache.EventCompileFinished, modcache.EventStored, modcache.EventMiss,
		}, d.kinds())
		require.Equal(t, modcache.ReasonTimeout, d.reason(t))
		require.Equal(t, 1, s.gets, "there is nothing to ask any more")
		require.ErrorIs(t, s.endedBy, context.DeadlineExceeded, "a store should know that it was too slow")
		require.NotZero(t, s.adds)

		s.delay = 0
		again := newCache(t, s, nil)
		requireIn(t, 0, newRuntime(t, again, nil), wasm)
		requireCounts(t, again, 1, 0, 0, 0)
	})
}

func TestHedgeLeavesAFastStoreAlone(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		s := newFarStore(t, 99*ms, wasm)
		var d diary
		c := newCache(t, s, d.options(modcache.Options{}))
		requireIn(t, 99*ms, newRuntime(t, c, nil), wasm)
		requireCounts(t, c, 1, 0, 0, 0)
		require.Equal(t, []modcache.EventKind{modcache.EventHit}, d.kinds())

		// Of several lookups, all together have to be fast.
		s.delay = 30 * ms
		other := wasmtest.Const(7)
		r := newRuntime(t, c, nil)
		require.LessOrEqual(t, took(func() { require.EqualValues(t, 7, call(t, r, compile(t, r, other))) }), 60*ms)
		requireCounts(t, c, 1, 1, 1, 0)
		require.Equal(t, modcache.ReasonAbsent, d.reason(t))
		require.Equal(t, []modcache.EventKind{
			modcache.EventHit, modcache.EventMiss, modcache.EventCompileStarted, modcache.EventCompileFinished, modcache.EventStored,
		}, d.kinds())
	})
}

// TestHedgeOvertaken: the store answers while the compile runs.
func TestHedgeOvertaken(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		s := newFarStore(t, 150*ms, wasm)
		g := newGate()
		d := diary{at: map[modcache.EventKind]func(){modcache.EventCompileFinished: g.pass}}
		c := newCache(t, s, d.options(modcache.Options{MaxCompiles: 1}))
		r := newRuntime(t, c, nil)
		requireIn(t, 150*ms, r, wasm)
		requireCounts(t, c, 1, 0, 1, 1)
		requireIn(t, 0, r, wasm)

		close(g.open)
		synctest.Wait()
		require.Zero(t, s.adds, "the store had the code")
		require.Equal(t, []modcache.EventKind{
			modcache.EventCompileStarted, modcache.EventCompileFinished, modcache.EventHit,
		}, d.kinds())
	})
}

// TestHedgeWaitsForASlot, and is called off before it gets one.
func TestHedgeWaitsForASlot(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		s := newFarStore(t, 150*ms, wasm)
		g := newGate()
		d := diary{at: map[modcache.EventKind]func(){modcache.EventCompileStarted: g.pass}}
		c := newCache(t, s, d.options(modcache.Options{MaxCompiles: 1}))
		r := newRuntime(t, c, nil)
		busy := begin(bg, r, wasmtest.Const(1))
		<-g.arrived
		requireIn(t, 150*ms, r, wasm)
		close(g.open)
		require.NoError(t, (<-busy).err)
		synctest.Wait()
		requireCounts(t, c, 1, 1, 1, 2)
	})
}

// TestHedgeLimit has more modules compile beside lookups than may.
func TestHedgeLimit(t *testing.T) {
	bubble(t, func(t *testing.T, _ []byte) {
		var running, most atomic.Int32
		d := diary{at: map[modcache.EventKind]func(){
			modcache.EventCompileStarted: func() {
				n := running.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				time.Sleep(10 * ms)
			},
			modcache.EventCompileFinished: func() { running.Add(-1) },
		}}
		c := newCache(t, newFarStore(t, time.Hour), d.options(modcache.Options{MaxCompiles: 2}))
		r := newRuntime(t, c, nil)
		var all []<-chan compiled
		for i := range 8 {
			all = append(all, begin(bg, r, wasmtest.Const(int32(i))))
		}
		for i, done := range all {
			got := <-done
			require.NoError(t, got.err)
			require.EqualValues(t, i, call(t, r, got.module))
		}
		require.EqualValues(t, 2, most.Load())
		requireCounts(t, c, 0, 8, 8, 8)
	})
}

// closeable counts the handles that are closed.
type closeable struct {
	*modcache.Artifact
	closed *atomic.Int32
}

func (a closeable) Close() error { a.closed.Add(1); return nil }

// TestHedgeLateArtifact comes from a store that doesn't care about its context.
func TestHedgeLateArtifact(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		s := newFarStore(t, time.Hour, wasm)
		s.deaf = true
		var closed atomic.Int32
		for key, a := range s.m {
			s.m[key] = modcache.NewArtifactFrom(closeable{a, &closed}, a.Size(), a.Info())
		}
		var d diary
		c := newCache(t, s, d.options(modcache.Options{ReadOnly: true}))
		requireIn(t, 100*ms, newRuntime(t, c, nil), wasm)
		requireCounts(t, c, 0, 1, 1, 1)
		require.Zero(t, closed.Load())
		require.Equal(t, time.Hour-100*ms, took(func() { require.NoError(t, c.Close(bg)) }), "Close waits for what runs")
		require.EqualValues(t, 1, closed.Load())
		requireCounts(t, c, 0, 1, 1, 1)
		require.Equal(t, modcache.EventMiss, d.kinds()[len(d.kinds())-1])
	})
}

// TestHedgeBothFail has a module that doesn't validate.
func TestHedgeBothFail(t *testing.T) {
	var m wasmtest.Module
	m.Func(m.Type(nil, []byte{wasmtest.I32}), "f", 0x42, 1) // an i64 for an i32
	bubble(t, func(t *testing.T, _ []byte) {
		plain := wazero.NewRuntime(bg)
		defer plain.Close(bg)
		_, want := plain.CompileModule(bg, m.Bytes())
		for _, c := range []struct {
			err    error
			reason modcache.Reason
		}{{nil, modcache.ReasonAbsent}, {errFault, modcache.ReasonIO}} {
			s := newFarStore(t, 0)
			s.onGet = func(context.Context, modcache.Key) error { time.Sleep(time.Second); return c.err }
			var d diary
			cache := newCache(t, s, d.options(modcache.Options{}))
			r := newRuntime(t, cache, nil)
			_, err := r.CompileModule(bg, m.Bytes())
			require.EqualError(t, err, want.Error())
			require.Equal(t, c.reason, d.reason(t))
			require.EqualValues(t, 1, cache.Metrics().Hedged)
			require.EqualValues(t, 1, cache.Metrics().Misses)
			require.Equal(t, c.err != nil, cache.Metrics().StoreErrors > 0)
			require.Zero(t, s.adds)
		}
	})
}

// TestHedgeStoreFailsLate: the compile is used, and the miss has the store's reason.
func TestHedgeStoreFailsLate(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		s := newFarStore(t, 0)
		s.onGet = func(context.Context, modcache.Key) error { time.Sleep(200 * ms); return errFault }
		d := diary{at: map[modcache.EventKind]func(){modcache.EventCompileStarted: func() { time.Sleep(time.Second) }}}
		c := newCache(t, s, d.options(modcache.Options{}))
		requireIn(t, 1100*ms, newRuntime(t, c, nil), wasm)
		require.Equal(t, modcache.ReasonIO, d.reason(t))
		requireCounts(t, c, 0, 1, 1, 1)
	})
}

// TestHedgeDamage: what the store answers beside a compile can't be used.
func TestHedgeDamage(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		s := newFarStore(t, 150*ms, wasm)
		for key, a := range s.m {
			b, err := a.Bytes()
			require.NoError(t, err)
			b = slices.Clone(b)
			b[len(b)/2] ^= 1
			s.m[key] = modcache.NewArtifact(b, a.Info())
		}
		d := diary{at: map[modcache.EventKind]func(){modcache.EventCompileStarted: func() { time.Sleep(time.Second) }}}
		c := newCache(t, s, d.options(modcache.Options{}))
		requireIn(t, 1100*ms, newRuntime(t, c, nil), wasm)
		require.Equal(t, modcache.ReasonCorrupt, d.reason(t))
		requireCounts(t, c, 0, 1, 1, 1)
		require.NotZero(t, s.adds)
	})
}

// TestHedgeSpellings: the code is found under another spelling, while the module is
// compiled from the canonical one.
func TestHedgeSpellings(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		respelt := func(note string) []byte {
			return append(slices.Clone(wasm), wasmtest.CustomSection("producers", []byte(note))...)
		}
		s := newFarStore(t, 60*ms, respelt("\x00"))
		d := diary{at: map[modcache.EventKind]func(){modcache.EventCompileStarted: func() { time.Sleep(time.Second) }}}
		c := newCache(t, s, d.options(modcache.Options{Retain: forget}))
		r := newRuntime(t, c, nil)
		requireIn(t, 180*ms, r, respelt("\x00\x00\x00")) // by its own name, the common one, and where that leads
		requireCounts(t, c, 1, 0, 0, 1)
		require.Equal(t, 1, s.adds, "an alias")
		time.Sleep(time.Second)
		require.Equal(t, 1, s.adds)

		// And the other way round.
		s.delay = time.Hour
		s.gets = 0
		requireIn(t, 1100*ms, r, respelt("\x00\x00"))
		synctest.Wait()
		require.Equal(t, 1, s.gets, "there is nothing to ask any more")
		requireCounts(t, c, 1, 1, 2, 2)
	})
}

// TestHedgeLetsPlacingEnd: the store has answered, if not everything is done yet.
func TestHedgeLetsPlacingEnd(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		d := diary{at: map[modcache.EventKind]func(){modcache.EventHit: func() { time.Sleep(10 * ms) }}}
		c := newCache(t, newFarStore(t, 99*ms, wasm), d.options(modcache.Options{}))
		requireIn(t, 109*ms, newRuntime(t, c, nil), wasm)
		requireCounts(t, c, 1, 0, 0, 0)
	})
}

// TestHedgeCompilesTooLate: the store's code is in place when the compile ends, and
// the lookup isn't done yet.
func TestHedgeCompilesTooLate(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		d := diary{at: map[modcache.EventKind]func(){
			modcache.EventCompileStarted: func() { time.Sleep(80 * ms) },
			modcache.EventHit:            func() { time.Sleep(100 * ms) },
		}}
		c := newCache(t, newFarStore(t, 150*ms, wasm), d.options(modcache.Options{}))
		requireIn(t, 250*ms, newRuntime(t, c, nil), wasm)
		requireCounts(t, c, 1, 0, 1, 1)
		require.NotContains(t, d.kinds(), modcache.EventDegraded)
		require.NotContains(t, d.kinds(), modcache.EventMiss)
	})
}

// TestHedgePanics: wazero's panic reaches the caller from either goroutine, unless the
// store has code.
func TestHedgePanics(t *testing.T) {
	config := wazero.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV2 | wasmtest.ExceptionHandling)
	var m wasmtest.Module
	m.Body(m.Type(nil, nil), "f", []byte{0, 0x1f, 0, 0x0b})
	if !panics(func() {
		plain := wazero.NewRuntimeWithConfig(bg, config)
		defer plain.Close(bg)
		_, _ = plain.CompileModule(bg, m.Bytes())
	}) {
		t.Skip("this wazero doesn't panic any more")
	}
	bubble(t, func(t *testing.T, _ []byte) {
		c := newCache(t, newFarStore(t, time.Second), &modcache.Options{MaxCompiles: 1})
		r := newRuntime(t, c, config)
		require.Equal(t, time.Second, took(func() {
			require.True(t, panics(func() { _, _ = r.CompileModule(bg, m.Bytes()) }))
		}))
		requireCounts(t, c, 0, 1, 1, 1)
		require.EqualValues(t, 1, c.Metrics().CompileErrors)
		require.EqualValues(t, 1, call(t, r, compile(t, r, wasmtest.Const(1))))
	})
}

func TestHedgeNeverUnderRequireHit(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		s := newFarStore(t, 10*time.Second, wasm)
		c := newCache(t, s, &modcache.Options{RequireHit: true})
		r := newRuntime(t, c, nil)
		requireIn(t, 10*time.Second, r, wasm)
		_, err := r.CompileModule(bg, wasmtest.Const(1))
		require.ErrorIs(t, err, modcache.ErrMiss)
		requireCounts(t, c, 1, 1, 0, 0)
		require.Positive(t, s.estimates[0], "a store may limit itself all the same")
	})
}

// TestHedgeEstimate tells the store how long compiling will take.
func TestHedgeEstimate(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		estimate := func(ctx context.Context, wasm []byte, o *modcache.Options) time.Duration {
			s := newFarStore(t, 0)
			r := newRuntime(t, newCache(t, s, o), nil)
			_, err := r.CompileModule(ctx, wasm)
			require.NoError(t, err)
			return s.estimates[0]
		}
		long := wasmtest.Sum(2000, 0)
		small, large := estimate(bg, wasm, nil), estimate(bg, long, nil)
		bodies := len(long) - len(wasm) - (2000 - 20) // the rest is a byte for each type
		require.InDelta(t, bodies*500, int(large-small), 5000)
		padded := append(slices.Clone(wasm), wasmtest.CustomSection("notes", make([]byte, 1<<20))...)
		require.Equal(t, small, estimate(bg, padded, nil), "custom sections aren't compiled")
		require.Equal(t, large/4, estimate(experimental.WithCompilationWorkers(bg, 4), long, nil))
		require.Equal(t, large/2, estimate(bg, long, &modcache.Options{Workers: 2}))
	})
	require.Zero(t, modcache.CompileEstimate(bg))
}

// TestHedgeAbandoned: everybody leaves, in each phase. Nothing is left behind.
func TestHedgeAbandoned(t *testing.T) {
	for name, after := range map[string]time.Duration{"looking up": 50 * ms, "compiling": 150 * ms} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, wasm []byte) {
				s := newFarStore(t, time.Hour)
				d := diary{at: map[modcache.EventKind]func(){modcache.EventCompileStarted: func() { time.Sleep(time.Second) }}}
				c := newCache(t, s, d.options(modcache.Options{}))
				r := newRuntime(t, c, nil)
				ctx, cancel := context.WithTimeout(bg, after)
				defer cancel()
				require.Equal(t, after, took(func() {
					_, err := r.CompileModule(ctx, wasm)
					require.ErrorIs(t, err, context.DeadlineExceeded)
				}))
				synctest.Wait()
				require.ErrorIs(t, s.endedBy, context.Canceled)
				require.NotErrorIs(t, s.endedBy, context.DeadlineExceeded, "it isn't the store's fault")
				time.Sleep(time.Second)
				s.delay = 0
				compiled := compile(t, r, wasm)
				require.EqualValues(t, sum20, call(t, r, compiled))
				require.EqualValues(t, 1, c.Metrics().Compiles, "code of a compile that was abandoned too late is kept")
			})
		})
	}
}

// TestHedgeEndedContext: a caller whose context has ended waits for a lookup, and not for
// a compile.
func TestHedgeEndedContext(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		s := newFarStore(t, 50*ms, wasm)
		d := diary{at: map[modcache.EventKind]func(){modcache.EventCompileStarted: func() { time.Sleep(time.Second) }}}
		r := newRuntime(t, newCache(t, s, d.options(modcache.Options{})), nil)
		ended, cancel := context.WithCancel(bg)
		cancel()
		_, err := r.CompileModule(ended, wasm)
		require.NoError(t, err)
		s.delay = time.Hour
		require.Equal(t, 100*ms, took(func() {
			_, err := r.CompileModule(ended, wasmtest.Const(1))
			require.ErrorIs(t, err, context.Canceled)
		}))
	})
}

// TestHedgeClose closes the Cache in each phase.
func TestHedgeClose(t *testing.T) {
	for name, c := range map[string]struct{ after, waits time.Duration }{
		"looking up": {50 * ms, 0},
		"compiling":  {150 * ms, 950 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, wasm []byte) {
				s := newFarStore(t, time.Hour)
				d := diary{at: map[modcache.EventKind]func(){modcache.EventCompileStarted: func() { time.Sleep(time.Second) }}}
				cache := newCache(t, s, d.options(modcache.Options{}))
				done := begin(bg, newRuntime(t, cache, nil), wasm)
				time.Sleep(c.after)
				require.Equal(t, c.waits, took(func() { require.NoError(t, cache.Close(bg)) }))
				if got := <-done; got.err != nil {
					require.ErrorIs(t, got.err, modcache.ErrClosed)
				}
				require.ErrorIs(t, s.endedBy, context.Canceled)
			})
		})
	}
}

// TestHedgeCloseWaitsForTheLoser, which runs although nobody needs it.
func TestHedgeCloseWaitsForTheLoser(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		s := newFarStore(t, 150*ms, wasm)
		d := diary{at: map[modcache.EventKind]func(){modcache.EventCompileStarted: func() { time.Sleep(time.Second) }}}
		c := newCache(t, s, d.options(modcache.Options{}))
		requireIn(t, 150*ms, newRuntime(t, c, nil), wasm)
		require.Equal(t, 950*ms, took(func() { require.NoError(t, c.Close(bg)) }))
		require.Zero(t, s.adds)
	})
}

// TestHedgeOutlivesItsRuntime: the runtime that a load is done for is closed, and the
// other one doesn't notice.
func TestHedgeOutlivesItsRuntime(t *testing.T) {
	for name, delay := range map[string]time.Duration{"hit": 150 * ms, "compile": time.Hour} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, wasm []byte) {
				s := newFarStore(t, delay, wasm)
				d := diary{at: map[modcache.EventKind]func(){modcache.EventCompileStarted: func() { time.Sleep(100 * ms) }}}
				c := newCache(t, s, d.options(modcache.Options{}))
				a, b := newRuntime(t, c, nil), newRuntime(t, c, nil)
				first := begin(bg, a, wasm)
				synctest.Wait()
				second := begin(bg, b, wasm)
				time.Sleep(120 * ms)
				require.NoError(t, a.Close(bg))
				start := time.Now()
				require.ErrorIs(t, (<-first).err, modcache.ErrClosed)
				got := <-second
				require.Less(t, time.Since(start), time.Second)
				require.NoError(t, got.err)
				require.EqualValues(t, sum20, call(t, b, got.module))
			})
		})
	}
}

// TestHedgeIsShared has 64 callers in three runtimes.
func TestHedgeIsShared(t *testing.T) {
	for name, delay := range map[string]time.Duration{"hit": 150 * ms, "compile": time.Hour} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, wasm []byte) {
				s := newFarStore(t, delay, wasm)
				d := diary{at: map[modcache.EventKind]func(){modcache.EventCompileStarted: func() { time.Sleep(100 * ms) }}}
				c := newCache(t, s, d.options(modcache.Options{}))
				runtimes := []*modcache.Runtime{newRuntime(t, c, nil), newRuntime(t, c, nil), newRuntime(t, c, nil)}
				var all []<-chan compiled
				for i := range 64 {
					all = append(all, begin(bg, runtimes[i%3], wasm))
				}
				for i, done := range all {
					got := <-done
					require.NoError(t, got.err)
					require.EqualValues(t, sum20, call(t, runtimes[i%3], got.module))
					require.NoError(t, got.module.Close(bg))
				}
				require.NoError(t, c.Close(bg))
				if name == "hit" {
					requireCounts(t, c, 1, 0, 1, 1)
				} else {
					requireCounts(t, c, 0, 1, 1, 1)
				}
				require.Equal(t, 1, s.gets)
			})
		})
	}
}

// TestHedgeStress races lookups with compiles in earnest, without a bubble. No goroutine
// is left.
func TestHedgeStress(t *testing.T) {
	needsCompiler(t)
	before := runtime.NumGoroutine()
	const modules = 4
	for round := range 25 {
		s := &farStore{patience: time.Duration(1+round*round) * time.Microsecond}
		if round%2 == 0 {
			require.NoError(t, newCache(t, &s.mapStore, nil).Warm(bg, nil,
				modcache.NewModule(wasmtest.Const(0)), modcache.NewModule(wasmtest.Const(1))))
		}
		s.onGet = func(context.Context, modcache.Key) error {
			for range 40 * round {
				runtime.Gosched()
			}
			return nil
		}
		c, err := modcache.New(s, &modcache.Options{Retain: forget})
		require.NoError(t, err)
		var wg sync.WaitGroup
		for g := range 3 {
			r, err := c.NewRuntime(bg, nil)
			require.NoError(t, err)
			for i := range 3 * modules {
				wg.Go(func() {
					got, err := callExport(r, wasmtest.Const(int32(i%modules)))
					if g == 2 && err != nil {
						return // the runtime may be closed
					}
					if err != nil || got != uint64(i%modules) {
						t.Error(got, err)
					}
				})
			}
			if g == 2 {
				require.NoError(t, r.Close(bg))
			} else {
				defer r.Close(bg)
			}
		}
		wg.Wait()
		require.NoError(t, c.Close(bg))
		m := c.Metrics()
		require.Equal(t, m.Lookups, m.Hits+m.Misses)
		require.Zero(t, m.StoreErrors)
		require.Zero(t, m.Retained)
	}
	for runtime.NumGoroutine() > before {
		runtime.Gosched()
	}
}

// TestHedgeWhoseGoroutineEnds, on either side.
func TestHedgeWhoseGoroutineEnds(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		s := newFarStore(t, time.Second)
		d := diary{at: map[modcache.EventKind]func(){modcache.EventCompileStarted: runtime.Goexit}}
		c := newCache(t, s, d.options(modcache.Options{}))
		r := newRuntime(t, c, nil)
		_, err := r.CompileModule(bg, wasm)
		require.ErrorContains(t, err, "ended the goroutine")
		d.at = nil
		s.onGet = func(context.Context, modcache.Key) error { runtime.Goexit(); return nil }
		_, err = r.CompileModule(bg, wasm)
		require.ErrorContains(t, err, "ended the goroutine")
		s.onGet = nil
		requireIn(t, 0, r, wasm)
	})
}

// TestHedgeLayers asks a near layer and a far one.
func TestHedgeLayers(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		far := newFarStore(t, time.Hour)
		layers := modcache.NewLayered(nil,
			modcache.Layer{Store: modcache.NewMemory(nil)}, modcache.Layer{Store: far, Timeout: -1, Write: modcache.WriteNever})
		c := newCache(t, layers, &modcache.Options{Retain: forget})
		r := newRuntime(t, c, nil)
		requireIn(t, 100*ms, r, wasm)
		synctest.Wait()
		require.ErrorIs(t, far.endedBy, context.DeadlineExceeded)
		requireIn(t, 0, r, wasm)
		requireCounts(t, c, 1, 1, 1, 1)
		require.NoError(t, c.Close(bg))
		require.NoError(t, layers.Close())
	})
}

// lockedStore has a lock.
type lockedStore struct {
	mapStore
	lock chan struct{}
}

func (s *lockedStore) Lock(ctx context.Context, _ modcache.Key) (func(), error) {
	select {
	case s.lock <- struct{}{}:
		return sync.OnceFunc(func() { <-s.lock }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestHedgeOfTwoProcesses lets one of them compile, although neither hears from the far
// layer, and the other find the result in the near one.
func TestHedgeOfTwoProcesses(t *testing.T) {
	t.Run("layers", func(t *testing.T) { testTwoProcesses(t, false) })
	t.Run("layers in a layer", func(t *testing.T) { testTwoProcesses(t, true) })
}

func testTwoProcesses(t *testing.T, nested bool) {
	bubble(t, func(t *testing.T, wasm []byte) {
		near := &lockedStore{lock: make(chan struct{}, 1)}
		process := func(d *diary) (*modcache.Cache, <-chan compiled) {
			far := newFarStore(t, time.Hour)
			l := modcache.NewLayered(nil,
				modcache.Layer{Store: near}, modcache.Layer{Store: far, Timeout: -1, Write: modcache.WriteNever})
			t.Cleanup(func() { require.NoError(t, l.Close()) })
			if nested {
				l = modcache.NewLayered(nil, modcache.Layer{Store: modcache.NewMemory(nil)}, modcache.Layer{Store: l})
				t.Cleanup(func() { require.NoError(t, l.Close()) })
			}
			c := newCache(t, l, d.options(modcache.Options{}))
			return c, begin(bg, newRuntime(t, c, nil), wasm)
		}
		slow := diary{at: map[modcache.EventKind]func(){modcache.EventCompileStarted: func() { time.Sleep(time.Second) }}}
		var quick diary
		one, first := process(&slow)
		time.Sleep(ms)
		other, second := process(&quick)
		d := took(func() {
			require.NoError(t, (<-first).err)
			require.NoError(t, (<-second).err)
		})
		require.InDelta(t, float64(1099*ms), float64(d), float64(ms))
		requireCounts(t, one, 0, 1, 1, 1)
		requireCounts(t, other, 1, 0, 0, 1)
	})
}

// lockedFarStore has a lock that takes long to give back.
type lockedFarStore struct {
	*farStore
	unlock time.Duration
}

func (s lockedFarStore) Lock(context.Context, modcache.Key) (func(), error) {
	return func() { time.Sleep(s.unlock) }, nil
}

// TestHedgeWithLock asks a far store once more after locking it, but not for long.
func TestHedgeWithLock(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		s := newFarStore(t, time.Hour)
		c := newCache(t, lockedFarStore{s, 0}, nil)
		requireIn(t, 200*ms, newRuntime(t, c, nil), wasm)
		requireCounts(t, c, 0, 1, 1, 1)
		require.Zero(t, c.Metrics().StoreErrors)

		// A lookup that fails a moment after the code was placed doesn't matter.
		s = newFarStore(t, 0)
		var asked atomic.Bool
		s.onGet = func(context.Context, modcache.Key) error {
			if !asked.Swap(true) {
				time.Sleep(150 * ms)
				runtime.Goexit()
			}
			return nil
		}
		c = newCache(t, lockedFarStore{s, 100 * ms}, nil)
		requireIn(t, 200*ms, newRuntime(t, c, nil), wasm)
		requireCounts(t, c, 0, 1, 1, 1)

		// An answer that comes a moment after the code was placed is not an error.
		s = newFarStore(t, 250*ms, wasm)
		c = newCache(t, lockedFarStore{s, 100 * ms}, nil)
		requireIn(t, 300*ms, newRuntime(t, c, nil), wasm)
		requireCounts(t, c, 0, 1, 1, 1)
	})
}

// TestLayeredPatience is that of the layers that may be asked.
func TestLayeredPatience(t *testing.T) {
	patient := func(d time.Duration) *farStore {
		return &farStore{patience: d, mapStore: mapStore{onGet: func(context.Context, modcache.Key) error { return errFault }}}
	}
	far := patient(3 * time.Second)
	l := modcache.NewLayered(&modcache.LayeredOptions{BreakAfter: 1},
		modcache.Layer{Store: modcache.NewMemory(nil)},
		modcache.Layer{Store: patient(-1)}, modcache.Layer{Store: rude{far}},
		modcache.Layer{Store: modcache.NewLayered(nil, modcache.Layer{Store: far})}, modcache.Layer{Store: patient(time.Second)})
	defer l.Close()
	require.Equal(t, 3*time.Second, l.Patience(time.Minute))
	_, _, err := l.Get(bg, modcache.Key{})
	require.Error(t, err)
	require.Zero(t, l.Patience(time.Minute), "layers that are skipped take no time")

	local := modcache.NewLayered(nil, modcache.Layer{Store: modcache.NewLocal(nil)}, modcache.Layer{Store: far})
	defer local.Close()
	require.Zero(t, local.Patience(time.Minute), "it is for one goroutine")
}

// rude is a store that doesn't say how patient it is.
type rude struct{ *farStore }

func (rude) Patience(time.Duration) time.Duration { panic(errors.New("rude")) }
