package modcache_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// stuckStore runs into stuck in one of its methods.
type stuckStore struct {
	*modcache.Memory
	in    string
	stuck func()
}

func (s *stuckStore) at(method string) {
	if s.in == method {
		s.stuck()
	}
}

func (s *stuckStore) Get(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	s.at("get")
	return s.Memory.Get(ctx, key)
}

func (s *stuckStore) Add(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
	s.at("add")
	return s.Memory.Add(ctx, key, a)
}

func (s *stuckStore) Delete(ctx context.Context, key modcache.Key) error {
	s.at("delete")
	return s.Memory.Delete(ctx, key)
}

func (s *stuckStore) Lock(context.Context, modcache.Key) (func(), error) {
	s.at("lock")
	return func() { s.at("unlock") }, nil
}

func (s *stuckStore) Metrics() modcache.Metrics {
	s.at("metrics")
	return s.Memory.Metrics()
}

// A store that never answers, or ends the goroutine that calls it, costs a compile, and a
// time that is known.
func TestCacheWhoseStoreNeverReturns(t *testing.T) {
	needsCompiler(t)
	wasm := wasmtest.Sum(4, 0)
	for _, method := range []string{"get", "add", "delete", "lock", "unlock", "metrics"} {
		for _, w := range ways {
			for how, exit := range map[string]bool{"hangs": false, "exits": true} {
				t.Run(w.Name+" "+method+" "+how, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						ever := make(chan struct{})
						s := &stuckStore{Memory: modcache.NewMemory(nil), in: method, stuck: func() {
							if exit {
								runtime.Goexit()
							}
							<-ever
						}}
						c := newCache(t, s, nil)
						ended := make(chan struct{})
						start := time.Now()
						go func() {
							defer close(ended)
							want, _ := cachetest.RunPlain(wasm)
							got, err := w.Run(c, wasm)
							require.NoError(t, err)
							require.Equal(t, want, got)
							c.Metrics()
						}()
						select {
						case <-ended:
						case <-time.After(time.Hour):
							t.Error("it hangs")
						}
						require.Less(t, time.Since(start), 4*time.Minute)
						close(ever)
						<-ended
					})
				})
			}
		}
	}
}

// An observer may do what it must not: it is waited for no longer than is documented.
func TestCacheWhoseObserverCompiles(t *testing.T) {
	needsCompiler(t)
	one, two := wasmtest.Sum(4, 0), wasmtest.Sum(5, 0)
	for name, inner := range map[string][]byte{"its own module": one, "another module": two, "exits": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var c *modcache.Cache
				var once, done atomic.Bool
				c = newCache(t, &stuckStore{Memory: modcache.NewMemory(nil)}, &modcache.Options{
					MaxCompiles: 1,
					OnEvent: func(e modcache.Event) {
						if e.Kind != modcache.EventCompileStarted || once.Swap(true) {
							return
						}
						if inner == nil {
							runtime.Goexit()
						}
						_, err := ways[1].Run(c, inner)
						done.Store(err == nil)
					},
				})
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					_, err := ways[1].Run(c, one)
					require.NoError(t, err)
				}()
				select {
				case <-ended:
				case <-time.After(time.Hour):
					t.Fatal("it hangs")
				}
				synctest.Wait()
				require.Equal(t, inner != nil, done.Load())
			})
		})
	}
}

// slowAdd is a store whose Add takes long, and doesn't look at its context.
type slowAdd struct {
	*modcache.Memory
	takes time.Duration
	ended atomic.Bool
	err   error
}

func (s *slowAdd) Add(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
	time.Sleep(s.takes)
	defer s.ended.Store(true)
	if s.err != nil {
		return s.err
	}
	return s.Memory.Add(ctx, key, a)
}

// A store is its owner's to close after the Cache: nothing may be under way in it then.
func TestCacheCloseWaitsForTheStore(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &slowAdd{Memory: modcache.NewMemory(nil), takes: 2 * time.Second}
				c, err := modcache.New(s, nil)
				require.NoError(t, err)
				go func() { _, _ = w.Run(c, wasmtest.Sum(4, 0)) }()
				time.Sleep(time.Second)
				require.NoError(t, c.Close(bg))
				require.True(t, s.ended.Load())
				gone, cancel := context.WithCancel(bg)
				cancel()
				for range 100 {
					require.NoError(t, c.Close(gone), "it is closed")
				}
			})
		})
	}
}

// Closing waits for what hangs, in the store or in the directory of Open, for as long as is documented, and says so.
func TestCacheCloseOverWhatHangs(t *testing.T) {
	needsCompiler(t)
	dir := t.TempDir()
	for _, in := range []string{"get", "lock", "directory"} {
		t.Run(in, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ever := make(chan struct{})
				var closing atomic.Bool
				s := &stuckStore{Memory: modcache.NewMemory(nil), in: in, stuck: func() { <-ever }}
				c, err := modcache.New(s, &modcache.Options{LockWait: time.Second, SmallModules: -1})
				if in == "directory" {
					now := func() time.Time { // what closing asks for that a test can have hang
						if closing.Load() {
							<-ever
						}
						return time.Now()
					}
					c, err = modcache.Open(dir, &modcache.Options{Disk: modcache.DiskOptions{Now: now}})
				}
				require.NoError(t, err)
				_, err = ways[1].Run(c, wasmtest.Sum(4, 0))
				require.NoError(t, err)
				synctest.Wait()
				closing.Store(true)
				start := time.Now()
				err = c.Close(bg)
				require.Equal(t, 5*time.Second, time.Since(start))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.ErrorContains(t, err, "left to itself")
				if in == "directory" {
					require.ErrorContains(t, err, dir)
				}
				_ = c.Flush(bg) // returns
				close(ever)
			})
		})
	}
}

// What goes on after it was given up fails once, and what succeeds late is said to be stored.
func TestCacheReportsASlowAddOnce(t *testing.T) {
	needsCompiler(t)
	for name, fails := range map[string]error{"fails": errors.New("full"), "succeeds": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &slowAdd{Memory: modcache.NewMemory(nil), takes: 7 * time.Second, err: fails}
				seen := &witness{}
				c := newCache(t, s, seen.Options(modcache.Options{}))
				_, err := ways[1].Run(c, wasmtest.Sum(4, 0))
				require.NoError(t, err)
				time.Sleep(time.Minute)
				require.EqualValues(t, 1, c.Metrics().StoreErrors)
				stored := 0
				if fails == nil {
					stored = 1
				}
				require.Len(t, seen.Saw(modcache.EventStored), stored)
			})
		})
	}
}

// runTime compiles the n-th module and runs it, and returns how long that took.
func runTime(t *testing.T, c *modcache.Cache, n int32) time.Duration {
	t.Helper()
	start := time.Now()
	_, err := ways[1].Run(c, wasmtest.Sum(4, n))
	require.NoError(t, err)
	return time.Since(start)
}

// A store that hangs is waited for once, for a time that is known, and asked again after a minute, or when a call has returned.
func TestCacheRemembersWhatHangs(t *testing.T) {
	needsCompiler(t)
	for method, most := range map[string]time.Duration{"get": 5 * time.Second, "add": 5 * time.Second, "lock": 2 * time.Second, "unlock": 5 * time.Second} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ever := make(chan struct{})
				var hung atomic.Int64
				s := &stuckStore{Memory: modcache.NewMemory(nil), in: method, stuck: func() { hung.Add(1); <-ever }}
				c := newCache(t, s, &modcache.Options{LockWait: time.Second, SmallModules: -1, Retain: forget})
				n := int32(0)
				took := func() time.Duration {
					n++
					return runTime(t, c, n)
				}
				for probe := range int64(2) {
					first := took()
					require.NotZero(t, first)
					require.LessOrEqual(t, first, most)
					for range 5 {
						require.Zero(t, took())
					}
					require.Equal(t, probe+1, hung.Load(), "what hangs is left alone")
					time.Sleep(time.Minute)
				}
				require.NotZero(t, c.Metrics().StoreErrors)
				errors := c.Metrics().StoreErrors
				close(ever)
				synctest.Wait()
				require.Zero(t, took())
				require.Equal(t, errors, c.Metrics().StoreErrors)
				require.Zero(t, runTime(t, c, n))
				require.Positive(t, c.Metrics().Hits)
			})
		})
	}
}

// Whoever leaves while a lock doesn't return takes none of the time of others, however long they are to wait for one.
func TestCacheRemembersALockThatNobodyWaitsFor(t *testing.T) {
	needsCompiler(t)
	synctest.Test(t, func(t *testing.T) {
		ever := make(chan struct{})
		s := &stuckStore{Memory: modcache.NewMemory(nil), in: "lock", stuck: func() { <-ever }}
		c := newCache(t, s, &modcache.Options{LockWait: 24 * time.Hour, SmallModules: -1})
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		_, err := newRuntime(t, c, nil).Compile(ctx, modcache.NewModule(wasmtest.Sum(4, 1)))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(time.Second)
		require.Zero(t, runTime(t, c, 2))
		close(ever)
	})
}

// What a store said last is shown while it hangs or panics, so that counters don't go backwards.
func TestCacheMetricsOfAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ever := make(chan struct{})
		calls := []func(){func() {}, func() { panic("boom") }, func() { <-ever }, func() {}}
		var n atomic.Int64
		s := &storetest.Fake{OnMetrics: func() modcache.Metrics {
			i := n.Add(1)
			calls[i-1]()
			return modcache.Metrics{Adds: uint64(i)}
		}}
		c := newCache(t, s, nil)
		for range 5 {
			require.EqualValues(t, 1, c.Metrics().Store.Adds)
		}
		close(ever)
		synctest.Wait()
		require.EqualValues(t, 4, c.Metrics().Store.Adds)
	})
}

// Who wants code to be stored waits a minute longer for a store that hangs, once, and is told.
func TestCacheWarmOverAStoreThatHangs(t *testing.T) {
	needsCompiler(t)
	synctest.Test(t, func(t *testing.T) {
		ever := make(chan struct{})
		answer := sync.OnceFunc(func() { close(ever) })
		defer answer()
		s := &stuckStore{Memory: modcache.NewMemory(nil), in: "add", stuck: func() { <-ever }}
		c := newCache(t, s, &modcache.Options{SmallModules: -1})
		start := time.Now()
		require.ErrorContains(t, c.Warm(bg, nil, modcache.NewModule(wasmtest.Sum(4, 1))), "the store has not taken its code")
		require.LessOrEqual(t, time.Since(start), 70*time.Second)
		start = time.Now()
		for i := range int32(4) {
			stub, err := c.Stub(bg, nil, modcache.NewModule(wasmtest.Sum(4, 2+i)))
			require.NoError(t, err)
			require.Equal(t, wasmtest.Sum(4, 2+i), stub, "it stays as it is")
			require.Error(t, c.Warm(bg, nil, modcache.NewModule(wasmtest.Sum(5, i))))
		}
		require.LessOrEqual(t, time.Since(start), 10*time.Second, "for all of them")

		answer()
		synctest.Wait()
		s.stuck = func() { time.Sleep(12 * time.Second) }
		require.NoError(t, c.Warm(bg, nil, modcache.NewModule(wasmtest.Sum(6, 0))), "it is waited for again")
	})
}

// Somebody who holds all locks is waited for once a minute, and not for each module.
func TestCacheRemembersThatLocksAreHeld(t *testing.T) {
	needsCompiler(t)
	synctest.Test(t, func(t *testing.T) {
		held := func(ctx context.Context, _ modcache.Key) (func(), error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		s := &storetest.Locking{OnLock: held}
		c := newCache(t, s, nil)
		n := int32(0)
		took := func() time.Duration {
			n++
			return runTime(t, c, n)
		}
		require.Equal(t, time.Minute, took())
		for range 5 {
			require.Less(t, took(), time.Second)
		}
		s.OnLock = nil
		require.Zero(t, took(), "one that is free is still taken")
		s.OnLock = held
		require.Less(t, took(), time.Second, "which says nothing about the others")
		time.Sleep(time.Minute)
		require.Equal(t, time.Minute, took())
		require.Less(t, took(), time.Second)

		time.Sleep(time.Minute)
		s.OnLock = func(context.Context, modcache.Key) (func(), error) {
			time.Sleep(10 * time.Second)
			return func() {}, nil
		}
		require.Equal(t, 10*time.Second, took(), "somebody has compiled")
		s.OnLock = held
		require.Equal(t, time.Minute, took())
		require.Zero(t, c.Metrics().StoreErrors)
	})
}

// slowGet is a store that takes long to find what it has.
type slowGet struct {
	*modcache.Memory
	takes time.Duration
}

func (s *slowGet) Get(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	time.Sleep(s.takes)
	return s.Memory.Get(ctx, key)
}

// Where nothing may be compiled, there is no compile that could be faster than the store.
func TestCacheThatRequiresAHitWaitsForIt(t *testing.T) {
	needsCompiler(t)
	synctest.Test(t, func(t *testing.T) {
		s := &slowGet{Memory: modcache.NewMemory(nil)}
		_, err := ways[1].Run(newCache(t, s, nil), wasmtest.Sum(4, 0))
		require.NoError(t, err)
		s.takes = 10 * time.Second
		_, err = ways[1].Run(newCache(t, s, &modcache.Options{RequireHit: true}), wasmtest.Sum(4, 0))
		require.NoError(t, err)
	})
}

// A store is told whether there is a compile that it could be slower than, by whoever looks a module up. Snapshots are made where
// there are none.
func TestCacheTellsItsStoreWhatACompileTakes(t *testing.T) {
	needsCompiler(t)
	m := modcache.NewModule(wasmtest.Sum(4, 0))
	snapshot := false
	for name, look := range map[string]func(t *testing.T, c *modcache.Cache){
		"Runtime": func(t *testing.T, c *modcache.Cache) { requireRuns(t, ways[1], c, m.Bytes(), 10) },
		"drop-in": func(t *testing.T, c *modcache.Cache) { requireRuns(t, ways[0], c, m.Bytes(), 10) },
		"Warm":    func(t *testing.T, c *modcache.Cache) { require.NoError(t, c.Warm(bg, nil, m)) },
		"Stored": func(t *testing.T, c *modcache.Cache) {
			_, err := newRuntime(t, c, nil).Stored(bg, m)
			require.NoError(t, err)
		},
		"Template": func(t *testing.T, c *modcache.Cache) {
			r := newRuntime(t, c, nil)
			_, err := r.Compile(bg, m)
			require.NoError(t, err)
			snapshot = true
			require.NoError(t, (&initTest{r, m}).make(bg, "a", nothing))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &storetest.Fake{}
			for _, w := range ways {
				requireRuns(t, w, newCache(t, s, nil), m.Bytes(), 10)
			}
			for _, required := range []bool{false, true} {
				var told []bool
				snapshot = false
				s.OnGet = func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
					if !snapshot {
						told = append(told, modcache.CompileEstimate(ctx) < 0)
					} else if modcache.CompileEstimate(ctx) != 0 {
						t.Error("there is an Init")
					}
					return s.Below().Get(ctx, key)
				}
				look(t, newCache(t, s, &modcache.Options{RequireHit: required}))
				require.NotEmpty(t, told)
				require.NotContains(t, told, !required)
				s.Heal()
			}
		})
	}
}

// Warm only checks where a hit is required, also for what is in memory.
func TestCacheWarmCompilesNothingThatIsRequired(t *testing.T) {
	needsCompiler(t)
	store, m := modcache.NewMemory(nil), modcache.NewModule(wasmtest.Sum(4, 0))
	config := wazero.NewRuntimeConfig()
	require.NoError(t, newCache(t, store, nil).Warm(bg, config, m))
	c := newCache(t, store, &modcache.Options{RequireHit: true})
	r := newRuntime(t, c, config)
	_, err := r.Compile(bg, m)
	require.NoError(t, err)
	require.NoError(t, store.Delete(bg, r.Key(m)))
	require.ErrorIs(t, c.Warm(bg, config, m), modcache.ErrMiss)
	require.Zero(t, c.Metrics().Compiles)
}

// Who gives up a Flush is told that it was he.
func TestCacheFlushThatIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &storetest.Fake{OnFlush: func(context.Context) error { time.Sleep(time.Minute); return nil }}
		c := newCache(t, s, nil)
		ctx, cancel := context.WithCancel(bg)
		time.AfterFunc(time.Second, cancel)
		require.ErrorIs(t, c.Flush(ctx), context.Canceled)
		time.Sleep(time.Minute) // until the store's has ended
	})
}

func TestCacheFlushWaitsForAdds(t *testing.T) {
	needsCompiler(t)
	synctest.Test(t, func(t *testing.T) {
		s := &slowAdd{Memory: modcache.NewMemory(nil), takes: 7 * time.Second}
		c := newCache(t, s, nil)
		_, err := ways[1].Run(c, wasmtest.Sum(4, 0))
		require.NoError(t, err)
		require.Zero(t, s.Metrics().Adds, "it was given up")
		late, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		require.ErrorIs(t, c.Flush(late), context.DeadlineExceeded)
		require.NoError(t, c.Flush(bg))
		require.EqualValues(t, 1, s.Metrics().Adds)
	})
}

// TestCacheFlushAfterAnErrorOfOurs doesn't take what a store returns for an Add that goes on.
func TestCacheFlushAfterAnErrorOfOurs(t *testing.T) {
	needsCompiler(t)
	s := &storetest.Fake{OnAdd: func(context.Context, modcache.Key, *modcache.Artifact) error {
		return fmt.Errorf("the store's own: %w", bounded.ErrNoAnswer)
	}}
	c := newCache(t, s, nil)
	_, err := ways[1].Run(c, wasmtest.Sum(4, 0))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(bg, 5*time.Second)
	defer cancel()
	require.NoError(t, c.Flush(ctx))
}

// Warm is for build steps, which end when it returns: what a slow store takes counts.
func TestCacheWarmWaitsForASlowStore(t *testing.T) {
	needsCompiler(t)
	for name, fails := range map[string]error{"keeps it": nil, "is full": errors.New("full")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &slowAdd{Memory: modcache.NewMemory(nil), takes: 12 * time.Second, err: fails}
				c := newCache(t, s, nil)
				err := c.Warm(bg, wazero.NewRuntimeConfig(), modcache.NewModule(wasmtest.Sum(4, 0)))
				require.EqualValues(t, 1, c.Metrics().Compiles)
				if fails == nil {
					require.NoError(t, err)
				} else {
					require.ErrorContains(t, err, "did not keep it")
				}
			})
		})
	}
}

// An observer that never returns is waited for once, and gets no more events until it
// returns. The other one learns of it.
func TestCacheWhoseObserverNeverReturns(t *testing.T) {
	needsCompiler(t)
	synctest.Test(t, func(t *testing.T) {
		ever := make(chan struct{})
		var events, warnings atomic.Int64
		c := newCache(t, &stuckStore{Memory: modcache.NewMemory(nil)}, &modcache.Options{
			Retain:  cachetest.Forget,
			OnEvent: func(modcache.Event) { events.Add(1); <-ever },
			Logger:  slog.New(&countingHandler{n: &warnings}),
		})
		start := time.Now()
		for range 5 {
			_, err := ways[1].Run(c, wasmtest.Sum(4, 0))
			require.NoError(t, err)
		}
		require.Less(t, time.Since(start), 4*time.Second)
		require.EqualValues(t, 1, events.Load(), "no goroutine for each event")
		require.EqualValues(t, 1, warnings.Load())
		dropped := c.Metrics().DroppedEvents
		require.Positive(t, dropped)

		close(ever)
		synctest.Wait()
		_, err := ways[1].Run(c, wasmtest.Sum(4, 0))
		require.NoError(t, err)
		require.EqualValues(t, 2, events.Load(), "the hit")
		require.Equal(t, dropped, c.Metrics().DroppedEvents)
	})
}

// countingHandler counts warnings.
type countingHandler struct{ n *atomic.Int64 }

func (h *countingHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (h *countingHandler) Handle(context.Context, slog.Record) error    { h.n.Add(1); return nil }
func (h *countingHandler) WithAttrs([]slog.Attr) slog.Handler           { return h }
func (h *countingHandler) WithGroup(string) slog.Handler                { return h }

// What an observer takes to hear that something was stored is not the time of the store.
func TestCacheObserversTimeIsNotTheStores(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var stored []time.Duration
				c := newCache(t, &slowAdd{Memory: modcache.NewMemory(nil), takes: 4 * time.Second}, &modcache.Options{
					OnEvent: func(e modcache.Event) {
						if e.Kind == modcache.EventStored {
							time.Sleep(2 * time.Second)
							stored = append(stored, e.Duration)
						}
					},
				})
				_, err := w.Run(c, wasmtest.Sum(4, 0))
				require.NoError(t, err)
				require.Zero(t, c.Metrics().StoreErrors)
				require.Equal(t, []time.Duration{4 * time.Second}, stored)
			})
		})
	}
}

// A miss that fails a compile says what kept the store from having the module.
func TestCacheSaysWhyARequiredHitIsMissing(t *testing.T) {
	needsCompiler(t)
	fails := errors.New("the disk is on fire")
	s := &storetest.Fake{OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) { return nil, false, fails }}
	c := newCache(t, s, &modcache.Options{RequireHit: true})
	_, err := ways[1].Run(c, wasmtest.Sum(4, 0))
	require.ErrorIs(t, err, modcache.ErrMiss)
	require.ErrorIs(t, err, fails)
	s.Heal()
	_, err = ways[1].Run(c, wasmtest.Sum(4, 0))
	require.ErrorIs(t, err, modcache.ErrMiss)
	require.NotErrorIs(t, err, fails)
}

// TestCacheWhoseDirectoryHangs opens a directory whose file system doesn't answer, until it does.
func TestCacheWhoseDirectoryHangs(t *testing.T) {
	needsCompiler(t)
	dir := filepath.Join(t.TempDir(), "c")
	c := openCache(t, dir, nil)
	requireRuns(t, ways[1], c, chainWasm, chainWant)
	_, err := c.Store().(*modcache.Disk).Trim(bg)
	require.NoError(t, err)
	require.NoError(t, c.Close(bg))
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		var hung atomic.Int32
		// The clock is what opening a directory asks for that a test can have hang.
		now := func() time.Time {
			if strings.Contains(string(debug.Stack()), "modcache.openDisk") {
				hung.Add(1)
				<-answer
			}
			return time.Now()
		}
		start := time.Now()
		c, err := modcache.Open(dir, &modcache.Options{Retain: forget, Disk: modcache.DiskOptions{Now: now}})
		require.NoError(t, err)
		require.Equal(t, 5*time.Second, time.Since(start), "it is tried once")
		require.True(t, c.Status().InMemory)
		require.ErrorIs(t, c.Status().Err, context.DeadlineExceeded)
		require.ErrorContains(t, c.Status().Err, dir)
		for range 3 { // nothing waits for it again
			time.Sleep(time.Minute)
			start = time.Now()
			requireRuns(t, ways[1], c, chainWasm, chainWant)
			require.Zero(t, time.Since(start))
		}
		require.EqualValues(t, 1, hung.Load())
		require.EqualValues(t, 1, c.Metrics().Compiles)

		close(answer)
		time.Sleep(time.Minute)
		requireRuns(t, ways[1], c, chainWasm, chainWant)
		require.False(t, c.Status().InMemory)
		require.NoError(t, c.Close(bg))
	})
}
