package modcache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestRuntimeModulesThatDifferInBodies loads modules whose stubs would be the same but for
// what names them, in two runtimes and at once. Stubs of large ones are begun before
// that is known.
func TestRuntimeModulesThatDifferInBodies(t *testing.T) {
	for _, s := range []struct {
		name    string
		modules int32
		padding []byte
	}{
		{"small", 100, nil},
		{"large", 20, wasmtest.CustomSection("padding", make([]byte, 300<<10))},
	} {
		t.Run(s.name, func(t *testing.T) {
			var modules [][]byte
			for i := range s.modules {
				modules = append(modules, append(wasmtest.Const(1000+i), s.padding...))
			}
			c := warmCache(t, nil, nil, modules...)
			a, b := newRuntime(t, c, nil), newRuntime(t, c, nil)
			var wg sync.WaitGroup
			for _, r := range []*modcache.Runtime{a, b} {
				for i, wasm := range modules {
					wg.Go(func() {
						wasm = bytes.Clone(wasm)
						cm := compile(t, r, wasm)
						clear(wasm)
						require.EqualValues(t, 1000+i, call(t, r, cm))
						t.Cleanup(func() { runtime.KeepAlive(cm) }) // else it may be loaded again
					})
				}
			}
			wg.Wait()
			require.Zero(t, c.Metrics().Compiles)
			require.EqualValues(t, s.modules, c.Metrics().Stubbed)
		})
	}
}

// faultyReader is the source of an artifact that fails in a way of the test's
// choosing at one of its reads.
type faultyReader struct {
	b      []byte
	reads  atomic.Int32
	at     int32
	fault  func(p []byte) (int, error)
	closed atomic.Bool
}

func (f *faultyReader) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, f.b[min(off, int64(len(f.b))):])
	if f.reads.Add(1)-1 == f.at {
		m, err := f.fault(p[:n])
		clear(p[m:])
		return m, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *faultyReader) Close() error {
	f.closed.Store(true)
	return nil
}

// TestRuntimeWhoseArtifactVanishes fails each read of an artifact that was there a moment ago,
// in all ways that a file or a server has. The module must come out right each time, having
// been compiled, and what is merely unreadable must stay where it is.
func TestRuntimeWhoseArtifactVanishes(t *testing.T) {
	needsCompiler(t)
	wasm := wasmtest.Sum(200, 3)
	cold := &storetest.Fake{}
	require.NoError(t, newCache(t, cold, nil).Warm(bg, nil, modcache.NewModule(wasm)))
	errGone := errors.New("stale file handle")
	for name, test := range map[string]struct {
		fault  func(p []byte) (int, error)
		damage bool
	}{
		"error":          {func([]byte) (int, error) { return 0, errGone }, false},
		"error and data": {func(p []byte) (int, error) { return len(p) / 2, errGone }, false},
		"corrupt":        {func([]byte) (int, error) { return 0, fmt.Errorf("%w: block 3", modcache.ErrCorrupt) }, true},
		"unauthentic":    {func([]byte) (int, error) { return 0, modcache.ErrAuth }, true},
		"early end":      {func(p []byte) (int, error) { return len(p) / 2, io.EOF }, false},
		"panic":          {func([]byte) (int, error) { panic("the disk is on fire") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			for at := int32(0); ; at++ {
				var last *faultyReader
				s := &storetest.Fake{}
				for _, key := range cold.Keys() {
					s.Set(key, cold.Entry(key))
				}
				s.OnGet = func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
					a, ok, err := s.Below().Get(ctx, key)
					if !ok || err != nil {
						return nil, false, err
					}
					b, err := a.Bytes()
					last = &faultyReader{b: b, at: at, fault: test.fault}
					return modcache.NewArtifactFrom(last, a.Size(), a.Info()), true, err
				}
				c := newCache(t, s, nil)
				r := newRuntime(t, c, nil)
				require.EqualValues(t, 200*201/2+3, call(t, r, compile(t, r, wasm)))
				require.True(t, last.closed.Load(), "the artifact was left open")
				m := c.Metrics()
				if last.reads.Load() <= at {
					require.EqualValues(t, 1, m.Hits)
					require.GreaterOrEqual(t, at, int32(2), "the last byte, then the whole")
					return
				}
				require.EqualValues(t, 1, m.Compiles, "read %d", at)
				require.Zero(t, m.Hits)
				if test.damage {
					require.EqualValues(t, 1, m.Corrupt)
					require.Equal(t, 1, s.Calls().Delete)
				} else {
					require.EqualValues(t, 1, m.StoreErrors)
					require.Zero(t, s.Calls().Delete)
				}
			}
		})
	}
}

// TestRuntimeWhoseArtifactIsWrong flips bits and cuts. The store knows nothing, or lies about
// having verified it.
func TestRuntimeWhoseArtifactIsWrong(t *testing.T) {
	needsCompiler(t)
	wasm := wasmtest.Sum(30, 3)
	cold := &storetest.Fake{}
	require.NoError(t, newCache(t, cold, nil).Warm(bg, nil, modcache.NewModule(wasm)))
	rng := rand.New(rand.NewPCG(1, 2))
	for _, key := range cold.Keys() {
		good := cold.Entry(key)
		code, err := good.Bytes()
		require.NoError(t, err)
		for i := range 150 {
			bad := slices.Clone(code)
			if i%3 == 0 {
				bad = bad[:rng.IntN(len(bad))]
			} else {
				bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
			}
			s := &storetest.Fake{}
			s.Set(key, modcache.NewArtifact(bad, good.Info()))
			c := newCache(t, s, nil)
			r := newRuntime(t, c, nil)
			require.EqualValues(t, 30*31/2+3, call(t, r, compile(t, r, wasm)))
			require.EqualValues(t, 1, c.Metrics().Corrupt)
			require.EqualValues(t, 1, c.Metrics().Compiles)
			healed, err := s.Entry(key).Bytes()
			require.NoError(t, err)
			require.Equal(t, code[:len(code)-32], healed[:len(healed)-32], "the bad entry was not replaced")
			require.NoError(t, r.Close(bg))
			require.NoError(t, c.Close(bg))
		}
	}
}

// TestRuntimeWhoseArtifactsAreSwapped gives each module the other's.
func TestRuntimeWhoseArtifactsAreSwapped(t *testing.T) {
	s := &storetest.Fake{}
	cold := newCache(t, s, nil)
	r := newRuntime(t, cold, nil)
	one, two := modcache.NewModule(wasmtest.Const(1)), modcache.NewModule(wasmtest.Const(2))
	require.NoError(t, cold.Warm(bg, nil, one, two))
	first, second := s.Entry(r.Key(one)), s.Entry(r.Key(two))
	s.Set(r.Key(one), second)
	s.Set(r.Key(two), first)

	c := newCache(t, s, nil)
	r = newRuntime(t, c, nil)
	require.EqualValues(t, 1, call(t, r, compile(t, r, one.Bytes())))
	require.EqualValues(t, 2, call(t, r, compile(t, r, two.Bytes())))
	require.EqualValues(t, 2, c.Metrics().Corrupt)
}

// TestRuntimeWhoseStoreFails in every operation, always.
func TestRuntimeWhoseStoreFails(t *testing.T) {
	for name, fail := range map[string]func() error{
		"errors": func() error { return errors.New("no route to host") },
		"panics": func() error { panic("nil map") },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t, &storetest.Fake{
				OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) { return nil, false, fail() },
				OnAdd: func(context.Context, modcache.Key, *modcache.Artifact) error { return fail() },
			}, nil)
			r := newRuntime(t, c, nil)
			for range 2 {
				compiled := compile(t, r, wasmtest.Const(1))
				require.EqualValues(t, 1, call(t, r, compiled))
				require.NoError(t, compiled.Close(bg))
			}
			require.EqualValues(t, 1, c.Metrics().Compiles)
			require.EqualValues(t, 2, c.Metrics().StoreErrors)
			require.Error(t, c.Warm(bg, nil, modcache.NewModule(wasmtest.Const(1))), "the store has nothing")
		})
	}
}

// TestRuntimeLeaksNothingForDamagedEntries that stay, because nobody may delete them: wazero doesn't
// unmap what it began to read.
func TestRuntimeLeaksNothingForDamagedEntries(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: mappings are measured in /proc")
	}
	if cachetest.RaceEnabled {
		t.Skip("SKIPPED: a module that is large enough takes half a minute, and a leak shows without the race detector")
	}
	needsCompiler(t)
	dir := t.TempDir()
	m := modcache.NewModule(wasmtest.Sum(20_000, 0))
	c, err := modcache.Open(dir, nil)
	require.NoError(t, err)
	require.NoError(t, c.Warm(bg, nil, m))
	require.NoError(t, c.Close(bg))
	size := int64(0)
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && len(b) > 1<<20 {
			size = int64(len(b))
			b[len(b)/4*3] ^= 1
			err = os.WriteFile(path, b, 0o600)
		}
		return err
	}))
	require.Positive(t, size, "the entry is too small")
	c, err = modcache.Open(dir, &modcache.Options{ReadOnly: true, Retain: -1})
	require.NoError(t, err)
	defer c.Close(bg)
	const loads = 8
	load := func() {
		r, err := c.NewRuntime(bg, nil)
		require.NoError(t, err)
		cm, err := r.Compile(bg, m)
		require.NoError(t, err)
		require.NoError(t, cm.Close(bg))
		require.NoError(t, r.Close(bg))
	}
	load()
	grown := int64(0)
	for range 10 { // what leaks grows in each round; the stack of a new thread, or what waits for a finalizer, doesn't
		before := writable(t)
		for range loads {
			load()
		}
		runtime.GC()
		if grown = writable(t) - before; grown < loads/2*size {
			break
		}
	}
	require.Less(t, grown, loads/2*size)
	require.Zero(t, c.Metrics().Hits)
}

// writable returns the bytes of mappings that can be written to and aren't Go's heap.
func writable(t *testing.T) (n int64) {
	b, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		var from, to uint64
		var mode string
		_, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode)
		require.NoError(t, err)
		if from > 0x7000_0000_0000 && strings.HasPrefix(mode, "rw") {
			n += int64(to - from)
		}
	}
	return n
}

// TestRuntimeStoresWhileItLoads: storing new code and loading it go on side by side, and the module comes when both have ended.
func TestRuntimeStoresWhileItLoads(t *testing.T) {
	needsCompiler(t)
	loading, store := make(chan struct{}), &storetest.Fake{}
	loads := sync.OnceFunc(func() { close(loading) })
	store.OnAdd = func(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
		<-loading
		return store.Below().Add(ctx, key, a)
	}
	c := newCache(t, store, &modcache.Options{Trace: func(ctx context.Context, s modcache.Step) (context.Context, func(modcache.StepEnd)) {
		if s.Kind == modcache.StepLoad {
			loads()
		}
		return ctx, nil
	}})
	m := modcache.NewModule(wasmtest.Const(7))
	r := newRuntime(t, c, nil)
	cm, err := r.Compile(bg, m)
	loads()
	require.NoError(t, err)
	require.EqualValues(t, 7, call(t, r, cm))
	require.NotNil(t, store.Entry(r.Key(m)), "it is there on return")
	require.Zero(t, c.Metrics().StoreErrors, "the store waited in vain")
}

// TestRuntimeStoredIsVerified: a large artifact whose code is damaged isn't stored, and a stub of it stands for what is compiled anew.
func TestRuntimeStoredIsVerified(t *testing.T) {
	needsCompiler(t)
	m, s := modcache.NewModule(wasmtest.Sum(8000, 0)), &storetest.Fake{}
	first := newCache(t, s, nil)
	require.NoError(t, first.Warm(bg, nil, m))
	want, err := cachetest.RunPlain(m.Bytes())
	require.NoError(t, err)
	key := newRuntime(t, first, nil).Key(m)
	b, err := s.Entry(key).Bytes()
	require.NoError(t, err)
	require.Greater(t, len(b), 256<<10)
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	for _, stub := range []bool{false, true} {
		s.Set(key, modcache.NewArtifact(b, s.Entry(key).Info()))
		c := newCache(t, s, nil)
		if !stub {
			ok, err := newRuntime(t, c, nil).Stored(bg, m)
			require.NoError(t, err)
			require.False(t, ok)
			s.Set(key, modcache.NewArtifact(b, modcache.Info{Engine: c.EngineID()}))
			continue
		}
		wasm, err := c.Stub(bg, wazero.NewRuntimeConfig(), m)
		require.NoError(t, err)
		requireRuns(t, ways[0], c, wasm, int(want))
	}
}
