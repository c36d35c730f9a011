package modcache

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/internal/wazerohook"
)

// nothing is a store that keeps nothing.
type nothing struct{}

func (nothing) Get(context.Context, Key) (*Artifact, bool, error) { return nil, false, nil }
func (nothing) Add(context.Context, Key, *Artifact) error         { return nil }
func (nothing) Delete(context.Context, Key) error                 { return nil }
func (nothing) Flush(context.Context) error                       { return nil }
func (nothing) Metrics() Metrics                                  { return Metrics{} }

func internalRuntime(t *testing.T, o *Options) *Runtime {
	t.Helper()
	c, err := New(nothing{}, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
	r, err := c.NewRuntime(context.Background(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close(context.Background())) })
	if r.e == nil {
		t.Skip("wazero has no compiler for this platform")
	}
	return r
}

func run(t *testing.T, r *Runtime, wasm []byte) (uint64, error) {
	t.Helper()
	ctx := context.Background()
	mod, err := r.InstantiateWithConfig(ctx, wasm, wazero.NewModuleConfig().WithName(""))
	require.NoError(t, err)
	defer mod.Close(ctx)
	results, err := mod.ExportedFunction("f").Call(ctx)
	if err != nil {
		return 0, err
	}
	return results[0], nil
}

// TestGuestThatIsAStub runs a guest with the very bytes under which the engine
// knows another module, before and after that one.
func TestGuestThatIsAStub(t *testing.T) {
	for name, o := range map[string]*Options{"stubs": nil, "no retain": {Retain: -1}} {
		for _, guestFirst := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				r := internalRuntime(t, o)
				wasm := wasmtest.Const(7)
				m := NewModule(wasm)
				guest, _, stubbed := r.e.image(r.Key(m), &source{sum: m.sum, wasm: wasm})
				require.True(t, stubbed)
				for range 2 {
					if guestFirst {
						_, err := run(t, r, guest)
						require.ErrorContains(t, err, "unreachable")
					}
					got, err := run(t, r, wasm)
					require.NoError(t, err)
					require.EqualValues(t, 7, got)
					_, err = run(t, r, guest)
					require.ErrorContains(t, err, "unreachable")
				}
			})
		}
	}
}

// TestStubsOfCaches differ: the secret is each Cache's own.
func TestStubsOfCaches(t *testing.T) {
	a, b := internalRuntime(t, nil), internalRuntime(t, nil)
	m := NewModule(wasmtest.Const(7))
	require.Equal(t, a.Key(m), b.Key(m))
	one, _, _ := a.e.image(a.Key(m), &source{wasm: m.wasm})
	two, _, _ := b.e.image(b.Key(m), &source{wasm: m.wasm})
	require.NotEqual(t, one, two)
}

// TestPrivateEngineIsNoCache: whatever nobody announced fails, so that a stub is
// never compiled.
func TestPrivateEngineIsNoCache(t *testing.T) {
	r := internalRuntime(t, nil)
	m := NewModule(wasmtest.Const(7))
	stub, _, _ := r.e.image(r.Key(m), &source{wasm: m.wasm})
	for _, wasm := range [][]byte{stub, m.wasm} {
		_, err := r.inner.CompileModule(context.Background(), wasm)
		require.ErrorIs(t, err, errUnexpected)
	}
	var key [32]byte
	require.ErrorIs(t, r.e.expect.Delete(key), errUnexpected)
	require.ErrorIs(t, r.e.expect.Add(key, nil), errUnexpected)

	done := r.e.expect.announce(func() wazerohook.WazeroKey { return key }, nil)
	_, ok, err := r.e.expect.Get(key)
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, r.e.expect.Add(key, nil))
	require.NoError(t, done())
	_, _, err = r.e.expect.Get(key)
	require.ErrorIs(t, err, errUnexpected)
}

// TestFreshCodeThatDoesNotLoad ends in a compile in full, and is reported.
func TestFreshCodeThatDoesNotLoad(t *testing.T) {
	var degraded []error
	r := internalRuntime(t, &Options{OnEvent: func(e Event) {
		if e.Kind == EventDegraded {
			degraded = append(degraded, e.Err)
		}
	}})
	format := r.c.wazero
	broken := *format
	broken.Format.Version += "?"
	r.c.wazero = &broken
	got, err := run(t, r, wasmtest.Const(7))
	require.NoError(t, err)
	require.EqualValues(t, 7, got)
	require.Len(t, degraded, 1)
	require.ErrorContains(t, degraded[0], "loading of fresh code")

	got, err = run(t, r, wasmtest.Const(7)) // from memory
	require.NoError(t, err)
	require.EqualValues(t, 7, got)
	require.EqualValues(t, 1, r.c.Metrics().Compiles)
}

// TestScratchCodeIsCounted: a cold compile leaves a second copy of the code behind,
// which waits for the collector like one that was evicted.
func TestScratchCodeIsCounted(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	r := internalRuntime(t, nil)
	_, err := run(t, r, wasmtest.Const(7))
	require.NoError(t, err)
	require.Positive(t, r.c.idle.unfreed.Load())
}

// TestRetainedCodeForgetsRuntimes that are closed, or a program that makes one per
// request would keep them all.
func TestRetainedCodeForgetsRuntimes(t *testing.T) {
	r := internalRuntime(t, nil)
	_, err := run(t, r, wasmtest.Const(7))
	require.NoError(t, err)
	next, err := r.c.NewRuntime(context.Background(), nil)
	require.NoError(t, err)
	_, err = run(t, next, wasmtest.Const(7))
	require.NoError(t, err)
	h := r.e.hot[r.Key(NewModule(wasmtest.Const(7)))]
	require.Len(t, h.modules, 2)
	require.NoError(t, r.Close(context.Background())) // whose module is the anchor
	require.NoError(t, next.Close(context.Background()))
	require.Empty(t, h.modules)
	require.Empty(t, r.modules)
	require.Zero(t, h.users)
	require.NotNil(t, h.idle)
}

// TestRuntimeClosesBehindALoad, before those who waited for it have their handles.
func TestRuntimeClosesBehindALoad(t *testing.T) {
	ctx := context.Background()
	r := internalRuntime(t, &Options{Retain: -1})
	m := NewModule(wasmtest.Const(7))
	compiled, err := r.load(ctx, func() {}, r.Key(m), &source{sum: m.sum, wasm: m.wasm})
	require.NoError(t, err)
	require.NoError(t, r.Close(ctx))
	free := compiled.grant(3)
	require.Len(t, free, 1, "the code is in use by nobody")
	closeAll(ctx, free)
	h := &handle{CompiledModule: compiled.cm, m: compiled}
	_, err = r.InstantiateModule(ctx, h, wazero.NewModuleConfig())
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, h.Close(ctx))
	require.Zero(t, compiled.h.users)
}

// TestUnknownKeys: without a formula for wazero's keys, a Runtime is a plain one over
// the drop-in.
func TestUnknownKeys(t *testing.T) {
	r := internalRuntime(t, nil)
	unknown := *r.c.wazero
	unknown.KeysKnown = false
	r.c.wazero = &unknown
	plain, err := r.c.NewRuntime(context.Background(), nil)
	require.NoError(t, err)
	defer plain.Close(context.Background())
	require.Zero(t, plain.Key(NewModule(nil)))
	got, err := run(t, plain, wasmtest.Const(7))
	require.NoError(t, err)
	require.EqualValues(t, 7, got)
	require.EqualValues(t, 1, r.c.Metrics().Misses, "the drop-in was not asked")
}

// TestDiscardedCodeIsCollected counts what only the collector can free, in a
// program that makes no garbage else.
func TestDiscardedCodeIsCollected(t *testing.T) {
	var l retained
	for range 10 {
		l.discard(slack / 4)
	}
	require.Greater(t, l.unfreed.Load(), int64(slack))
	for i := 0; l.unfreed.Load() > slack; i++ {
		require.Less(t, i, 1000, "the collector ran and nothing was taken off the count")
		l.collect()
		runtime.Gosched()
	}
}
