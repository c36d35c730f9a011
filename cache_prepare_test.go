package modcache_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

func TestCachePrepare(t *testing.T) {
	cachetest.NeedsCompiler(t)
	started := make(chan struct{})
	proceed := make(chan struct{})
	c := cachetest.New(t, &storetest.Fake{}, &modcache.Options{OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventCompileStarted {
			close(started)
			<-proceed
		}
	}})
	m := modcache.NewModule(wasmtest.Const(1))
	result := c.Prepare(t.Context(), nil, m)
	<-started
	select {
	case <-result:
		t.Fatal("it is still compiling")
	default:
	}
	close(proceed)
	w := <-result
	require.NoError(t, w.Err)
	require.True(t, w.Compiled)
	require.Same(t, m, w.Module)
	_, open := <-result
	require.False(t, open)

	w = <-c.Prepare(t.Context(), nil, m)
	require.NoError(t, w.Err)
	require.False(t, w.Compiled, "it is there")
	r := cachetest.NewRuntime(t, c, nil)
	_, err := r.Compile(t.Context(), m)
	require.NoError(t, err)
	require.EqualValues(t, 1, c.Metrics().Compiles)

	require.ErrorIs(t, (<-c.Prepare(t.Context(), wazero.NewRuntimeConfigInterpreter(), m)).Err, modcache.ErrUnsupportedWazero)
	type notWazeros struct{ wazero.RuntimeConfig }
	require.Error(t, (<-c.Prepare(t.Context(), notWazeros{wazero.NewRuntimeConfig()}, m)).Err, "wazero panics")
	require.Error(t, (<-c.Prepare(t.Context(), nil, modcache.NewModule([]byte("no module")))).Err)
	cause := errors.New("not wanted any more")
	ended, end := context.WithCancelCause(t.Context())
	end(cause)
	require.ErrorIs(t, (<-c.Prepare(ended, nil, modcache.NewModule(wasmtest.Const(2)))).Err, cause)

	require.NoError(t, c.Close(t.Context()))
	require.ErrorIs(t, (<-c.Prepare(t.Context(), nil, m)).Err, modcache.ErrClosed)
}

// TestCachePrepareEndsWithTheCache closes a Cache whose preparations nobody receives, at every
// stage that one can be in.
func TestCachePrepareEndsWithTheCache(t *testing.T) {
	cachetest.NeedsCompiler(t)
	for _, stage := range []string{"none", "begin", "get", "compile", "add"} {
		t.Run(stage, func(t *testing.T) {
			there := make(chan struct{})
			stuck := make(chan struct{})
			var once sync.Once
			at := func(s string) {
				if s == stage {
					once.Do(func() {
						close(there)
						<-stuck
					})
				}
			}
			s := &storetest.Fake{
				OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
					at("get")
					return nil, false, nil
				},
				OnAdd: func(context.Context, modcache.Key, *modcache.Artifact) error {
					at("add")
					return nil
				},
			}
			c := cachetest.New(t, s, &modcache.Options{OnEvent: func(e modcache.Event) {
				switch e.Kind {
				case modcache.EventDegraded:
					at("begin")
				case modcache.EventCompileStarted:
					at("compile")
				}
			}})
			config := wazero.NewRuntimeConfig()
			switch stage {
			case "none":
				close(there)
			case "begin":
				config = wazero.NewRuntimeConfigInterpreter() // which is reported before anything else
			}
			result := c.Prepare(t.Context(), config, modcache.NewModule(wasmtest.Const(1)))
			<-there
			closed := make(chan error, 1)
			go func() { closed <- c.Close(context.Background()) }()
			if stage != "none" { // it is stuck: time for a Close that doesn't wait to return
				time.Sleep(20 * time.Millisecond)
			}
			close(stuck)
			require.NoError(t, <-closed)
			select {
			case <-result: // what it was is a matter of luck
			default:
				t.Fatal("Close did not wait for it")
			}
		})
	}
}

// TestCacheRefusesNilModules in all that takes one, also where a panic would end the process.
func TestCacheRefusesNilModules(t *testing.T) {
	const want = "modcache: the Module is nil; NewModule makes one"
	cachetest.NeedsCompiler(t)
	c := cachetest.New(t, &storetest.Fake{}, nil)
	r := cachetest.NewRuntime(t, c, nil)
	require.EqualError(t, (<-c.Prepare(t.Context(), nil, nil)).Err, want)
	require.EqualError(t, c.Warm(t.Context(), nil, modcache.NewModule(wasmtest.Const(1)), nil), want)
	require.EqualValues(t, 1, c.Metrics().Compiles, "the others are warmed")
	_, err := c.Stub(t.Context(), nil, nil)
	require.EqualError(t, err, want)
	_, err = r.Compile(t.Context(), nil)
	require.EqualError(t, err, want)
	_, err = r.Stored(t.Context(), nil)
	require.EqualError(t, err, want)
	_, err = r.NewTemplate(t.Context(), nil, nil)
	require.EqualError(t, err, want)
	_, err = cachetest.NewRuntime(t, c, wazero.NewRuntimeConfigInterpreter()).Compile(t.Context(), nil)
	require.EqualError(t, err, want)
	require.Zero(t, r.Key(nil))
}
