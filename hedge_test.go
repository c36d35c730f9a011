package modcache_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
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
