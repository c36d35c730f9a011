package modcache_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
)

// wicked is an error one of whose methods panics, or ends the goroutine.
type wicked struct {
	in    string
	exits bool
}

func (w wicked) at(method string) {
	if w.in == method && w.exits {
		runtime.Goexit()
	} else if w.in == method {
		panic("injected")
	}
}

func (w wicked) Error() string { w.at("Error"); return "injected" }

func (w wicked) Is(target error) bool {
	w.at("Is")
	if slices.Contains([]error{modcache.ErrCorrupt, modcache.ErrReadOnly, modcache.ErrTooLarge, modcache.ErrUnavailable, context.DeadlineExceeded}, target) {
		w.at("Is some errors")
	}
	return false
}

func (w wicked) Unwrap() error { w.at("Unwrap"); return nil }

// A store's errors are looked at by many, also on goroutines on which nobody can recover.
func TestCacheStoreErrorsThatPanic(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		for _, evil := range []wicked{{in: "Error"}, {in: "Is"}, {in: "Unwrap"}, {in: "Is some errors"}, {"Error", true}, {"Is some errors", true}} {
			for _, layered := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %s %t", w.Name, evil.in, evil.exits), func(t *testing.T) {
					fake := &storetest.Fake{
						OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
							return nil, false, evil
						},
						OnAdd:   func(context.Context, modcache.Key, *modcache.Artifact) error { return evil },
						OnFlush: func(context.Context) error { return evil },
					}
					var s modcache.Store = fake
					if layered {
						l := modcache.NewLayered(nil, modcache.Layer{Store: modcache.NewMemory(nil)},
							modcache.Layer{Store: fake}, modcache.Layer{Store: fake, Write: modcache.WriteBehind})
						defer l.Close()
						s = l
					}
					c := newCache(t, s, &modcache.Options{Retain: forget, Logger: slog.New(slog.DiscardHandler)})
					requireRuns(t, w, c, chainWasm, chainWant)
					requireRuns(t, w, c, chainWasm, chainWant)
					require.Error(t, c.Flush(bg))
					if evil.in != "Is some errors" {
						require.Contains(t, c.Status().LastError, "panic: ")
					}
					require.NoError(t, c.Close(bg))
				})
			}
		}
	}
}

// observable is a store whose Observe, or the stop of it, does something else.
type observable struct {
	*storetest.Fake
	observe, stop func()
	observer      func(modcache.Event)
}

func (o *observable) Observe(observer func(modcache.Event)) (stop func()) {
	o.observer = observer
	if o.observe != nil {
		o.observe()
	}
	return o.stop
}

func TestCacheObservesStoresThat(t *testing.T) {
	ever := make(chan struct{})
	for how, do := range map[string]func(){
		"panic": func() { panic("injected") },
		"exit":  runtime.Goexit,
		"hang":  func() { <-ever },
	} {
		for _, layered := range []bool{false, true} {
			t.Run(how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ever = make(chan struct{}) // of this bubble
					defer close(ever)
					for _, s := range []*observable{{observe: do}, {stop: do}} {
						s.Fake = &storetest.Fake{}
						var store modcache.Store = s
						if layered {
							store = modcache.NewLayered(nil, modcache.Layer{Store: s}, modcache.Layer{Store: modcache.NewMemory(nil)})
						}
						start := time.Now()
						c, err := modcache.New(store, nil)
						require.NoError(t, err)
						if off := c.Status().Off; s.observe != nil && (!layered || how == "hang") {
							require.Contains(t, strings.Join(off, "\n"), "reports of what happens in the store")
						}
						require.NoError(t, c.Close(bg))
						require.LessOrEqual(t, time.Since(start), 10*time.Second)
					}
				})
			})
		}
	}
}

// What a store reports is no more to be trusted than what it returns.
func TestCacheReportedErrorsThatPanic(t *testing.T) {
	for _, in := range []string{"Error", "Is", "Unwrap"} {
		s := &observable{Fake: &storetest.Fake{}}
		c := newCache(t, s, nil)
		for _, kind := range []modcache.EventKind{modcache.EventStoreFailed, modcache.EventCorrupt} {
			s.observer(modcache.Event{Kind: kind, Err: wicked{in: in}})
			require.Contains(t, c.Status().LastError, "panic: ")
		}
	}
}
