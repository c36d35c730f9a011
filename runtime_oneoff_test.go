package modcache_test

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestRuntimeOneOffs: small modules are stored at first sight until there were many; from
// then on, those that come again are.
func TestRuntimeOneOffs(t *testing.T) {
	needsCompiler(t)
	s := &storetest.Fake{}
	c := newCache(t, s, &modcache.Options{SmallModules: 2})
	r := newRuntime(t, c, nil)
	run := func(n int32) modcache.CacheMetrics {
		compiled := compile(t, r, wasmtest.Const(n))
		require.EqualValues(t, n, call(t, r, compiled))
		require.NoError(t, compiled.Close(bg))
		return c.Metrics()
	}
	run(0)
	m := run(1)
	require.Zero(t, m.Direct)
	require.Equal(t, 2, s.Len())
	require.EqualValues(t, 2, m.Retained)
	gets := s.Calls().Get

	for n := range int32(3) {
		m = run(2 + n)
		require.EqualValues(t, n+1, m.Direct)
		require.EqualValues(t, n+3, m.Compiles)
	}
	require.Equal(t, gets, s.Calls().Get, "the store was asked")
	require.Equal(t, 2, s.Len())
	require.EqualValues(t, 2, m.Retained)
	require.EqualValues(t, 2, m.Lookups)

	m = run(2)
	require.EqualValues(t, 3, m.Direct, "it came again")
	require.EqualValues(t, 3, m.Misses)
	require.Equal(t, 3, s.Len())
	require.EqualValues(t, 3, m.Retained)
	m = run(2)
	require.EqualValues(t, 6, m.Compiles)

	large := wasmtest.Sum(4000, 0)
	_ = compile(t, r, large)
	m = c.Metrics()
	require.EqualValues(t, 3, m.Direct)
	require.Equal(t, 4, s.Len())
	require.Equal(t, m.Lookups, m.Hits+m.Misses)

	// What one doesn't store, another one finds if it did.
	require.NoError(t, c.Warm(bg, nil, modcache.NewModule(wasmtest.Const(9))))
	require.Equal(t, 5, s.Len())
	next := newCache(t, s, &modcache.Options{RequireHit: true, SmallModules: 1})
	strict := newRuntime(t, next, nil)
	for _, n := range []int32{0, 1, 2, 9} {
		require.EqualValues(t, n, call(t, strict, compile(t, strict, wasmtest.Const(n))))
	}
	_, err := strict.CompileModule(bg, wasmtest.Const(3))
	require.ErrorIs(t, err, modcache.ErrMiss)
	require.Zero(t, next.Metrics().Direct)
}

// TestRuntimeOneOffsThatAreFound don't use up what may be stored at first sight.
func TestRuntimeOneOffsThatAreFound(t *testing.T) {
	needsCompiler(t)
	s := &storetest.Fake{}
	var modules []*modcache.Module
	for n := range int32(10) {
		modules = append(modules, modcache.NewModule(wasmtest.Const(n)))
	}
	require.NoError(t, newCache(t, s, &modcache.Options{SmallModules: 1}).Warm(bg, nil, modules...))
	c := newCache(t, s, &modcache.Options{SmallModules: 1})
	r := newRuntime(t, c, nil)
	for _, m := range modules {
		compile(t, r, m.Bytes())
	}
	m := c.Metrics()
	require.EqualValues(t, 10, m.Hits)
	require.Zero(t, m.Compiles)
}

// TestRuntimeOneOffsAreShared while they are in use, in one compile, by runtimes and goroutines.
func TestRuntimeOneOffsAreShared(t *testing.T) {
	needsCompiler(t)
	c := newCache(t, &storetest.Fake{}, &modcache.Options{SmallModules: 1})
	a, b := newRuntime(t, c, nil), newRuntime(t, c, nil)
	used := [33]wazero.CompiledModule{32: compile(t, a, wasmtest.Const(0))} // or else the collector ends their use
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			r := a
			if i%2 == 0 {
				r = b
			}
			wasm := wasmtest.Const(1)
			used[i] = compile(t, r, wasm)
			clear(wasm)
			require.EqualValues(t, 1, call(t, r, used[i]))
		})
	}
	wg.Wait()
	m := c.Metrics()
	require.EqualValues(t, 2, m.Compiles)
	require.EqualValues(t, 1, m.Direct)
	require.NoError(t, a.Close(bg))
	require.EqualValues(t, 1, call(t, b, compile(t, b, wasmtest.Const(1))))
	// Whichever runtime has compiled it, one is closed and one isn't, by now.
	later := newRuntime(t, c, nil)
	then := compile(t, later, wasmtest.Const(1))
	require.EqualValues(t, 1, call(t, later, then))
	require.EqualValues(t, 1, c.Metrics().Direct)
	require.NoError(t, b.Close(bg))
	last := newRuntime(t, c, nil)
	require.EqualValues(t, 1, call(t, last, compile(t, last, wasmtest.Const(1))))
	require.NoError(t, later.Close(bg))
	require.NoError(t, last.Close(bg))
	require.EqualValues(t, 1, c.Metrics().Retained, "the one that was stored")
	runtime.KeepAlive(used)
	runtime.KeepAlive(then)
}

// TestRuntimeOneOffsThatAreInvalid fail as they do without a cache.
func TestRuntimeOneOffsThatAreInvalid(t *testing.T) {
	needsCompiler(t)
	invalid := bytes.Replace(wasmtest.Const(1), []byte{0x41, 1}, []byte{0x42, 1}, 1) // i64.const, where an i32 is due
	plain := wazero.NewRuntime(bg)
	defer plain.Close(bg)
	_, want := plain.CompileModule(bg, invalid)
	require.Error(t, want)
	c := newCache(t, &storetest.Fake{}, &modcache.Options{SmallModules: 1})
	r := newRuntime(t, c, nil)
	compile(t, r, wasmtest.Const(0))
	for range 2 {
		_, err := r.CompileModule(bg, invalid)
		require.EqualError(t, err, want.Error())
	}
	m := c.Metrics()
	require.EqualValues(t, 1, m.Direct)
	require.EqualValues(t, 2, m.CompileErrors)
}

// TestCacheOneOffsOfTheDropIn are looked up, as wazero says nothing of a module before, and not stored.
func TestCacheOneOffsOfTheDropIn(t *testing.T) {
	needsCompiler(t)
	s := &storetest.Fake{}
	c := newCache(t, s, &modcache.Options{SmallModules: 2})
	for n := range int32(5) {
		requireRuns(t, ways[0], c, wasmtest.Const(n), int(n))
	}
	require.Equal(t, 2, s.Len())
	require.EqualValues(t, 3, c.Metrics().Direct)
	for range 2 {
		requireRuns(t, ways[0], c, wasmtest.Const(4), 4)
	}
	require.Equal(t, 3, s.Len())
	require.EqualValues(t, 1, c.Metrics().Hits)
}

// TestRuntimeOneOffsTakeNoMemory: a program may make up any number of modules.
func TestRuntimeOneOffsTakeNoMemory(t *testing.T) {
	needsCompiler(t)
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED, NOTHING PROVEN: no /proc to read the process's memory from")
	}
	if cachetest.RaceEnabled {
		t.Skip("SKIPPED, NOTHING PROVEN: the race detector takes memory of its own")
	}
	for w, rounds := range map[string]int{"Runtime": 10_000, "drop-in": 2000} {
		t.Run(w, func(t *testing.T) {
			if testing.Short() {
				rounds = 1500
			}
			c := openCache(t, t.TempDir(), nil)
			var r wazero.Runtime = newRuntime(t, c, nil)
			if w == "drop-in" {
				r = wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCompilationCache(c.CompilationCache()))
				defer r.Close(bg)
			}
			var before int
			for n := range rounds {
				if n == rounds/5 {
					before = residentMemory(t)
				}
				compiled, err := r.CompileModule(bg, oneOff(1000, int32(n)))
				require.NoError(t, err)
				mod, err := r.InstantiateModule(bg, compiled, anonymous())
				require.NoError(t, err)
				require.NoError(t, mod.Close(bg))
				require.NoError(t, compiled.Close(bg))
			}
			cachetest.GivesBack(t, func() bool { return residentMemory(t)-before < 16<<20 })
			require.EqualValues(t, rounds-128, c.Metrics().Direct)
			require.LessOrEqual(t, c.Metrics().Retained, uint64(128))
		})
	}
}

// residentMemory returns how many bytes of the process are in memory, once garbage is collected.
func residentMemory(t *testing.T) int {
	t.Helper()
	for range 3 { // wazero unmaps code in finalizers
		debug.FreeOSMemory()
	}
	return residentNow(t)
}

func residentNow(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	pages, err := strconv.Atoi(string(bytes.Fields(b)[1]))
	require.NoError(t, err)
	return pages * os.Getpagesize()
}

// TestRuntimeRetainCountsWhatModulesTake: what wazero keeps on the heap to describe a module
// is as much as its machine code, or several times that.
func TestRuntimeRetainCountsWhatModulesTake(t *testing.T) {
	needsCompiler(t)
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED, NOTHING PROVEN: no /proc to read the process's memory from")
	}
	if cachetest.RaceEnabled {
		t.Skip("SKIPPED, NOTHING PROVEN: the race detector takes memory of its own")
	}
	const retain = 24 << 20
	for name, module := range map[string]func(seed int32) []byte{
		"functions": func(seed int32) []byte { return wasmtest.Sum(1000, seed) },
		"exports": func(seed int32) []byte {
			var m wasmtest.Module
			result := m.Type(nil, []byte{wasmtest.I32})
			for i := range 300 {
				m.Func(result, fmt.Sprintf("f%d", i), append([]byte{0x41}, wasmtest.S32(seed)...)...)
			}
			return m.Bytes()
		},
		"types": func(seed int32) []byte {
			var m wasmtest.Module
			for i := range 300 {
				params := make([]byte, 10)
				for bit := range params {
					params[bit] = byte(wasmtest.I64 + i>>bit&1)
				}
				m.Type(params, nil)
			}
			m.Func(m.Type(nil, []byte{wasmtest.I32}), "f", append([]byte{0x41}, wasmtest.S32(seed)...)...)
			return m.Bytes()
		},
		"data": func(seed int32) []byte {
			var m wasmtest.Module
			m.Memory(2)
			m.Data(bytes.Repeat([]byte{byte(seed), byte(seed >> 8)}, 50_000))
			return m.Bytes()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t, modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: 1}), &modcache.Options{Retain: retain, SmallModules: -1})
			r := newRuntime(t, c, nil)
			compile(t, r, wasmtest.Const(1))
			before := residentMemory(t)
			loads := 0
			for loads = range 1000 {
				require.NoError(t, compile(t, r, module(int32(loads+1000))).Close(bg))
				if int(c.Metrics().Retained) < loads {
					break // it is full
				}
			}
			require.Less(t, loads, 999)
			cachetest.GivesBack(t, func() bool { return residentMemory(t)-before < retain*5/4 })
		})
	}
}
