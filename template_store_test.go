package modcache_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// initTest makes templates of one module over a store with locks that exclude each other.
type initTest struct {
	r *modcache.Runtime
	m *modcache.Module
}

func newInitTest(t *testing.T) *initTest {
	var locks sync.Map // chan struct{} of one place, by key
	s := &storetest.Locking{OnLock: func(ctx context.Context, key modcache.Key) (func(), error) {
		l, _ := locks.LoadOrStore(key, make(chan struct{}, 1))
		select {
		case l.(chan struct{}) <- struct{}{}:
			return func() { <-l.(chan struct{}) }, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	return &initTest{newRuntime(t, newCache(t, s, nil), nil), modcache.NewModule(wasmtest.Const(1))}
}

func (i *initTest) make(ctx context.Context, id string, init func(context.Context) error) error {
	tmpl, err := i.r.NewTemplate(ctx, i.m, &modcache.TemplateOptions{ID: id, Init: func(ctx context.Context, _ api.Module) error { return init(ctx) }})
	if err == nil {
		err = tmpl.Close(ctx)
	}
	return err
}

func nothing(context.Context) error { return nil }

// TestTemplateWhoseInitMakesItself is refused, also by way of another template, and leaves nothing behind.
func TestTemplateWhoseInitMakesItself(t *testing.T) {
	needsCompiler(t)
	synctest.Test(t, func(t *testing.T) {
		i, start := newInitTest(t), time.Now()
		again := func(ctx context.Context) error { return i.make(ctx, "a", nothing) }
		require.ErrorContains(t, i.make(bg, "a", again), "Init makes the same template again")
		through := func(ctx context.Context) error { return i.make(ctx, "b", again) }
		require.ErrorContains(t, i.make(bg, "a", through), "Init makes the same template again")
		require.NoError(t, i.make(bg, "a", func(ctx context.Context) error { return i.make(ctx, "b", nothing) }))
		require.Zero(t, time.Since(start))
	})
}

// TestTemplateWhoseInitWaits has Inits that can't end before others do, or don't end at all: these go on without them after LockWait.
func TestTemplateWhoseInitWaits(t *testing.T) {
	needsCompiler(t)
	ever := make(chan struct{})
	for name, begin := range map[string]func(i *initTest, begun func()){
		"for itself": func(i *initTest, begun func()) {
			_ = i.make(bg, "a", func(context.Context) error { begun(); return i.make(bg, "a", nothing) })
		},
		"for ever": func(i *initTest, begun func()) {
			_ = i.make(bg, "a", func(context.Context) error { begun(); <-ever; return nil })
		},
		"for another that waits for it": func(i *initTest, begun func()) {
			var both, other sync.WaitGroup
			both.Add(2)
			cross := func(id, other string) error {
				return i.make(bg, id, func(context.Context) error { both.Done(); both.Wait(); begun(); return i.make(bg, other, nothing) })
			}
			other.Go(func() { _ = cross("b", "a") })
			_ = cross("a", "b")
			other.Wait()
		},
		"and ends its goroutine": func(i *initTest, begun func()) {
			_ = i.make(bg, "a", func(context.Context) error { begun(); time.Sleep(time.Second); runtime.Goexit(); return nil })
		},
		"and panics": func(i *initTest, begun func()) {
			_ = i.make(bg, "a", func(context.Context) error { begun(); time.Sleep(time.Second); panic("injected") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ever = make(chan struct{}) // of this bubble
				i, begun := newInitTest(t), make(chan struct{})
				var first sync.WaitGroup
				first.Go(func() { begin(i, sync.OnceFunc(func() { close(begun) })) })
				<-begun
				start := time.Now()
				gone, cancel := context.WithCancelCause(bg)
				cancel(errors.New("left"))
				require.ErrorContains(t, i.make(gone, "a", nothing), "left")
				require.Zero(t, time.Since(start))
				require.NoError(t, i.make(bg, "a", nothing))
				require.LessOrEqual(t, time.Since(start), 61*time.Second)
				close(ever)
				first.Wait()
				require.LessOrEqual(t, time.Since(start), 2*time.Minute)
				require.NoError(t, i.make(bg, "b", nothing))
			})
		})
	}
}
