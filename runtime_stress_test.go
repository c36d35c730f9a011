package modcache_test

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
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

// TestRuntimeHerd has 64 goroutines ask for 8 modules at once, cold and then warm, in 4
// runtimes of one Cache.
func TestRuntimeHerd(t *testing.T) {
	var modules [][]byte
	for i := range int32(8) {
		modules = append(modules, wasmtest.Sum(30, i))
	}
	s := &storetest.Fake{}
	for i, retain := range []int64{0, 0, -1} {
		c := newCache(t, s, &modcache.Options{Retain: retain, Workers: 2})
		var runtimes []*modcache.Runtime
		for range 4 {
			runtimes = append(runtimes, newRuntime(t, c, nil))
		}
		start := make(chan struct{})
		var wg sync.WaitGroup
		for g := range 64 {
			wg.Go(func() {
				<-start
				r := runtimes[g%4]
				for j := range modules {
					k := (g + j) % len(modules)
					compiled, err := r.CompileModule(bg, modules[k])
					if err != nil {
						t.Error(err)
						return
					}
					if got := call(t, r, compiled); got != 30*31/2+uint64(k) {
						t.Errorf("module %d returned %d", k, got)
					}
					_ = compiled.Close(bg)
				}
			})
		}
		close(start)
		wg.Wait()
		m := c.Metrics()
		if i == 0 {
			require.EqualValues(t, 8, m.Compiles)
		} else {
			require.Zero(t, m.Compiles)
		}
		if retain == 0 {
			require.EqualValues(t, 8, m.Lookups, "each module is loaded once")
		}
	}
	require.Equal(t, 8, s.Calls().Add)
}

// TestRuntimeWarmDirectoryRace is what crashes wazero itself up to v1.12: goroutines
// that load one module, with many types, over a warm directory, in runtimes that share an
// engine. MODCACHE_RACE_ROUNDS sets how often; the default takes a few seconds.
func TestRuntimeWarmDirectoryRace(t *testing.T) {
	needsCompiler(t)
	var m wasmtest.Module
	result := m.Type(nil, []byte{wasmtest.I32})
	for i := range 300 {
		var params []byte
		for bits := i + 2; bits > 1; bits >>= 1 {
			params = append(params, []byte{wasmtest.I32, wasmtest.I64}[bits&1])
		}
		m.Type(params, nil)
	}
	m.Func(result, "f", 0x41, 42)
	wasm := modcache.NewModule(m.Bytes())
	dir := t.TempDir() + "/cache"
	cold, err := modcache.Open(dir, nil)
	require.NoError(t, err)
	newRuntime(t, cold, nil) // skips if there is no compiler
	require.NoError(t, cold.Warm(bg, nil, wasm))
	require.NoError(t, cold.Close(bg))

	rounds, err := strconv.Atoi(os.Getenv("MODCACHE_RACE_ROUNDS"))
	if err != nil {
		rounds = 100
	}
	for range rounds {
		c, err := modcache.Open(dir, nil)
		require.NoError(t, err)
		shared, err := c.NewRuntime(bg, nil)
		require.NoError(t, err)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				<-start
				r := shared
				if i%2 == 0 {
					own, err := c.NewRuntime(bg, nil)
					if err != nil {
						t.Error(err)
						return
					}
					defer own.Close(bg)
					r = own
				}
				compiled, err := r.Compile(bg, wasm)
				if err != nil {
					t.Error(err)
					return
				}
				if got := call(t, r, compiled); got != 42 {
					t.Errorf("f returned %d", got)
				}
			})
		}
		close(start)
		wg.Wait()
		require.EqualValues(t, 1, c.Metrics().Hits)
		require.Zero(t, c.Metrics().Compiles)
		require.NoError(t, shared.Close(bg))
		require.NoError(t, c.Close(bg))
	}
}

// TestRuntimeMemoryIsBounded compiles and closes 1,000 times, in more code than may be
// retained. The collector doesn't run on its own meanwhile, so that only what the Cache
// does about it keeps the mappings within Options.Retain and the documented 64 MiB.
func TestRuntimeMemoryIsBounded(t *testing.T) {
	if _, err := executableBytes(); err != nil {
		t.Skip("mappings show in /proc only:", err)
	}
	rounds, functions := 1000, 3000
	if cachetest.RaceEnabled || testing.Short() {
		rounds = 250
	}
	var modules []*modcache.Module
	var wasm [][]byte
	for i := range int32(8) {
		wasm = append(wasm, wasmtest.Sum(functions, i))
		modules = append(modules, modcache.NewModule(wasm[i]))
	}
	c := warmCache(t, nil, &modcache.Options{Retain: 1 << 20}, wasm...)
	config := wazero.NewRuntimeConfig()
	cycle := func(i int) {
		r, err := c.NewRuntime(bg, config)
		require.NoError(t, err)
		compiled, err := r.Compile(bg, modules[i%len(modules)])
		require.NoError(t, err)
		if i%3 == 0 {
			require.EqualValues(t, functions*(functions+1)/2+i%len(modules), call(t, r, compiled))
		}
		if i%2 == 0 {
			require.NoError(t, compiled.Close(bg))
		}
		require.NoError(t, r.Close(bg))
	}
	cycle(0)
	base, heap := settle(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	const retain, slack, margin = 1 << 20, 64 << 20, 32 << 20 // the margin is for finalizers that lag behind
	peak := base
	for i := range rounds {
		cycle(i)
		if i%5 != 0 {
			continue
		}
		require.Eventually(t, func() bool { // finalizers may have had no processor for long
			now, err := executableBytes()
			if err == nil && now-base <= retain+slack+margin {
				peak = max(peak, now)
				return true
			}
			return false
		}, time.Minute, time.Millisecond, "mappings grow")
	}
	t.Logf("mappings: %d KiB at rest, %d KiB at the peak; %d loads", base>>10, peak>>10, c.Metrics().Hits)
	var after int64
	requireSettles(t, func(now, heapNow int64) bool {
		after = now
		return now-base <= 2<<20 && heapNow-heap <= 8<<20
	})
	require.NoError(t, c.Close(bg))
	requireSettles(t, func(atEnd, _ int64) bool { return atEnd <= after })
}

// TestRuntimeTakesHostModulesAlong: wazero forgets them with its runtime where that
// has an engine of its own, so that nobody has had to close them.
func TestRuntimeTakesHostModulesAlong(t *testing.T) {
	if _, err := executableBytes(); err != nil {
		t.Skip("mappings show in /proc only:", err)
	}
	c := newCache(t, &storetest.Fake{}, nil)
	newRuntime(t, c, nil)
	cycle := func() {
		r, err := c.NewRuntime(bg, nil)
		require.NoError(t, err)
		host, err := r.NewHostModuleBuilder("host").NewFunctionBuilder().WithFunc(func() {}).Export("f").Compile(bg)
		require.NoError(t, err)
		_, err = r.InstantiateModule(bg, host, wazero.NewModuleConfig())
		require.NoError(t, err)
		again, err := r.InstantiateModule(bg, host, wazero.NewModuleConfig().WithName("again"))
		require.NoError(t, err)
		require.NoError(t, again.Close(bg))
		_, err = r.NewHostModuleBuilder("unused").NewFunctionBuilder().WithFunc(func() {}).Export("f").Compile(bg)
		require.NoError(t, err)
		require.NoError(t, r.Close(bg))
	}
	cycle()
	before, _ := settle(t)
	for range 200 {
		cycle()
	}
	requireSettles(t, func(after, _ int64) bool { return after-before <= 64<<10 })
}

// TestRuntimeListenersFreeTheirCode, whether or not anybody closes the module. What wazero
// itself never frees is a page or two for each.
func TestRuntimeListenersFreeTheirCode(t *testing.T) {
	if _, err := executableBytes(); err != nil {
		t.Skip("mappings show in /proc only:", err)
	}
	c := newCache(t, &storetest.Fake{}, nil)
	wasm := wasmtest.Sum(1000, 0)
	cycle := func() {
		r := newRuntime(t, c, nil)
		compiled, err := r.CompileModule(withListeners(bg, &journal{}), wasm)
		require.NoError(t, err)
		require.EqualValues(t, 500500, call(t, r, compiled))
		require.NoError(t, r.Close(bg))
	}
	cycle()
	before, _ := settle(t)
	const rounds = 20
	for range rounds {
		cycle()
	}
	requireSettles(t, func(after, _ int64) bool { return after-before <= rounds*16<<10 })
}

// settle returns the executable mappings and the heap once the finalizers of all
// garbage have run.
func settle(t *testing.T) (mappings, heap int64) {
	t.Helper()
	for range 3 {
		// Finalizers run one after the other, so this one runs behind those of
		// what was garbage before.
		done := make(chan struct{})
		runtime.SetFinalizer(new([64]byte), func(*[64]byte) { close(done) })
		for ran := false; !ran; {
			runtime.GC()
			select {
			case <-done:
				ran = true
			default:
				runtime.Gosched()
			}
		}
	}
	mappings, err := executableBytes()
	require.NoError(t, err)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return mappings, int64(m.HeapAlloc)
}

// requireSettles waits until the executable mappings and the heap are as they should be once garbage is collected.
func requireSettles(t *testing.T, enough func(mappings, heap int64) bool) {
	t.Helper()
	var mappings, heap int64
	defer func() {
		if t.Failed() {
			t.Logf("mappings of %d KiB, %d KiB of heap", mappings>>10, heap>>10)
		}
	}()
	cachetest.GivesBack(t, func() bool {
		mappings, heap = settle(t)
		return enough(mappings, heap)
	})
}

// executableBytes sums up the executable mappings of no file, which is where wazero
// puts machine code.
func executableBytes() (n int64, err error) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uint64
		var mode, offset, device, inode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s %s %s %s", &from, &to, &mode, &offset, &device, &inode); err != nil {
			return 0, err
		}
		if strings.Contains(mode, "x") && inode == "0" {
			n += int64(to - from)
		}
	}
	return n, nil
}
