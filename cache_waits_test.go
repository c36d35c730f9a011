package modcache_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
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
func TestStoreThatNeverReturns(t *testing.T) {
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
func TestObserverThatCompiles(t *testing.T) {
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
