package cachetest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
)

// NewRuntime returns a runtime that is closed with the test. It skips the test
// where wazero has no compiler.
func NewRuntime(t testing.TB, c *modcache.Cache, config wazero.RuntimeConfig) *modcache.Runtime {
	t.Helper()
	NeedsCompiler(t)
	r, err := c.NewRuntime(bg, config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close(bg)) })
	return r
}

// Warm returns a new Cache over a store in which the modules are.
func Warm(t testing.TB, config wazero.RuntimeConfig, o *modcache.Options, modules ...[]byte) *modcache.Cache {
	t.Helper()
	s := &storetest.Fake{}
	cold := New(t, s, &modcache.Options{SmallModules: -1})
	r := NewRuntime(t, cold, config)
	for _, wasm := range modules {
		compiled, err := r.CompileModule(bg, wasm)
		require.NoError(t, err)
		require.NoError(t, compiled.Close(bg))
	}
	require.NoError(t, cold.Close(bg))
	return New(t, s, o)
}

// Compile compiles.
func Compile(t testing.TB, r wazero.Runtime, wasm []byte) wazero.CompiledModule {
	t.Helper()
	compiled, err := r.CompileModule(bg, wasm)
	require.NoError(t, err)
	return compiled
}

// Anonymous allows several instances in one runtime.
func Anonymous() wazero.ModuleConfig { return wazero.NewModuleConfig().WithName("") }

// Call instantiates the module and calls its export f.
func Call(t testing.TB, r wazero.Runtime, compiled wazero.CompiledModule) uint64 {
	t.Helper()
	mod, err := r.InstantiateModule(bg, compiled, Anonymous())
	require.NoError(t, err)
	defer mod.Close(bg)
	return CallF(t, mod)
}

// CallF calls the export f of an instance.
func CallF(t testing.TB, mod api.Module) uint64 {
	t.Helper()
	results, err := mod.ExportedFunction("f").Call(bg)
	require.NoError(t, err)
	require.Len(t, results, 1)
	return results[0]
}

// ErrorText returns the text of an error, "" for none.
func ErrorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Describe returns everything that a compiled module tells.
func Describe(m wazero.CompiledModule) string {
	var b strings.Builder
	fmt.Fprintf(&b, "name %q\n", m.Name())
	for i, f := range m.ImportedFunctions() {
		fmt.Fprintf(&b, "import %d %s\n", i, describeFunction(f))
	}
	for i, mem := range m.ImportedMemories() {
		fmt.Fprintf(&b, "import memory %d %s\n", i, describeMemory(mem))
	}
	for _, name := range slices.Sorted(maps.Keys(m.ExportedFunctions())) {
		fmt.Fprintf(&b, "export %q %s\n", name, describeFunction(m.ExportedFunctions()[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(m.ExportedMemories())) {
		fmt.Fprintf(&b, "export memory %q %s\n", name, describeMemory(m.ExportedMemories()[name]))
	}
	for _, s := range m.CustomSections() {
		fmt.Fprintf(&b, "custom %q %x\n", s.Name(), s.Data())
	}
	return b.String()
}

func describeFunction(f api.FunctionDefinition) string {
	module, name, imported := f.Import()
	return fmt.Sprint(f.ModuleName(), " ", f.Index(), " ", f.Name(), " ", f.DebugName(), " ", f.ExportNames(),
		" ", f.ParamTypes(), " ", f.ParamNames(), " ", f.ResultTypes(), " ", f.ResultNames(), " ", module, " ", name, " ", imported)
}

func describeMemory(m api.MemoryDefinition) string {
	module, name, imported := m.Import()
	most, bounded := m.Max()
	return fmt.Sprint(m.ModuleName(), " ", m.Index(), " ", m.ExportNames(), " ", m.Min(), " ", most, " ", bounded, " ", module, " ", name, " ", imported)
}
