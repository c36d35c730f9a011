package modcache_test

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

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
