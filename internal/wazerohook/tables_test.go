package wazerohook

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/wasmtest"
)

// tabledModule returns a module whose table has functions of its own, an imported one twice, and gaps; another
// one has what a passive segment holds. call(i) calls what is there, and a global has one of the functions.
func tabledModule() []byte {
	var m wasmtest.Module
	get := m.Type(nil, []byte{wasmtest.I32})
	other := m.Type(nil, nil)
	m.Import("host", "get", get)
	m.Section(4, []byte{2, 0x70, 0, 9}, []byte{0x70, 0, 2})
	m.Section(6, []byte{1, 0x70, 0, 0xd2, 2, 0x0b})
	one := m.Func(get, "", 0x41, 1)
	two := m.Func(get, "", 0x41, 2)
	wrong := m.Func(other, "")
	m.Func(m.Type([]byte{wasmtest.I32}, []byte{wasmtest.I32}), "call", 0x20, 0, 0x11, byte(get), 0)
	m.Func(m.Type(nil, nil), "init", 0x41, 0, 0x41, 0, 0x41, 1, 0xfc, 12, 1, 1)
	m.Func(m.Type(nil, nil), "copy", 0x41, 8, 0x41, 0, 0x41, 1, 0xfc, 14, 0, 1)
	m.Section(9, []byte{3},
		[]byte{0, 0x41, 1, 0x0b, 5, byte(one), 0, byte(two), byte(wrong), byte(one)},
		[]byte{1, 0, 1, byte(two)},
		[]byte{4, 0x41, 6, 0x0b, 2, 0xd2, 0, 0x0b, 0xd0, 0x70, 0x0b})
	return m.Bytes()
}

// tabled makes an instance, and tells what calls of it come to.
func tabled(t *testing.T, r wazero.Runtime, cm wazero.CompiledModule) (mod api.Module, see func() []string) {
	mod, err := r.InstantiateModule(bg, cm, wazero.NewModuleConfig().WithName(""))
	require.NoError(t, err)
	call := mod.ExportedFunction("call")
	return mod, func() (out []string) {
		for _, name := range []string{"", "init", "copy"} {
			if name != "" {
				_, err := mod.ExportedFunction(name).Call(bg)
				require.NoError(t, err)
			}
			for i := range 11 {
				res, err := call.Call(bg, uint64(i))
				out = append(out, fmt.Sprint(name, " ", i, " ", res, " ", err))
			}
		}
		return out
	}
}

// TestTablesAreWrittenAsWazeroDoes in this wazero: if it has no such tables any more, templates are slower.
func TestTablesAreWrittenAsWazeroDoes(t *testing.T) {
	open := func(config wazero.RuntimeConfig) (wazero.Runtime, wazero.CompiledModule) {
		r := wazero.NewRuntimeWithConfig(bg, config)
		t.Cleanup(func() { _ = r.Close(bg) })
		_, err := r.NewHostModuleBuilder("host").NewFunctionBuilder().WithFunc(func() int32 { return 5 }).Export("get").Instantiate(bg)
		require.NoError(t, err)
		cm, err := r.CompileModule(bg, tabledModule())
		require.NoError(t, err)
		return r, cm
	}
	r, cm := open(wazero.NewRuntimeConfigInterpreter())
	mod, _ := tabled(t, r, cm)
	_, err := ReadTables(mod, 100)
	require.ErrorIs(t, err, ErrShape)
	if Supported() != nil {
		t.Skip("NOT TESTED: tables of compiled code:", Supported())
	}

	r, cm = open(wazero.NewRuntimeConfig())
	empty, less, ok := WithoutElements(cm)
	require.True(t, ok)
	require.Equal(t, 7, less)
	mod, want := tabled(t, r, cm)
	tables, err := ReadTables(mod, 100)
	require.NoError(t, err)
	_, err = ReadTables(mod, 10)
	require.ErrorContains(t, err, "too large")
	mod, _ = tabled(t, r, cm)
	again, err := ReadTables(mod, 100)
	require.NoError(t, err)
	require.True(t, tables.Equal(again))
	expected := want()
	require.Contains(t, expected, " 1 [1] <nil>")
	require.Contains(t, expected, " 2 [5] <nil>")
	require.Contains(t, expected, "copy 8 [2] <nil>")

	var calls []func() []string
	for range 20 {
		mod, see := tabled(t, r, empty)
		require.True(t, tables.Write(mod))
		calls = append(calls, see)
	}
	for range 3 { // nothing else keeps the functions
		runtime.GC()
		_ = make([][]byte, 100_000)
	}
	for _, see := range calls {
		require.Equal(t, expected, see())
	}
	_, see := tabled(t, r, empty)
	require.NotEqual(t, expected, see(), "it is said to be without elements")

	// Another module's instance is left as it is.
	other, err := r.CompileModule(bg, canary)
	require.NoError(t, err)
	mod, err = r.InstantiateModule(bg, other, wazero.NewModuleConfig().WithName(""))
	require.NoError(t, err)
	require.False(t, tables.Write(mod))
	_, less, ok = WithoutElements(other)
	require.True(t, ok)
	require.Zero(t, less)
	_, _, ok = WithoutElements(foreignModule{other})
	require.False(t, ok)
}

// TestTablesWithInitialValues have null where an element says so.
func TestTablesWithInitialValues(t *testing.T) {
	if Supported() != nil {
		t.Skip("NOT TESTED: tables of compiled code:", Supported())
	}
	var m wasmtest.Module
	get := m.Type(nil, []byte{wasmtest.I32})
	m.Section(4, []byte{1, 0x40, 0, 0x70, 0, 3, 0xd2, 0, 0x0b})
	m.Func(get, "", 0x41, 1)
	m.Func(m.Type([]byte{wasmtest.I32}, []byte{wasmtest.I32}), "call", 0x20, 0, 0x11, byte(get), 0)
	m.Section(9, []byte{1}, []byte{4, 0x41, 1, 0x0b, 1, 0xd0, 0x70, 0x0b})
	r := wazero.NewRuntime(bg)
	defer r.Close(bg)
	cm, err := r.CompileModule(bg, m.Bytes())
	if err != nil {
		t.Skip("NOT TESTED: initial values of tables, which this wazero doesn't know:", err)
	}
	instance := func(cm wazero.CompiledModule) api.Module {
		mod, err := r.InstantiateModule(bg, cm, wazero.NewModuleConfig().WithName(""))
		require.NoError(t, err)
		return mod
	}
	empty, _, ok := WithoutElements(cm)
	require.True(t, ok)
	tables, err := ReadTables(instance(cm), 100)
	require.NoError(t, err)
	written := instance(empty)
	require.True(t, tables.Write(written))
	for _, mod := range []api.Module{instance(cm), written} {
		call := mod.ExportedFunction("call")
		_, err := call.Call(bg, 1)
		require.ErrorContains(t, err, "invalid table access")
		for _, full := range []uint64{0, 2} {
			got, err := call.Call(bg, full)
			require.NoError(t, err)
			require.EqualValues(t, 1, got[0])
		}
	}
}

type foreignModule struct{ wazero.CompiledModule }

// TestUnseen instances have no name, and nothing in them is started.
func TestUnseen(t *testing.T) {
	r := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfigInterpreter())
	defer r.Close(bg)
	compile := func(write func(m *wasmtest.Module)) wazero.CompiledModule {
		var m wasmtest.Module
		f := m.Func(m.Type(nil, nil), "_start")
		m.Export("other", 0, f)
		if write != nil {
			write(&m)
		}
		cm, err := r.CompileModule(bg, m.Bytes())
		require.NoError(t, err)
		return cm
	}
	plain := compile(nil)
	none := wazero.NewModuleConfig().WithStartFunctions()
	require.True(t, Unseen(plain, none))
	require.True(t, Unseen(plain, none.WithName("")))
	require.True(t, Unseen(plain, none.WithStartFunctions("memory", "main")))
	require.False(t, Unseen(plain, wazero.NewModuleConfig()), "_start")
	require.False(t, Unseen(plain, none.WithStartFunctions("main", "other")))
	require.False(t, Unseen(plain, none.WithName("x")))
	require.False(t, Unseen(compile(func(m *wasmtest.Module) { m.Start(0) }), none))
	named := compile(func(m *wasmtest.Module) { m.Custom("name", []byte{0, 2, 1, 'n'}) })
	require.False(t, Unseen(named, none))
	require.True(t, Unseen(named, none.WithName("")))
	require.False(t, Unseen(foreignModule{plain}, none))
}
