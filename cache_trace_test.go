package modcache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
)

// tracer records steps, each with those that it is within.
type tracer struct {
	mu    sync.Mutex
	ended []string // "module/lookup 0", in the order in which they ended
	steps map[string]modcache.Step
}

type pathKey struct{}

func (tr *tracer) trace(ctx context.Context, s modcache.Step) (context.Context, func(modcache.StepEnd)) {
	path := s.Kind.String()
	if within, ok := ctx.Value(pathKey{}).(string); ok {
		path = within + "/" + path
	}
	return context.WithValue(ctx, pathKey{}, path), func(e modcache.StepEnd) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		if tr.steps == nil {
			tr.steps = map[string]modcache.Step{}
		}
		tr.steps[path] = s
		switch {
		case e.Err != nil:
			path += " failed"
		case e.Bytes > 0:
			path += " code"
		}
		tr.ended = append(tr.ended, path)
	}
}

// took returns the steps since it was last asked.
func (tr *tracer) took() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	ended := tr.ended
	tr.ended = nil
	return ended
}

func TestCacheTrace(t *testing.T) {
	cachetest.NeedsCompiler(t)
	tr := &tracer{}
	ctx := context.WithValue(t.Context(), pathKey{}, "request")
	store := &storetest.Fake{}
	var asked []any // what the store finds in its context
	store.OnGet = func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
		asked = append(asked, ctx.Value(pathKey{}))
		return store.Below().Get(ctx, key)
	}
	o := &modcache.Options{Trace: tr.trace, ExactKeys: true, Retain: cachetest.Forget}
	compile := func(c *modcache.Cache, wasm []byte) (modcache.Step, error) {
		r, err := c.NewRuntime(ctx, nil)
		require.NoError(t, err)
		defer r.Close(ctx)
		cm, err := r.CompileModule(ctx, wasm)
		if err == nil {
			again, err := r.CompileModule(ctx, wasm)
			require.NoError(t, err)
			require.NoError(t, again.Close(ctx))
			require.NoError(t, cm.Close(ctx))
		}
		return tr.steps["request/module"], err
	}

	step, err := compile(cachetest.New(t, store, o), cachetest.Chain)
	require.NoError(t, err)
	require.Equal(t, []string{
		"request/module/lookup",
		"request/module/compile code",
		"request/module/load code",
		"request/module", // and none when it is in memory
	}, tr.took())
	require.Equal(t, modcache.Sum(cachetest.Chain), step.Module)
	require.EqualValues(t, len(cachetest.Chain), step.Bytes)
	require.Equal(t, []any{"request/module/lookup"}, asked, "a store can trace what it does")

	_, err = compile(cachetest.New(t, store, o), cachetest.Chain)
	require.NoError(t, err)
	require.Equal(t, []string{"request/module/lookup code", "request/module/load code", "request/module"}, tr.took())

	store.OnGet = func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
		return nil, false, errors.New("down")
	}
	_, err = compile(cachetest.New(t, store, o), cachetest.Chain)
	require.NoError(t, err)
	require.Equal(t, "request/module/lookup failed", tr.took()[0])
	store.Heal()

	_, err = compile(cachetest.New(t, store, o), []byte("\x00asm\x01\x00\x00\x00\x01\x01"))
	require.Error(t, err)
	ended := tr.took()
	require.Equal(t, []string{"request/module/compile failed", "request/module failed"}, ended[len(ended)-2:])

	// Locks between processes are waited for.
	dir, err := modcache.OpenDisk(t.TempDir(), nil)
	require.NoError(t, err)
	defer dir.Close()
	_, err = compile(cachetest.New(t, dir, o), cachetest.Chain)
	require.NoError(t, err)
	require.Contains(t, tr.took(), "request/module/wait")

	// The drop-in has nobody's context.
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCompilationCache(cachetest.New(t, store, o).CompilationCache()))
	defer r.Close(ctx)
	_, err = r.CompileModule(ctx, cachetest.Other)
	require.NoError(t, err)
	require.Equal(t, []string{"lookup"}, tr.took())
}

// TestCacheTraceShared has callers wait for the load of another one.
func TestCacheTraceShared(t *testing.T) {
	cachetest.NeedsCompiler(t)
	synctest.Test(t, func(t *testing.T) {
		const callers = 8
		tr := &tracer{}
		store := &storetest.Fake{}
		c := cachetest.New(t, store, &modcache.Options{Trace: tr.trace, ExactKeys: true})
		hold := make(chan bool)
		store.OnGet = func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
			<-hold
			return store.Below().Get(ctx, key)
		}
		r, err := c.NewRuntime(t.Context(), nil)
		require.NoError(t, err)
		defer r.Close(t.Context())
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				_, err := r.CompileModule(context.WithValue(t.Context(), pathKey{}, fmt.Sprint(i)), cachetest.Chain)
				assert.NoError(t, err)
			})
			synctest.Wait()
		}
		close(hold)
		wg.Wait()
		count := map[string]int{}
		for _, s := range tr.took() {
			if path, first := strings.CutPrefix(s, "0/"); first {
				count["first "+path]++
			} else {
				count[s[2:]]++
			}
		}
		require.Equal(t, map[string]int{
			"first module/lookup": 1, "first module/compile code": 1, "first module/load code": 1, "first module": 1,
			"module/wait": callers - 1, "module": callers - 1,
		}, count)
	})
}

// TestCacheTraceThatFails has compiles go on, whatever a tracer does.
func TestCacheTraceThatFails(t *testing.T) {
	cachetest.NeedsCompiler(t)
	for name, trace := range map[string]func(context.Context, modcache.Step) (context.Context, func(modcache.StepEnd)){
		"nothing": func(context.Context, modcache.Step) (context.Context, func(modcache.StepEnd)) { return nil, nil },
		"panics":  func(context.Context, modcache.Step) (context.Context, func(modcache.StepEnd)) { panic("oops") },
		"panics later": func(context.Context, modcache.Step) (context.Context, func(modcache.StepEnd)) {
			return nil, func(modcache.StepEnd) { panic("oops") }
		},
		"hangs": func(context.Context, modcache.Step) (context.Context, func(modcache.StepEnd)) {
			time.Sleep(time.Hour)
			return nil, nil
		},
		"hangs later": func(context.Context, modcache.Step) (context.Context, func(modcache.StepEnd)) {
			return nil, func(modcache.StepEnd) { time.Sleep(time.Hour) }
		},
		"an ended context": func(ctx context.Context, _ modcache.Step) (context.Context, func(modcache.StepEnd)) {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				c := cachetest.New(t, modcache.NewMemory(nil), &modcache.Options{Trace: trace})
				r, err := c.NewRuntime(t.Context(), nil)
				require.NoError(t, err)
				defer r.Close(t.Context())
				_, err = r.CompileModule(t.Context(), cachetest.Chain)
				require.NoError(t, err)
				require.LessOrEqual(t, time.Since(start), 3*time.Second, "it is waited for once")
				require.Equal(t, strings.HasPrefix(name, "hangs"), c.Metrics().DroppedEvents > 0)
				time.Sleep(2 * time.Hour) // until nothing hangs
			})
		})
	}
}
