package wazerohook

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// TestMarkTellsInstancesApart with either engine.
func TestMarkTellsInstancesApart(t *testing.T) {
	for name, config := range map[string]wazero.RuntimeConfig{"default": wazero.NewRuntimeConfig(), "interpreter": wazero.NewRuntimeConfigInterpreter()} {
		r := wazero.NewRuntimeWithConfig(bg, config)
		defer r.Close(bg)
		cm, err := r.CompileModule(bg, canary)
		require.NoError(t, err)
		open := func(cm wazero.CompiledModule) api.Module {
			mod, err := r.InstantiateModule(bg, cm, wazero.NewModuleConfig().WithName(""))
			require.NoError(t, err)
			got, err := mod.ExportedFunction("f").Call(bg)
			require.NoError(t, err)
			require.EqualValues(t, CanaryResult, got[0])
			return mod
		}
		one, isOne, ok := Mark(cm)
		require.True(t, ok, name)
		two, isTwo, ok := Mark(cm)
		require.True(t, ok, name)
		plain, first, second := open(cm), open(one), open(two)
		for mod, want := range map[api.Module][2]bool{plain: {}, first: {true, false}, second: {false, true}} {
			require.Equal(t, want, [2]bool{isOne(mod), isTwo(mod)}, name)
		}
		require.False(t, isOne(nil))
		require.False(t, isOne(valueModule{}))

		again, is, ok := Mark(one)
		require.True(t, ok)
		require.True(t, is(open(again)))
	}
	for _, cm := range []wazero.CompiledModule{nil, (*strangeModule)(nil), &strangeModule{}, strangeModule{}} {
		_, _, ok := Mark(cm)
		require.False(t, ok)
	}
}

type strangeModule struct{ wazero.CompiledModule }
