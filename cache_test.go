package modcache_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"reflect"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

type panickingHandler struct{}

func (panickingHandler) Enabled(context.Context, slog.Level) bool  { panic("injected") }
func (panickingHandler) Handle(context.Context, slog.Record) error { panic("injected") }
func (h panickingHandler) WithAttrs([]slog.Attr) slog.Handler      { return h }
func (h panickingHandler) WithGroup(string) slog.Handler           { return h }

func TestCacheObserversThatPanic(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			c := openCache(t, t.TempDir()+"/c", &modcache.Options{
				Retain:  forget,
				Logger:  slog.New(panickingHandler{}),
				OnEvent: func(modcache.Event) { panic("injected") },
				Disk:    modcache.DiskOptions{OnEvent: func(modcache.Event) { panic("injected") }},
			})
			requireRuns(t, w, c, chainWasm, chainWant)
			requireRuns(t, w, c, chainWasm, chainWant)
			require.EqualValues(t, 1, c.Metrics().Hits)
			require.NoError(t, c.Close(bg))
		})
	}
}

// An observer may ask the Cache that calls it.
func TestCacheObserversThatCallBack(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		var c *modcache.Cache
		calls := 0
		c = newCache(t, &storetest.Fake{}, &modcache.Options{Retain: forget, OnEvent: func(modcache.Event) {
			if c != nil {
				calls++
				_ = c.Metrics()
				_ = c.Flush(bg)
				_ = c.CompilationCache()
			}
		}})
		requireRuns(t, w, c, chainWasm, chainWant)
		require.Positive(t, calls)
	}
}

func TestCacheRequireHit(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			s := &storetest.Fake{}
			var seen witness
			strict := newCache(t, s, seen.Options(modcache.Options{RequireHit: true}))
			_, err := w.Run(strict, chainWasm)
			require.ErrorIs(t, err, modcache.ErrMiss)
			require.Zero(t, s.Calls().Add)
			require.Zero(t, strict.Metrics().Compiles)
			require.Empty(t, seen.Saw(modcache.EventCompileStarted), "refused after compiling began")

			requireRuns(t, w, newCache(t, s, nil), chainWasm, chainWant)
			requireRuns(t, w, strict, chainWasm, chainWant)
			_, err = w.Run(strict, otherWasm)
			require.ErrorIs(t, err, modcache.ErrMiss)

			// Faults are misses too, not permission to compile.
			s.OnGet = func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
				return nil, false, errInjected
			}
			_, err = w.Run(strict, chainWasm)
			require.ErrorIs(t, err, modcache.ErrMiss)
			s.OnGet = func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
				a, _, _ := s.Below().Get(ctx, key)
				b, _ := a.Bytes()
				b[50] ^= 1
				return modcache.NewArtifact(b, a.Info()), true, nil
			}
			_, err = w.Run(strict, chainWasm)
			require.ErrorIs(t, err, modcache.ErrMiss)

			// After Close, nothing can be a hit.
			s.Heal()
			config := wazero.NewRuntimeConfig().WithCompilationCache(strict.CompilationCache())
			require.NoError(t, strict.Close(bg))
			r := wazero.NewRuntimeWithConfig(bg, config)
			defer r.Close(bg)
			_, err = r.CompileModule(bg, chainWasm)
			require.ErrorIs(t, err, modcache.ErrMiss)
			require.ErrorIs(t, err, modcache.ErrClosed)
			_, err = ways[0].Run(strict, chainWasm)
			require.ErrorIs(t, err, modcache.ErrMiss)
			_, err = ways[1].Run(strict, chainWasm)
			require.ErrorIs(t, err, modcache.ErrClosed)
		})
	}
}

// When nothing is stored, what a module with listeners would be compiled to isn't either.
func TestCacheRequireHitWithListeners(t *testing.T) {
	needsCompiler(t)
	ctx := experimental.WithFunctionListenerFactory(bg, experimental.FunctionListenerFactoryFunc(nil))
	s := &storetest.Fake{}
	strict := newCache(t, s, &modcache.Options{RequireHit: true})
	r, err := strict.NewRuntime(bg, nil)
	require.NoError(t, err)
	defer r.Close(bg)
	_, err = r.CompileModule(ctx, chainWasm)
	require.ErrorIs(t, err, modcache.ErrMiss)
}

func TestCacheReadOnlyNeverWrites(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			s, key, other := cachetest.Filled(t, w)
			s.Set(key, s.Entry(other)) // damaged
			errNothing := errors.New("must not be called")
			s.OnAdd = func(context.Context, modcache.Key, *modcache.Artifact) error { return errNothing }
			s.OnDelete = func(context.Context, modcache.Key) error { return errNothing }
			adds, deletes := s.Calls().Add, s.Calls().Delete
			c := newCache(t, s, &modcache.Options{ReadOnly: true, Retain: forget})
			requireRuns(t, w, c, chainWasm, chainWant)
			requireRuns(t, w, c, otherWasm, otherWant)
			requireRuns(t, w, c, wasmtest.Const(3), 3)
			require.Equal(t, adds, s.Calls().Add)
			require.Equal(t, deletes, s.Calls().Delete)
			require.Zero(t, c.Metrics().StoreErrors)
			require.EqualValues(t, 1, c.Metrics().Hits)
		})
	}
}

func TestCacheNeverSharesWithOtherEngines(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			s := &storetest.Fake{}
			for i, id := range []string{"", "one", "two", "on", "onee"} {
				c := newCache(t, s, &modcache.Options{EngineID: id})
				if id != "" {
					require.Equal(t, id, c.EngineID())
				}
				requireRuns(t, w, c, chainWasm, chainWant)
				require.Zero(t, c.Metrics().Hits)
				require.Equal(t, i+1, s.Len())
			}
			c := newCache(t, s, &modcache.Options{EngineID: "two", RequireHit: true})
			requireRuns(t, w, c, chainWasm, chainWant)
			// What the right engine made, under another's key, is not used either.
			var seen witness
			c = newCache(t, s, seen.Options(modcache.Options{EngineID: "three"}))
			s.OnGet = func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
				a := s.Entry(s.Keys()[0])
				b, err := a.Bytes()
				info := a.Info()
				info.Engine = "three"
				return modcache.NewArtifact(b, info), true, err
			}
			requireRuns(t, w, c, chainWasm, chainWant)
			require.EqualValues(t, 1, c.Metrics().Corrupt)
			require.Zero(t, c.Metrics().Hits)
		})
	}
}

func TestCacheFailsBadInputAsPlainWazeroDoes(t *testing.T) {
	whole := wasmtest.Sum(3, 1)
	for name, wasm := range map[string][]byte{
		"nil":          nil,
		"empty":        {},
		"not wasm":     []byte("#!/bin/sh\necho hello\n"),
		"short magic":  []byte("\x00as"),
		"only magic":   []byte("\x00asm"),
		"version 2":    []byte("\x00asm\x02\x00\x00\x00"),
		"truncated":    whole[:len(whole)-1],
		"half":         whole[:len(whole)/2],
		"invalid body": badBody(),
	} {
		for _, w := range ways {
			t.Run(w.Name+" "+name, func(t *testing.T) {
				_, want := cachetest.RunPlain(wasm)
				require.Error(t, want)
				s := &storetest.Fake{}
				c := newCache(t, s, nil)
				for range 2 {
					_, err := w.Run(c, wasm)
					require.EqualError(t, err, want.Error())
				}
				require.Zero(t, s.Calls().Add)
				if !bytes.HasPrefix(wasm, whole[:8]) {
					require.Zero(t, c.Metrics().Compiles, "looks at no more than that")
				}
				requireRuns(t, w, c, chainWasm, chainWant)
			})
		}
	}
}

// badBody is a module whose function returns what it doesn't have.
func badBody() []byte {
	var m wasmtest.Module
	m.Func(m.Type(nil, []byte{wasmtest.I32}), "f", 0x42, 0)
	return m.Bytes()
}

func TestCacheNewRefuses(t *testing.T) {
	_, err := modcache.New(nil, nil)
	require.ErrorContains(t, err, "modcache: New needs a store")
	long := string(bytes.Repeat([]byte("x"), 256))
	_, err = modcache.New(&storetest.Fake{}, &modcache.Options{EngineID: long})
	require.ErrorContains(t, err, "EngineID")
	_, err = modcache.New(&storetest.Fake{}, &modcache.Options{EngineID: long[1:], Workers: -3, MaxCompiles: -1, Retain: -1, LockWait: -1})
	require.NoError(t, err)
}

func TestCacheClose(t *testing.T) {
	needsCompiler(t)
	s := &storetest.Fake{}
	c, err := modcache.New(s, nil)
	require.NoError(t, err)
	cc := c.CompilationCache()
	running, err := c.NewRuntime(bg, nil)
	require.NoError(t, err)
	defer running.Close(bg)
	cm, err := running.CompileModule(bg, chainWasm)
	require.NoError(t, err)
	mod, err := running.InstantiateModule(bg, cm, wazero.NewModuleConfig())
	require.NoError(t, err)

	require.NoError(t, c.Close(bg))
	require.NoError(t, c.Close(bg))

	calls := s.Calls()
	_, err = c.NewRuntime(bg, nil)
	require.ErrorIs(t, err, modcache.ErrClosed)
	require.ErrorIs(t, c.Attach(wazero.NewCompilationCache()), modcache.ErrClosed)
	require.ErrorIs(t, c.Warm(bg, nil, modcache.NewModule(chainWasm)), modcache.ErrClosed)
	_, err = running.CompileModule(bg, otherWasm)
	require.ErrorIs(t, err, modcache.ErrClosed)

	// What runs goes on, and the drop-in compiles as if it had no files.
	res, err := mod.ExportedFunction("f").Call(bg)
	require.NoError(t, err)
	require.EqualValues(t, chainWant, res[0])
	for _, cc := range []wazero.CompilationCache{cc, c.CompilationCache()} {
		r := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCompilationCache(cc))
		got, err := cachetest.Run(r, otherWasm)
		require.NoError(t, err)
		require.EqualValues(t, otherWant, got)
		require.NoError(t, r.Close(bg))
	}
	require.Equal(t, calls, s.Calls(), "the store was used after Close")
	_ = c.Metrics()
}

// Close gives up waiting when its context ends, and goes on closing.
func TestCacheCloseHonoursItsContext(t *testing.T) {
	needsCompiler(t)
	g := newGate()
	c, err := modcache.New(&storetest.Fake{}, g.at(modcache.EventCompileStarted))
	require.NoError(t, err)
	require.False(t, c.Closed())
	r := newRuntime(t, c, nil)
	begun := begin(bg, r, wasmtest.Const(1))
	<-g.arrived
	hurry := errors.New("the pod is going down")
	ctx, cancel := context.WithCancelCause(bg)
	cancel(hurry)
	require.ErrorIs(t, c.Close(ctx), hurry)
	require.ErrorIs(t, c.Close(ctx), hurry, "it is still under way")
	require.EqualError(t, c.Close(ctx), "modcache: close: not done yet, and goes on: the pod is going down")
	require.True(t, c.Closed())
	require.ErrorIs(t, (<-begun).err, modcache.ErrClosed)
	close(g.open)
	require.NoError(t, c.Close(bg))
}

// What another engine has made is not used, and the miss says why.
func TestCacheTellsStaleFromCorrupt(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		s := &storetest.Fake{}
		requireRuns(t, w, newCache(t, s, nil), chainWasm, chainWant)
		s.OnGet = func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
			a, ok, err := s.Below().Get(ctx, key)
			require.NoError(t, err)
			info := a.Info()
			info.Engine = "wazero of yesterday"
			b, err := a.Bytes()
			return modcache.NewArtifact(b, info), ok, err
		}
		var reasons []modcache.Reason
		c := newCache(t, s, &modcache.Options{Retain: forget, OnEvent: func(e modcache.Event) {
			if e.Kind == modcache.EventMiss {
				reasons = append(reasons, e.Reason)
				require.ErrorContains(t, e.Err, `made by engine "wazero of yesterday"`)
			}
		}})
		requireRuns(t, w, c, chainWasm, chainWant)
		require.Equal(t, []modcache.Reason{modcache.ReasonStale}, reasons)
	}
}

// The identity is the same with and without a Cache, unless Options say otherwise.
func TestCacheEngineID(t *testing.T) {
	id, err := modcache.EngineID()
	require.NoError(t, err)
	require.NotEmpty(t, id)
	require.LessOrEqual(t, len(id), 255)
	require.Equal(t, id, newCache(t, &storetest.Fake{}, nil).EngineID())
	require.Equal(t, "mine", newCache(t, &storetest.Fake{}, &modcache.Options{EngineID: "mine"}).EngineID())
}

func TestCacheClosesOnlyWhatOpenOpened(t *testing.T) {
	d := openDisk(t, t.TempDir()+"/own", nil)
	c, err := modcache.New(d, nil)
	require.NoError(t, err)
	require.Same(t, d, c.Store())
	require.NoError(t, c.Close(bg))
	_, _, err = d.Get(bg, modcache.Key{1})
	require.NoError(t, err)

	c, err = modcache.Open(t.TempDir()+"/opened", nil)
	require.NoError(t, err)
	require.NoError(t, c.Close(bg))
	_, _, err = c.Store().Get(bg, modcache.Key{1})
	require.ErrorIs(t, err, modcache.ErrClosed)
	require.ErrorIs(t, c.Flush(bg), modcache.ErrClosed)
}

// A drop-in in the middle of a compile may outlive the Cache's store.
func TestCacheCloseDuringACompile(t *testing.T) {
	for range 20 {
		c, err := modcache.Open(t.TempDir()+"/c", &modcache.Options{Retain: forget})
		require.NoError(t, err)
		done := make(chan error)
		go func() {
			for i := range 5 {
				if _, err := ways[0].Run(c, wasmtest.Const(int32(i))); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		require.NoError(t, c.Close(bg))
		require.NoError(t, <-done)
	}
}

// Where wazero interprets, nothing is cached, and everything works.
func TestCacheWhereWazeroInterprets(t *testing.T) {
	s := &storetest.Fake{}
	var seen witness
	c := newCache(t, s, seen.Options(modcache.Options{}))
	config := wazero.NewRuntimeConfigInterpreter()
	for range 2 {
		ours, err := c.NewRuntime(bg, config)
		require.NoError(t, err)
		plain := wazero.NewRuntimeWithConfig(bg, config.WithCompilationCache(c.CompilationCache()))
		for _, r := range []wazero.Runtime{ours, plain} {
			got, err := cachetest.Run(r, chainWasm)
			require.NoError(t, err)
			require.EqualValues(t, chainWant, got)
			require.NoError(t, r.Close(bg))
		}
	}
	require.Zero(t, s.Calls().Get)
	require.NotEmpty(t, seen.Saw(modcache.EventDegraded))
	require.LessOrEqual(t, len(seen.Saw(modcache.EventDegraded)), 2, "said once for each feature")
}

// fickle is an error whose methods panic from some call on.
type fickle struct{ left *atomic.Int64 }

func (f fickle) sound() {
	if f.left.Add(-1) < 0 {
		panic("injected")
	}
}

func (f fickle) Error() string {
	f.sound()
	return "fickle"
}

func (f fickle) Unwrap() error {
	f.sound()
	return nil
}

func (f fickle) Is(error) bool {
	f.sound()
	return false
}

func (f fickle) As(any) bool {
	f.sound()
	return false
}

// TestCacheOfErrorsThatPanicLater compiles whatever the errors of a store do, and whenever they do it.
func TestCacheOfErrorsThatPanicLater(t *testing.T) {
	needsCompiler(t)
	const calls = 16 // of an error's methods: more than anybody makes
	var s storetest.Fake
	var left atomic.Int64
	for what, arm := range map[string]func(){
		"get": func() {
			s.OnGet = func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
				return nil, false, fickle{&left}
			}
		},
		"read": func() {
			s.OnGet = func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
				a, ok, err := s.Below().Get(ctx, key)
				if ok {
					fails := storetest.Source{OnRead: func([]byte, int64) (int, error) { return 0, fickle{&left} }}
					a = modcache.NewArtifactFrom(fails, a.Size(), a.Info())
				}
				return a, ok, err
			}
		},
		"add": func() {
			s.OnAdd = func(context.Context, modcache.Key, *modcache.Artifact) error { return fickle{&left} }
		},
	} {
		for n := range int64(calls) {
			for _, store := range []modcache.Store{&s, modcache.NewLayered(nil, modcache.Layer{Store: &s})} {
				s.Heal()
				arm()
				left.Store(n)
				c := newCache(t, store, &modcache.Options{SmallModules: -1})
				r := newRuntime(t, c, nil)
				compile(t, r, wasmtest.Sum(5, 0))
				require.NoError(t, r.Close(bg))
				got, err := runStub(t, bg, c.CompilationCache(), wazero.NewRuntimeConfig(), wasmtest.Sum(5, 0))
				require.NoError(t, err, "%s: the drop-in, at call %d", what, n)
				require.EqualValues(t, 15, got)
				require.NoError(t, c.Close(bg))
			}
		}
	}
}

// TestCacheOptionsOfAnySize changes nothing of what a compile gives, whatever number an option is, nor the stores.
func TestCacheOptionsOfAnySize(t *testing.T) {
	for option := range sizes[modcache.Options] {
		runsAllWays(t, openCache(t, t.TempDir(), option))
	}
	for option := range sizes[modcache.DiskOptions] {
		runsAllWays(t, openCache(t, t.TempDir(), &modcache.Options{Disk: *option}))
	}
	for option := range sizes[modcache.MemoryOptions] {
		runsAllWays(t, newCache(t, modcache.NewMemory(option), nil))
	}
	for option := range sizes[modcache.LayeredOptions] {
		l := modcache.NewLayered(option, modcache.Layer{Store: modcache.NewMemory(nil)}, modcache.Layer{Store: &storetest.Fake{}})
		runsAllWays(t, newCache(t, l, nil))
		require.NoError(t, l.Close())
	}
	for option := range sizes[modcache.SlotOptions[int]] {
		table := modcache.NewSlotTable(option)
		h, err := table.Insert(7)
		require.NoError(t, err)
		v, ok := table.Get(h)
		require.True(t, ok)
		require.Equal(t, 7, v)
	}
}

func runsAllWays(t *testing.T, c *modcache.Cache) {
	t.Helper()
	for _, w := range ways {
		requireRuns(t, w, c, chainWasm, chainWant)
	}
}

// sizes yields options of which one number is very large or small.
func sizes[T any](yield func(*T) bool) {
	for i := range reflect.TypeFor[T]().NumField() {
		for _, n := range []int64{math.MaxInt64, math.MinInt64, -1, 1, math.MaxInt32} {
			var o T
			f := reflect.ValueOf(&o).Elem().Field(i)
			if !f.CanInt() || !f.CanSet() || f.OverflowInt(n) {
				continue
			}
			f.SetInt(n)
			if !yield(&o) {
				return
			}
		}
	}
}
