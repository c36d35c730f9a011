package modcache_test

import (
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

func TestRuntimeRequireHit(t *testing.T) {
	wasm := wasmtest.Sum(20, 0)
	c := warmCache(t, nil, &modcache.Options{RequireHit: true}, wasm)
	r := newRuntime(t, c, nil)
	require.EqualValues(t, 210, call(t, r, compile(t, r, wasm)))
	_, err := r.CompileModule(bg, wasmtest.Const(1))
	require.ErrorIs(t, err, modcache.ErrMiss)
	_, err = r.InstantiateWithConfig(bg, wasmtest.Const(1), anonymous())
	require.ErrorIs(t, err, modcache.ErrMiss)
	require.ErrorIs(t, c.Warm(bg, nil, modcache.NewModule(wasm), modcache.NewModule(wasmtest.Const(1))), modcache.ErrMiss)
	require.NoError(t, c.Warm(bg, nil, modcache.NewModule(wasm)))
	require.Zero(t, c.Metrics().Compiles)
}

func TestRuntimeReadOnly(t *testing.T) {
	s := &storetest.Fake{}
	c := newCache(t, s, &modcache.Options{ReadOnly: true})
	r := newRuntime(t, c, nil)
	require.EqualValues(t, 1, call(t, r, compile(t, r, wasmtest.Const(1))))
	require.NoError(t, c.Warm(bg, nil, modcache.NewModule(wasmtest.Const(2))))
	require.Zero(t, s.Calls().Add+s.Calls().Delete)
	require.EqualValues(t, 2, c.Metrics().Compiles)
}

// TestRuntimeMaxCompiles counts how many modules are compiled at the same time.
func TestRuntimeMaxCompiles(t *testing.T) {
	const limit = 2
	var now, most atomic.Int32
	c := newCache(t, &storetest.Fake{}, &modcache.Options{MaxCompiles: limit, OnEvent: func(e modcache.Event) {
		switch e.Kind {
		case modcache.EventCompileStarted:
			n := now.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			runtime.Gosched()
		case modcache.EventCompileFinished:
			now.Add(-1)
		}
	}})
	r := newRuntime(t, c, nil)
	var all []<-chan compiled
	for i := range int32(40) {
		all = append(all, begin(bg, r, wasmtest.Const(i)))
	}
	for _, done := range all {
		require.NoError(t, (<-done).err)
	}
	require.LessOrEqual(t, most.Load(), int32(limit))
	require.EqualValues(t, 40, c.Metrics().Compiles)
}

// TestRuntimeModifiedBytes changes a module behind its fingerprint. Nothing may be kept
// under the fingerprint of what it was.
func TestRuntimeModifiedBytes(t *testing.T) {
	s := &storetest.Fake{}
	c := newCache(t, s, nil)
	r := newRuntime(t, c, nil)
	wasm := wasmtest.Const(1)
	m := modcache.NewModule(wasm)
	copy(wasm, wasmtest.Const(2))
	_, err := r.Compile(bg, m)
	require.ErrorContains(t, err, "bytes were changed")
	require.Zero(t, s.Len())
	require.EqualValues(t, 1, call(t, r, compile(t, r, wasmtest.Const(1))))
}
