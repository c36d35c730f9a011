package modcache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// journal is a listener factory that notes each call that it sees.
type journal struct {
	only string // name of the one function to listen to; all if empty
	mu   sync.Mutex
	seen []string
}

func (j *journal) NewFunctionListener(def api.FunctionDefinition) experimental.FunctionListener {
	if j.only != "" && def.DebugName() != j.only {
		return nil
	}
	return experimental.FunctionListenerFunc(func(_ context.Context, _ api.Module, def api.FunctionDefinition, _ []uint64, stack experimental.StackIterator) {
		j.mu.Lock()
		defer j.mu.Unlock()
		depth := 0
		for stack.Next() {
			depth++
		}
		j.seen = append(j.seen, fmt.Sprint(def.DebugName(), " at depth ", depth))
	})
}

func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	seen := j.seen
	j.seen = nil
	return seen
}

func withListeners(ctx context.Context, j *journal) context.Context {
	return experimental.WithFunctionListenerFactory(ctx, j)
}

// TestRuntimeListenersAreOnesOwn compiles the same bytes with different listeners and
// with none, in one runtime, in two, and in two at once. Everybody's listeners hear what
// plain wazero's do, and nobody else's.
func TestRuntimeListenersAreOnesOwn(t *testing.T) {
	wasm := wasmtest.Sum(3, 0)
	listen := func(j *journal, r wazero.Runtime) []string {
		compiled, err := r.CompileModule(withListeners(bg, j), wasm)
		require.NoError(t, err)
		defer compiled.Close(bg)
		require.EqualValues(t, 6, call(t, r, compiled))
		return j.take()
	}
	plain := func(only string) []string {
		r := wazero.NewRuntime(bg)
		defer r.Close(bg)
		return listen(&journal{only: only}, r)
	}
	wantAll, wantOne := plain(""), plain(".$1")
	require.Len(t, wantAll, 3)
	require.Len(t, wantOne, 1)

	s := &storetest.Fake{}
	c := newCache(t, s, nil)
	a, b := newRuntime(t, c, nil), newRuntime(t, c, nil)
	for range 2 {
		require.EqualValues(t, 6, call(t, a, compile(t, a, wasm)))
		for _, r := range []*modcache.Runtime{a, b} {
			require.Equal(t, wantAll, listen(&journal{}, r))
			require.Equal(t, wantOne, listen(&journal{only: ".$1"}, r))
			require.Equal(t, wantAll, listen(&journal{}, r))
			require.Empty(t, listen(&journal{only: "nobody"}, r))
		}
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			r := []*modcache.Runtime{a, b}[i%2]
			if i%4 < 2 {
				require.Equal(t, wantAll, listen(&journal{}, r))
			} else {
				require.Equal(t, wantOne, listen(&journal{only: ".$1"}, r))
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, s.Len(), "compiles with listeners are nothing to keep")
	require.EqualValues(t, 1, c.Metrics().Compiles)
}

// TestRuntimeListenersShowTheSameModule compares all that can be asked of a module, and
// the errors of those that are none.
func TestRuntimeListenersShowTheSameModule(t *testing.T) {
	config := wazero.NewRuntimeConfig().WithCustomSections(true)
	plain := wazero.NewRuntimeWithConfig(bg, config)
	defer plain.Close(bg)
	c := newCache(t, &storetest.Fake{}, nil)
	r := newRuntime(t, c, config)

	var m wasmtest.Module
	m.Memory(1)
	m.Func(m.Type(nil, []byte{wasmtest.I32}), "f", 0x41, 1)
	m.Custom("first", []byte("content"))
	m.Custom("modcache", nil)
	m.Custom("modcache.nonce", []byte("the guest's own"))
	good := m.Bytes()
	var ill wasmtest.Module
	ill.Func(ill.Type(nil, []byte{wasmtest.I32}), "f", 0x42, 1)
	for name, wasm := range map[string][]byte{
		"good": good, "empty": nil, "short": good[:5], "header": good[:8], "version": []byte("\x00asm\x02\x00\x00\x00"),
		"cut": good[:len(good)-3], "ill-typed": ill.Bytes(), "trailing": append(good[:len(good):len(good)], 0),
	} {
		want, wantErr := plain.CompileModule(withListeners(bg, &journal{}), wasm)
		got, err := r.CompileModule(withListeners(bg, &journal{}), wasm)
		require.Equal(t, wantErr, err, name)
		if err == nil {
			require.Equal(t, describe(want), describe(got), name)
			require.Equal(t, describe(want), describe(compile(t, r, wasm)), name)
		}
	}
}

// TestRuntimeListenersGoWithTheRuntime: nothing but the runtime knows these modules, so
// they go with it at the latest.
func TestRuntimeListenersGoWithTheRuntime(t *testing.T) {
	c := newCache(t, &storetest.Fake{}, nil)
	r := newRuntime(t, c, nil)
	compiled, err := r.CompileModule(withListeners(bg, &journal{}), wasmtest.Const(1))
	require.NoError(t, err)
	mod, err := r.InstantiateModule(bg, compiled, anonymous())
	require.NoError(t, err)
	require.NoError(t, r.Close(bg))
	require.True(t, mod.IsClosed())
	_, err = r.InstantiateModule(bg, compiled, anonymous())
	require.ErrorIs(t, err, modcache.ErrClosed)
	require.NoError(t, compiled.Close(bg))
	require.NoError(t, compiled.Close(bg))
	_, err = r.CompileModule(withListeners(bg, &journal{}), wasmtest.Const(1))
	require.ErrorIs(t, err, modcache.ErrClosed)

	need := newCache(t, &storetest.Fake{}, &modcache.Options{RequireHit: true})
	_, err = newRuntime(t, need, nil).CompileModule(withListeners(bg, &journal{}), wasmtest.Const(1))
	require.ErrorIs(t, err, modcache.ErrMiss)
}

// TestRuntimeListenersMayCompile other modules, with listeners and without, though one compile at a time is allowed.
func TestRuntimeListenersMayCompile(t *testing.T) {
	c := newCache(t, &storetest.Fake{}, &modcache.Options{MaxCompiles: 1})
	r := newRuntime(t, c, nil)
	factory := experimental.FunctionListenerFactoryFunc(func(def api.FunctionDefinition) experimental.FunctionListener {
		for ctx, want := range map[context.Context]int32{bg: 2, withListeners(bg, &journal{}): 3} {
			compiled, err := r.CompileModule(ctx, wasmtest.Const(want))
			require.NoError(t, err)
			require.EqualValues(t, want, call(t, r, compiled))
			require.NoError(t, compiled.Close(bg))
		}
		return nil
	})
	compiled, err := r.CompileModule(experimental.WithFunctionListenerFactory(bg, factory), wasmtest.Const(1))
	require.NoError(t, err)
	require.EqualValues(t, 1, call(t, r, compiled))

	ctx, cancel := context.WithCancel(withListeners(bg, &journal{}))
	cancel()
	_, err = r.CompileModule(ctx, wasmtest.Const(1))
	require.ErrorIs(t, err, context.Canceled)
}

// TestWhatIsStoredHasNoListeners: a caller may have some in its context, as a host that traces all guests has.
func TestWhatIsStoredHasNoListeners(t *testing.T) {
	needsCompiler(t)
	j := &journal{}
	listening := withListeners(bg, j)
	m := modcache.NewModule(wasmtest.Sum(40, 1))
	for name, store := range map[string]func(*modcache.Cache) error{
		"Warm":    func(c *modcache.Cache) error { return c.Warm(listening, nil, m) },
		"Prepare": func(c *modcache.Cache) error { return (<-c.Prepare(listening, nil, m)).Err },
		"Stub":    func(c *modcache.Cache) error { _, err := c.Stub(listening, nil, m); return err },
		"Template": func(c *modcache.Cache) error {
			template, err := newRuntime(t, c, nil).NewTemplate(listening, m, nil)
			if err != nil {
				return err
			}
			mod, err := template.Instantiate(bg, nil)
			if err != nil {
				return err
			}
			_, err = mod.ExportedFunction("f").Call(bg)
			j.take() // its code is nobody else's
			return errors.Join(err, template.Close(bg))
		},
	} {
		for _, held := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", name, held), func(t *testing.T) {
				s := modcache.NewMemory(nil)
				c := newCache(t, s, nil)
				if held { // in memory, and not in the store any more
					_, err := newRuntime(t, c, nil).Compile(bg, m)
					require.NoError(t, err)
					s.Resize(1)
					s.Resize(1 << 20)
				}
				require.NoError(t, store(c))
				require.NoError(t, store(c), "again")
				require.Zero(t, c.Metrics().Corrupt)
				other := newCache(t, s, &modcache.Options{RequireHit: name != "Template"})
				requireRuns(t, ways[1], other, wasmtest.Sum(40, 1), 40*41/2+1)
				require.Empty(t, j.take())
			})
		}
	}
}
