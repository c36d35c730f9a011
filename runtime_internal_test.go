package modcache

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache/internal/loaded"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/internal/wazerocache"
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
	return internalRuntimeOver(t, nothing{}, o)
}

func internalRuntimeOver(t *testing.T, s Store, o *Options) *Runtime {
	t.Helper()
	c, err := New(s, o)
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

// TestRuntimeWithAGuestThatIsAStub runs a guest with the very bytes under which the engine
// knows another module, before and after that one.
func TestRuntimeWithAGuestThatIsAStub(t *testing.T) {
	for name, o := range map[string]*Options{"stubs": nil, "no retain": {Retain: -1}} {
		for _, guestFirst := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				r := internalRuntime(t, o)
				wasm := wasmtest.Const(7)
				m := NewModule(wasm)
				guest, stubbed, err := r.e.source(m).image()
				require.NoError(t, err)
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

// TestRuntimeStubsDifferByCache differ: the secret is each Cache's own.
func TestRuntimeStubsDifferByCache(t *testing.T) {
	a, b := internalRuntime(t, nil), internalRuntime(t, nil)
	m := NewModule(wasmtest.Const(7))
	require.Equal(t, a.Key(m), b.Key(m))
	one, _, _ := a.e.source(m).image()
	two, _, _ := b.e.source(m).image()
	require.NotEqual(t, one, two)
}

// TestRuntimeBytesThatChange changes each byte of a module when its fingerprint has been taken: the code that is found by
// that must not get other types than those that it was compiled for.
func TestRuntimeBytesThatChange(t *testing.T) {
	r := internalRuntime(t, nil)
	const header, typ, fun, mem, body = "\x00asm\x01\x00\x00\x00", "\x01\x04\x01\x60\x00\x00", "\x03\x02\x01\x00", "\x05\x03\x01\x00\x01", "\x0a\x04\x01\x02\x00\x0b"
	for name, original := range map[string][]byte{
		"functions": wasmtest.Const(7),
		"data":      []byte(header + typ + fun + mem + body + "\x0b\x0f\x02\x00\x41\x00\x0b\x02ab\x00\x41\x04\x0b\x02cd\x00\x03\x01xy"),
		"no stub":   []byte(header + mem),
	} {
		want, _, err := r.e.source(NewModule(bytes.Clone(original))).image()
		require.NoError(t, err)
		for i := range original {
			for _, others := range []bool{true, false} { // are about to load one of that size
				if others {
					r.e.loaded.Claim(len(original))
				}
				wasm := bytes.Clone(original)
				src, done := r.e.prepare(wasm)
				require.Equal(t, Sum(original), src.sum)
				wasm[i] ^= 0x20
				got, _, err := src.image()
				if err != nil {
					require.ErrorIs(t, err, errModified)
					require.True(t, others || name == "no stub", "%s: what was drafted before is whole", name)
				} else {
					require.Equal(t, want, got, "%s: byte %d", name, i)
				}
				done()
				r.e.loaded.Unclaim(len(original))
			}
		}
	}
}

// TestRuntimeBytesThatChangeCostNoEntry: what then doesn't fit the code isn't the code's fault.
func TestRuntimeBytesThatChangeCostNoEntry(t *testing.T) {
	const types, two, one = "\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00", "\x03\x03\x02\x00\x00\x0a\x07\x02\x02\x00\x0b\x02\x00\x0b", "\x03\x03\x01\x80\x00\x0a\x07\x01\x05\x00\x01\x01\x01\x0b"
	r := internalRuntimeOver(t, NewMemory(nil), &Options{Retain: -1, SmallModules: -1})
	cm, err := r.CompileModule(context.Background(), []byte(types+two))
	require.NoError(t, err)
	require.NoError(t, cm.Close(context.Background()))
	for what, change := range map[string]func(src *source, wasm []byte){
		"for good":       func(_ *source, wasm []byte) { copy(wasm, types+one) },
		"while outlined": func(src *source, wasm []byte) { copy(wasm, types+one); src.outline(); copy(wasm, types+two) },
	} {
		wasm := []byte(types + two)
		src, done := r.e.prepare(wasm)
		change(src, wasm)
		_, err = newLoading(r, src).run(context.Background())
		require.ErrorIs(t, err, errModified, what)
		require.Zero(t, r.c.Metrics().Corrupt, what)
		require.EqualValues(t, 1, r.c.Metrics().Store.Entries, what)
		done()
	}
}

// TestRuntimeEngineIsNoCache: whatever nobody announced fails, so that a stub is
// never compiled.
func TestRuntimeEngineIsNoCache(t *testing.T) {
	r := internalRuntime(t, nil)
	m := NewModule(wasmtest.Const(7))
	stub, _, _ := r.e.source(m).image()
	for _, wasm := range [][]byte{stub, m.wasm} {
		_, err := r.inner.CompileModule(context.Background(), wasm)
		require.ErrorIs(t, err, wazerocache.ErrUnexpected)
	}
}

// TestRuntimeWhoseFreshCodeIsStrange runs it all the same, with and without listeners, and
// reports what is off.
func TestRuntimeWhoseFreshCodeIsStrange(t *testing.T) {
	for name, test := range map[string]struct {
		change func(w *wazerohook.Wazero)
		want   string
		stored int
	}{
		"unknown layout": {func(w *wazerohook.Wazero) { w.Version += "?" }, "unknown layout", 0},
		"unknown key":    {func(w *wazerohook.Wazero) { w.CPU++ }, "loading of fresh code", 1},
	} {
		t.Run(name, func(t *testing.T) {
			var degraded []error
			stored := 0
			r := internalRuntime(t, &Options{OnEvent: func(e Event) {
				switch e.Kind {
				case EventDegraded:
					degraded = append(degraded, e.Err)
				case EventStored:
					stored++
				}
			}})
			w := *r.e.wazero
			test.change(&w)
			r.e.wazero = &w
			for range 2 { // the second time from memory
				got, err := run(t, r, wasmtest.Const(7))
				require.NoError(t, err)
				require.EqualValues(t, 7, got)
				require.EqualValues(t, 1, r.c.Metrics().Compiles)
			}
			require.Len(t, degraded, 1)
			require.ErrorContains(t, degraded[0], test.want)
			require.Equal(t, test.stored, stored)

			factory := experimental.FunctionListenerFactoryFunc(func(api.FunctionDefinition) experimental.FunctionListener { return nil })
			cm, err := r.CompileModule(experimental.WithFunctionListenerFactory(context.Background(), factory), wasmtest.Const(8))
			require.NoError(t, err)
			require.NoError(t, cm.Close(context.Background()))
		})
	}
}

// TestRuntimeCountsScratchCode: a cold compile leaves a second copy of the code behind,
// which waits for the collector like one that was evicted.
func TestRuntimeCountsScratchCode(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	r := internalRuntime(t, nil)
	r.c.loaded.Garbage = new(loaded.Garbage)
	_, err := run(t, r, wasmtest.Const(7))
	require.NoError(t, err)
	require.Positive(t, r.c.loaded.Garbage.Bytes())
}

// TestRuntimeOfUnprovenWazero: if the first compile finds that wazero doesn't do what it should, the
// Runtime is one over the drop-in from then on, whose modules run beside each other, and whose code
// is found again. It is reported once.
func TestRuntimeOfUnprovenWazero(t *testing.T) {
	ctx := context.Background()
	config := wazero.NewRuntimeConfig().WithDebugInfoEnabled(false)
	store := NewMemory(nil)
	for i, o := range []Options{{}, {}, {RequireHit: true}} {
		var degraded []error
		o.OnEvent = func(e Event) {
			if e.Kind == EventDegraded {
				degraded = append(degraded, e.Err)
			}
		}
		c, err := New(store, &o)
		require.NoError(t, err)
		defer c.Close(ctx)
		r, err := c.NewRuntime(ctx, config)
		require.NoError(t, err)
		defer r.Close(ctx)
		if r.e == nil {
			t.Skip("wazero has no compiler for this platform")
		}
		r.e.conf.CloseOnContextDone = true // so that keys are not what they should be
		var wg sync.WaitGroup
		for n := range int32(4) {
			wg.Go(func() {
				got, err := run(t, r, wasmtest.Const(n))
				assert.NoError(t, err)
				assert.EqualValues(t, n, got)
			})
		}
		wg.Wait()
		require.Len(t, degraded, 1)
		require.ErrorIs(t, degraded[0], wazerohook.ErrShape)
		m := c.Metrics()
		require.Zero(t, m.Stubbed)
		require.EqualValues(t, 4, m.Lookups)
		require.EqualValues(t, []int{0, 4, 4}[i], m.Hits)
		want := ErrUnsupportedWazero
		if o.RequireHit {
			want = ErrMiss
		}
		require.ErrorIs(t, c.Warm(ctx, config, NewModule(wasmtest.Const(100))), want)
	}
	require.EqualValues(t, 4+1, store.Metrics().Entries)
}

// TestRuntimeKeysTellFormatsApart: the same wazero calls itself by its version in a program
// and "dev" in most tests, and refuses the entries of the other. Over one directory,
// each would delete what the other stored.
func TestRuntimeKeysTellFormatsApart(t *testing.T) {
	r := internalRuntime(t, nil)
	engineKey, dropInKey := map[Key]bool{}, map[Key]bool{}
	for _, version := range []string{"dev", "v1.12.0"} {
		c, err := New(nothing{}, &Options{EngineID: "the same"})
		require.NoError(t, err)
		defer c.Close(t.Context())
		w := *r.e.wazero
		w.Version = version
		e := &engine{c: c, conf: r.e.conf, wazero: &w}
		engineKey[e.keyBase()] = true
		dropInKey[c.dropInKey(wazerohook.WazeroKey{}, version)] = true
	}
	require.Len(t, engineKey, 2)
	require.Len(t, dropInKey, 2)
}

// TestCacheWarmProvesWhatIsStored by loading it, for a module that is in memory already.
func TestCacheWarmProvesWhatIsStored(t *testing.T) {
	ctx := context.Background()
	s := NewMemory(nil)
	c, err := New(s, nil)
	require.NoError(t, err)
	defer c.Close(ctx)
	r, err := c.NewRuntime(ctx, nil)
	require.NoError(t, err)
	defer r.Close(ctx)
	if r.e == nil {
		t.Skip("wazero has no compiler for this platform")
	}
	m := NewModule(wasmtest.Const(7))
	compiled, err := r.Compile(ctx, m)
	require.NoError(t, err)
	defer compiled.Close(ctx)

	good, err := wazerocache.Compile(ctx, wazero.NewRuntimeConfig(), m.wasm, sealSize)
	require.NoError(t, err)
	for name, bad := range map[string][]byte{"no entry": []byte("code"), "other code": flipped(good)} {
		require.NoError(t, s.Delete(ctx, r.Key(m)))
		c.put(r.Key(m), bad, Info{Module: m.sum})
		require.NoError(t, c.Warm(ctx, nil, m), name)
		next, err := New(s, &Options{RequireHit: true})
		require.NoError(t, err)
		require.NoError(t, next.Warm(ctx, nil, m), name)
		require.NoError(t, next.Close(ctx))
	}
}

// flipped returns a copy with a bit of the code changed, which only its checksum shows.
func flipped(entry []byte) []byte {
	b := make([]byte, len(entry), len(entry)+sealSize)
	copy(b, entry)
	b[len(b)/2] ^= 1
	return b
}

// TestRuntimesOfManyConfigurations leave nothing behind but a bounded number of engines.
// MODCACHE_ROUNDS sets how many there are.
func TestRuntimesOfManyConfigurations(t *testing.T) {
	rounds := 200
	if s := os.Getenv("MODCACHE_ROUNDS"); s != "" {
		var err error
		rounds, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	ctx := context.Background()
	c := internalRuntime(t, nil).c
	for i := range rounds {
		r, err := c.NewRuntime(ctx, wazero.NewRuntimeConfig().WithMemoryLimitPages(uint32(i+1)))
		require.NoError(t, err)
		got, err := run(t, r, wasmtest.Const(7))
		require.NoError(t, err)
		require.EqualValues(t, 7, got)
		require.NoError(t, r.Close(ctx))
	}
	engines := 0
	c.engines.Range(func(any, any) bool { engines++; return true })
	require.LessOrEqual(t, engines, 20)
	require.LessOrEqual(t, c.Metrics().Retained, uint64(20))
}

// TestRuntimeInvalidSpellingIsAMiss for whose encoding somebody has stored code: no hold on
// that is kept, and each lookup is a hit or a miss.
func TestRuntimeInvalidSpellingIsAMiss(t *testing.T) {
	ctx := context.Background()
	s := &lent{Store: NewMemory(nil)}
	c, err := New(s, nil)
	require.NoError(t, err)
	defer c.Close(ctx)
	r, err := c.NewRuntime(ctx, nil)
	require.NoError(t, err)
	defer r.Close(ctx)
	if r.e == nil {
		t.Skip("wazero has no compiler for this platform")
	}
	wasm := bytes.Replace(wasmtest.Const(7), []byte{0x41, 7}, []byte{0x42, 7}, 1) // i64.const, where an i32 is due
	wasm = append(wasm, wasmtest.CustomSection("producers", []byte{0})...)
	key := r.e.source(NewModule(wasm)).canonical().key
	require.NotEqual(t, r.Key(NewModule(wasm)), key)
	code, err := wazerocache.Compile(ctx, wazero.NewRuntimeConfig(), wasmtest.Const(7), sealSize)
	require.NoError(t, err)
	c.put(key, code, Info{})

	_, err = r.CompileModule(ctx, wasm)
	require.ErrorContains(t, err, "invalid")
	require.EqualValues(t, 1, s.got.Load())
	require.Equal(t, s.got.Load(), s.closed.Load())
	m := c.Metrics()
	require.EqualValues(t, 1, m.Lookups)
	require.EqualValues(t, 1, m.Misses)
}

// lent is a store that counts the artifacts that it has lent.
type lent struct {
	Store
	got, closed atomic.Int64
}

func (s *lent) Get(ctx context.Context, key Key) (*Artifact, bool, error) {
	a, ok, err := s.Store.Get(ctx, key)
	if !ok {
		return a, ok, err
	}
	s.got.Add(1)
	return NewArtifactFrom(&loan{a, s}, a.Size(), a.Info()), true, nil
}

type loan struct {
	*Artifact
	s *lent
}

func (l *loan) Close() error { l.s.closed.Add(1); return nil }

// TestRuntimeAfterAShortageOfMemory: the check before a first compile is made again for the next runtime of the configuration
// if it failed for want of memory, and not if it failed for good.
func TestRuntimeAfterAShortageOfMemory(t *testing.T) {
	ctx := t.Context()
	for want, err := range map[uint64]error{
		0: fmt.Errorf("%w: another layout", wazerohook.ErrShape),
		1: fmt.Errorf("%w: compiling a probe panicked: cannot allocate memory", wazerohook.ErrShape),
	} {
		c, newErr := New(NewMemory(nil), nil)
		require.NoError(t, newErr)
		if c.unsupported != nil {
			t.Skip("NOT TESTED: checks of wazero:", c.unsupported)
		}
		runs := func(r *Runtime, wasm []byte, result uint64) {
			mod, err := r.InstantiateWithConfig(ctx, wasm, wazero.NewModuleConfig().WithName(""))
			require.NoError(t, err)
			got, err := mod.ExportedFunction("f").Call(ctx)
			require.NoError(t, err)
			require.Equal(t, []uint64{result}, got)
		}
		r, newErr := c.NewRuntime(ctx, nil)
		require.NoError(t, newErr)
		if r.e == nil {
			t.Skip("NOT TESTED: checks of wazero, which compiles nothing here")
		}
		r.e.proving.Do(func() { r.e.judge(err) })
		runs(r, wasmtest.Const(7), 7)
		next, newErr := c.NewRuntime(ctx, nil)
		require.NoError(t, newErr)
		runs(next, wasmtest.Const(8), 8)
		runs(r, wasmtest.Const(9), 9)
		require.Equal(t, want, c.Metrics().Stubbed, "%v", err)
		require.NoError(t, r.Close(ctx))
		require.NoError(t, next.Close(ctx))
		require.NoError(t, c.Close(ctx))
	}
}
