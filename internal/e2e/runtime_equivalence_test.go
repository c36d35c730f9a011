package e2e

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestModulesLookTheSame compares everything that a compiled module tells, for
// the modules among wazero's examples and tests, with names, custom sections and debug info.
func TestModulesLookTheSame(t *testing.T) {
	const most = 100 << 10 // bytes, for the time it takes to compile
	config := wazero.NewRuntimeConfig().WithCoreFeatures(wasmtest.AllFeatures).WithCustomSections(true)
	plain := wazero.NewRuntimeWithConfig(bg, config)
	defer plain.Close(bg)
	var modules [][]byte
	var want []string
	root := wazeroDir(t)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".wasm" || strings.Contains(name, "spectest") {
			return err
		}
		wasm, err := os.ReadFile(name)
		if err != nil || len(wasm) > most {
			return err
		}
		if compiled, err := plain.CompileModule(bg, wasm); err == nil {
			modules, want = append(modules, wasm), append(want, cachetest.Describe(compiled))
		}
		return nil
	})
	require.NoError(t, err)

	// Beside those: nothing at all, and no functions.
	var memoryOnly wasmtest.Module
	memoryOnly.Memory(1)
	memoryOnly.Custom("x", []byte{1})
	for _, wasm := range [][]byte{new(wasmtest.Module).Bytes(), memoryOnly.Bytes()} {
		modules, want = append(modules, wasm), append(want, cachetest.Describe(compile(t, plain, wasm)))
	}

	c := cachetest.Warm(t, config, nil, modules...)
	for range 2 { // from the store, from memory
		r := newRuntime(t, c, config)
		for i, wasm := range modules {
			require.Equal(t, want[i], cachetest.Describe(compile(t, r, wasm)))
		}
	}
	m := c.Metrics()
	require.Zero(t, m.Compiles)
	require.Greater(t, len(modules), 20)
	t.Logf("%d modules, %d through stubs", len(modules), m.Stubbed)
}

// TestTracesAreTheSame traps in modules of three compilers that carry DWARF, and
// compares the whole text, with the functions' names and the lines of their sources.
func TestTracesAreTheSame(t *testing.T) {
	needsCompiler(t)
	for name, mark := range map[string]string{"tinygo": "main.go:", "zig": "main.zig:", "zig-cc": "main.c:"} {
		t.Run(name, func(t *testing.T) {
			wasm, err := os.ReadFile(filepath.Join(wazeroDir(t), "internal/testing/dwarftestdata/testdata", name, "main.wasm"))
			require.NoError(t, err)
			for _, debug := range []bool{true, false} {
				config := wazero.NewRuntimeConfig().WithDebugInfoEnabled(debug)
				trace := func(r wazero.Runtime) string {
					if r.Module(wasi_snapshot_preview1.ModuleName) == nil {
						_, err := wasi_snapshot_preview1.Instantiate(bg, r)
						require.NoError(t, err)
					}
					_, err := r.InstantiateWithConfig(bg, wasm, cachetest.Anonymous())
					require.Error(t, err)
					return err.Error()
				}
				plain := wazero.NewRuntimeWithConfig(bg, config)
				want := trace(plain)
				require.NoError(t, plain.Close(bg))
				require.Contains(t, want, "wasm stack trace")
				require.Equal(t, debug, strings.Contains(want, mark), want)

				s := &storetest.Fake{}
				for _, o := range []*modcache.Options{nil, nil, {FullDecode: true}, {Retain: -1}} {
					c := newCache(t, s, o)
					for range 2 {
						r := newRuntime(t, c, config)
						require.Equal(t, want, trace(r))
						require.Equal(t, want, trace(r))
						require.NoError(t, r.Close(bg))
					}
					require.NoError(t, c.Close(bg))
				}
				// Without DWARF, an alias says that other spellings may have the code.
				require.Equal(t, map[bool]int{true: 1, false: 2}[debug], s.Calls().Add)
			}
		})
	}
}

// TestListenersTraceTheSame: what makes such a compile unique must not shift the
// lines of the source.
func TestListenersTraceTheSame(t *testing.T) {
	wasm, err := os.ReadFile(filepath.Join(wazeroDir(t), "internal/testing/dwarftestdata/testdata/zig/main.wasm"))
	require.NoError(t, err)
	listening := experimental.WithFunctionListenerFactory(bg, experimental.FunctionListenerFactoryFunc(
		func(api.FunctionDefinition) experimental.FunctionListener {
			return experimental.FunctionListenerFunc(func(context.Context, api.Module, api.FunctionDefinition, []uint64, experimental.StackIterator) {})
		}))
	trace := func(r wazero.Runtime) string {
		_, err := wasi_snapshot_preview1.Instantiate(bg, r)
		require.NoError(t, err)
		_, err = r.InstantiateWithConfig(listening, wasm, cachetest.Anonymous())
		require.Error(t, err)
		return err.Error()
	}
	plain := wazero.NewRuntime(bg)
	defer plain.Close(bg)
	require.Equal(t, trace(plain), trace(newRuntime(t, newCache(t, &storetest.Fake{}, nil), nil)))
}
