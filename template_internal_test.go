package modcache

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/internal/wazerohook"
)

// TestTemplateForgetsTurns: a Cache keeps nothing of the IDs of snapshots that nobody is making.
func TestTemplateForgetsTurns(t *testing.T) {
	ctx := t.Context()
	c, err := New(NewMemory(nil), nil)
	require.NoError(t, err)
	defer c.Close(ctx)
	if c.unsupported != nil {
		t.Skip("NOT TESTED: turns of snapshots:", c.unsupported)
	}
	r, err := c.NewRuntime(ctx, nil)
	require.NoError(t, err)
	defer r.Close(ctx)
	failed := errors.New("injected")
	for id, want := range map[string]error{"a": nil, "b": failed} {
		tmpl, err := r.NewTemplate(ctx, NewModule(wasmtest.Const(1)), &TemplateOptions{ID: id, Init: func(context.Context, api.Module) error { return want }})
		require.ErrorIs(t, err, want)
		if tmpl != nil {
			require.NoError(t, tmpl.Close(ctx))
		}
	}
	c.snapshotting.Range(func(key, _ any) bool {
		t.Error("a turn is left:", key)
		return true
	})
}

// TestTemplateWritesTables from the fourth instance on that nobody sees before it is whole, and leaves all others
// to wazero.
func TestTemplateWritesTables(t *testing.T) {
	ctx := t.Context()
	c, err := New(NewMemory(nil), nil)
	require.NoError(t, err)
	defer c.Close(ctx)
	r, err := c.NewRuntime(ctx, nil)
	require.NoError(t, err)
	defer r.Close(ctx)
	if r.e == nil || !r.e.stubs {
		t.Skip("NOT TESTED: tables of templates: no code is shared here")
	}
	module := func(imports, elements []byte) *Module {
		var m wasmtest.Module
		i32 := []byte{wasmtest.I32}
		if imports != nil {
			m.Section(2, imports)
		}
		m.Section(4, []byte{1, 0x70, 0, 3})
		m.Func(m.Type(nil, i32), "", 0x41, 7)
		m.Func(m.Type(i32, i32), "call", 0x20, 0, 0x11, 0, 0)
		m.Section(9, elements)
		return NewModule(m.Bytes())
	}
	active := []byte{1, 0, 0x41, 1, 0x0b, 1, 0}
	config := wazero.NewModuleConfig().WithName("")
	made := func(m *Module, config wazero.ModuleConfig) *tableImage {
		tmpl, err := r.NewTemplate(ctx, m, nil)
		require.NoError(t, err)
		defer tmpl.Close(ctx)
		for range 5 {
			mod, err := tmpl.Instantiate(ctx, config)
			require.NoError(t, err)
			got, err := mod.ExportedFunction("call").Call(ctx, 1)
			require.NoError(t, err)
			require.Equal(t, []uint64{7}, got)
			_, err = mod.ExportedFunction("call").Call(ctx, 2)
			require.ErrorContains(t, err, "invalid table access")
			require.NoError(t, mod.Close(ctx))
		}
		return tmpl.tables
	}
	i := made(module(nil, active), config)
	require.NotNil(t, i.agreed.Load())
	require.False(t, i.off.Load())
	i = made(module(nil, active), config.WithName("named"))
	require.Zero(t, i.made.Load())
	i = made(module(nil, active), config.WithStartFunctions("f", "call2"))
	require.NotNil(t, i.agreed.Load())

	// What an import says today, it needn't say tomorrow.
	var m wasmtest.Module
	m.Section(6, []byte{1, 0x7f, 0, 0x41, 1, 0x0b})
	m.Export("g", 3, 0)
	_, err = r.InstantiateWithConfig(ctx, m.Bytes(), wazero.NewModuleConfig().WithName("env"))
	require.NoError(t, err)
	require.Nil(t, made(module([]byte("\x01\x03env\x01g\x03\x7f\x00"), []byte{1, 0, 0x23, 0, 0x0b, 1, 0}), config))

	// Another wazero, in which instances differ: the instance is made again.
	tmpl, err := r.NewTemplate(ctx, module(nil, active), nil)
	require.NoError(t, err)
	defer tmpl.Close(ctx)
	other, err := r.NewTemplate(ctx, NewModule(wasmtest.Const(1)), nil)
	require.NoError(t, err)
	defer other.Close(ctx)
	mod, err := other.Instantiate(ctx, nil)
	require.NoError(t, err)
	none, err := wazerohook.ReadTables(mod, 100)
	require.NoError(t, err)
	tmpl.tables.agreed.Store(none)
	for range 3 {
		mod, err := tmpl.Instantiate(ctx, nil)
		require.NoError(t, err)
		got, err := mod.ExportedFunction("call").Call(ctx, 1)
		require.NoError(t, err)
		require.Equal(t, []uint64{7}, got)
		require.True(t, tmpl.tables.off.Load())
	}
	tmpl.tables.off.Store(false)
	tmpl.tables.agreed.Store(nil)
	tmpl.tables.first.Store(none)
	for range 3 {
		_, err := tmpl.Instantiate(ctx, nil)
		require.NoError(t, err)
	}
	require.True(t, tmpl.tables.off.Load())
	require.Nil(t, tmpl.tables.agreed.Load())
}

// What depends on a mutable global begins otherwise where that begins as Init left it. Extended constant
// expressions let wazero take such modules, though the specification doesn't.
func TestTemplateOfWhatVariesWithAMutableGlobal(t *testing.T) {
	for name, c := range map[string]struct {
		mutable  byte
		global   []byte // the initial value of a second global
		at       []byte // where the element goes
		captured bool
	}{
		"constants":           {1, []byte{0x41, 0}, []byte{0x41, 0}, true},
		"an immutable global": {0, []byte{0x23, 0}, []byte{0x23, 0}, true},
		"a global does":       {1, []byte{0x23, 0}, []byte{0x41, 0}, false},
		"a table does":        {1, []byte{0x41, 0}, []byte{0x41, 0, 0x23, 0, 0x6a}, false},
	} {
		var m wasmtest.Module
		m.Func(m.Type(nil, nil), "f")
		m.Section(4, []byte{1, 0x70, 0, 3})
		m.Section(6, slices.Concat([]byte{2, 0x7f, c.mutable, 0x41, 0, 0x0b, 0x7f, 0}, c.global, []byte{0x0b}))
		m.Section(9, slices.Concat([]byte{1, 0}, c.at, []byte{0x0b, 1, 0}))
		module := NewModule(m.Bytes())
		state, err := wasmbin.ReadState(module.wasm)
		require.NoError(t, err)
		if err = capturable(module, state); c.captured {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, "depends on global 0, which is mutable", name)
		}
	}
}
