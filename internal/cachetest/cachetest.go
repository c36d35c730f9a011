// Package cachetest has what tests of a whole Cache share: the two ways into it, an
// observer, and comparisons with plain wazero.
package cachetest

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/internal/wazerohook"
)

var bg = context.Background()

// Forget makes a Cache keep no machine code in memory, so that every compile asks
// the store.
const Forget = -1

// ChainLen is the number of functions in Chain and in Other. Each calls the next, so that
// a wrong function offset shows in the result.
const ChainLen = 5

// Two modules that differ in what they return, and that.
var (
	Chain, ChainWant = wasmtest.Sum(ChainLen, 100), ChainLen*(ChainLen+1)/2 + 100
	Other, OtherWant = wasmtest.Sum(ChainLen, 200), ChainLen*(ChainLen+1)/2 + 200
)

// NeedsCompiler skips a test where wazero interprets, and so has nothing to cache.
func NeedsCompiler(t testing.TB) {
	t.Helper()
	if _, err := wazerohook.Probe(); errors.Is(err, wazerohook.ErrInterpreter) {
		t.Skip("NOT TESTED:", err)
	}
}

// WazeroDir is where the module wazero is unpacked: its tests come with modules
// that nobody here wrote. Without it, the test is skipped.
func WazeroDir(t testing.TB) string {
	t.Helper()
	dir, err := wasmtest.WazeroDir()
	if err != nil {
		t.Skipf("SKIPPED, NOTHING PROVEN: %v", err)
	}
	return dir
}

// New returns a Cache over a store that is closed with the test.
func New(t testing.TB, s modcache.Store, o *modcache.Options) *modcache.Cache {
	t.Helper()
	c, err := modcache.New(s, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(bg)) })
	return c
}

// Open returns a Cache over a directory that is closed with the test.
func Open(t testing.TB, dir string, o *modcache.Options) *modcache.Cache {
	t.Helper()
	c, err := modcache.Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(bg) })
	return c
}

// Entries returns the files of all entries in the directory of a Disk.
func Entries(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "[0-9a-f]", "*.v1"))
	require.NoError(t, err)
	return files
}

// A Way is one of the two ways into a Cache. It compiles wasm in a runtime of its
// own and returns what the module's export f does.
type Way struct {
	Name string
	Run  func(c *modcache.Cache, wasm []byte) (uint64, error)
}

// Ways lists both.
var Ways = []Way{{"drop-in", runDropIn}, {"Runtime", runRuntime}}

func runDropIn(c *modcache.Cache, wasm []byte) (uint64, error) {
	r := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCompilationCache(c.CompilationCache()))
	defer r.Close(bg)
	return Run(r, wasm)
}

func runRuntime(c *modcache.Cache, wasm []byte) (uint64, error) {
	r, err := c.NewRuntime(bg, nil)
	if err != nil {
		return 0, err
	}
	defer r.Close(bg)
	return Run(r, wasm)
}

// RunPlain does it without a Cache.
func RunPlain(wasm []byte) (uint64, error) {
	r := wazero.NewRuntime(bg)
	defer r.Close(bg)
	return Run(r, wasm)
}

// Run compiles wasm and returns what its export f does.
func Run(r wazero.Runtime, wasm []byte) (uint64, error) {
	compiled, err := r.CompileModule(bg, wasm)
	if err != nil {
		return 0, err
	}
	mod, err := r.InstantiateModule(bg, compiled, wazero.NewModuleConfig())
	if err != nil {
		return 0, err
	}
	res, err := mod.ExportedFunction("f").Call(bg)
	if err != nil {
		return 0, err
	}
	return res[0], nil
}

// RequireRuns compiles and runs wasm one way, and requires the result.
func RequireRuns(t testing.TB, w Way, c *modcache.Cache, wasm []byte, want int) {
	t.Helper()
	got, err := w.Run(c, wasm)
	require.NoError(t, err)
	require.EqualValues(t, want, got)
}

// Filled returns a store with the code of Chain and Other for one way in, and their keys.
func Filled(t testing.TB, w Way) (s *storetest.Fake, chain, other modcache.Key) {
	t.Helper()
	s = &storetest.Fake{}
	var seen Witness
	c := New(t, s, seen.Options(modcache.Options{}))
	RequireRuns(t, w, c, Chain, ChainWant)
	RequireRuns(t, w, c, Other, OtherWant)
	require.Equal(t, 2, s.Len())
	keys := seen.Keys()
	require.Len(t, keys, 2)
	return s, keys[0], keys[1]
}

// PlainDirectory returns a directory that wazero's own cache has filled, and the entries
// in it.
func PlainDirectory(t testing.TB, modules ...[]byte) (dir string, files []string) {
	t.Helper()
	dir = t.TempDir()
	cc, err := wazero.NewCompilationCacheWithDir(dir)
	require.NoError(t, err)
	for _, wasm := range modules {
		r := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCompilationCache(cc))
		_, err := Run(r, wasm)
		require.NoError(t, err)
		require.NoError(t, r.Close(bg))
	}
	require.NoError(t, cc.Close(bg))
	files, err = filepath.Glob(dir + "/*/*")
	require.NoError(t, err)
	require.Len(t, files, len(modules))
	return dir, files
}
