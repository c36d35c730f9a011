package modcache_test

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/sys"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// afterClose returns the errors of everything that a closed runtime can be asked for.
func afterClose(t *testing.T, r wazero.Runtime, code uint32) []error {
	t.Helper()
	wasm := wasmtest.Sum(5, 0)
	compiled, released := compile(t, r, wasm), compile(t, r, wasm)
	require.NoError(t, released.Close(bg))
	host, err := r.NewHostModuleBuilder("host").NewFunctionBuilder().WithFunc(func() {}).Export("f").Compile(bg)
	require.NoError(t, err)
	mod, err := r.InstantiateModule(bg, compiled, wazero.NewModuleConfig().WithName("m"))
	require.NoError(t, err)
	f := mod.ExportedFunction("f")
	require.NoError(t, r.CloseWithExitCode(bg, code))
	require.NoError(t, r.CloseWithExitCode(bg, code+1))
	require.NoError(t, r.Close(bg))

	var errs []error
	note := func(_ any, err error) { errs = append(errs, err) }
	note(r.CompileModule(bg, wasm))
	note(r.CompileModule(bg, []byte("no module")))
	note(r.CompileModule(withListeners(bg, &journal{}), wasm))
	note(r.Instantiate(bg, wasm))
	note(r.InstantiateWithConfig(bg, wasm, anonymous()))
	for _, m := range []wazero.CompiledModule{compiled, released, host} {
		note(r.InstantiateModule(bg, m, anonymous()))
		note(nil, m.Close(bg))
	}
	note(f.Call(bg))
	note(mod.ExportedFunction("f").Call(bg))
	note(nil, mod.Close(bg))
	require.Nil(t, r.Module("m"))
	return errs
}

// TestRuntimeErrorsAfterClose are wazero's.
func TestRuntimeErrorsAfterClose(t *testing.T) {
	for _, code := range []uint32{0, 7} {
		want := afterClose(t, wazero.NewRuntime(bg), code)
		c := newCache(t, &storetest.Fake{}, nil)
		r := newRuntime(t, c, nil)
		got := afterClose(t, r, code)
		for i := range want {
			require.Equal(t, errorText(want[i]), errorText(got[i]), "%d", i)
			exit, ok := want[i].(*sys.ExitError)
			switch {
			case ok:
				require.Equal(t, exit, got[i])
			case want[i] != nil && i != 9: // the host module, of which we know nothing
				require.ErrorIs(t, got[i], modcache.ErrClosed)
			}
		}
		_, err := r.Compile(bg, modcache.NewModule(wasmtest.Sum(5, 0)))
		require.ErrorIs(t, err, modcache.ErrClosed)
		require.Equal(t, errorText(want[0]), errorText(err))
	}
}

// TestRuntimeDoesNotSayThatItIsClosed when a module is.
func TestRuntimeDoesNotSayThatItIsClosed(t *testing.T) {
	r := newRuntime(t, newCache(t, &storetest.Fake{}, &modcache.Options{Retain: -1}), nil)
	compiled := compile(t, r, wasmtest.Const(1))
	require.NoError(t, compiled.Close(bg))
	_, err := r.InstantiateModule(bg, compiled, anonymous())
	require.ErrorIs(t, err, modcache.ErrClosed)
	require.ErrorContains(t, err, "the compiled module was closed")
}

// TestRuntimeThatIsNil on errors, as NewRuntime says.
func TestRuntimeThatIsNil(t *testing.T) {
	c := newCache(t, &storetest.Fake{}, nil)
	require.NoError(t, c.Close(bg))
	r, err := c.NewRuntime(bg, nil)
	require.ErrorIs(t, err, modcache.ErrClosed)
	require.True(t, reflect.ValueOf(r).IsNil())
}
