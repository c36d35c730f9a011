//lint:file-ignore U1000 the fields of look-alikes are for reflection to see

package wazerohook

import (
	"io"
	"reflect"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/wasmtest"
)

// opened returns a runtime and its engine.
func opened(t *testing.T, fc FileCache) (wazero.Runtime, *Engine) {
	t.Helper()
	probed(t)
	cc := plugged(t, fc)
	r := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCompilationCache(cc))
	e, err := OpenEngine(cc)
	require.NoError(t, err)
	return r, e
}

// unasked is the files of an engine that finds everything in memory.
type unasked struct {
	FileCache
	t *testing.T
}

func (u unasked) Get(WazeroKey) (io.ReadCloser, bool, error) {
	u.t.Error("wazero asked for the code")
	return nil, false, nil
}

// TestEngineSharesCode between runtimes, each of which may end before the others.
func TestEngineSharesCode(t *testing.T) {
	var modules [][]byte
	for i := range int32(20) {
		modules = append(modules, wasmtest.Sum(3, 100*i))
	}
	first, a := opened(t, &files{})
	var codes []*Code
	for _, wasm := range modules {
		_, err := first.CompileModule(bg, wasm)
		require.NoError(t, err)
		c, err := a.Code(ModuleID(wasm, false))
		require.NoError(t, err)
		codes = append(codes, c)
	}
	_, err := a.Code(ModuleID(wasmtest.Const(1), false))
	require.ErrorIs(t, err, errNoCode)
	var last api.Module
	for range 3 {
		r, e := opened(t, unasked{t: t})
		for _, i := range []int{3, 1, 2, 0, 19, 7} {
			leave := e.Enter(codes[i])
			e.Enter(codes[i])()
			cm, err := r.CompileModule(bg, modules[i])
			require.NoError(t, err)
			leave()
			mod, err := r.InstantiateModule(bg, cm, wazero.NewModuleConfig().WithName(""))
			require.NoError(t, err)
			got, err := mod.ExportedFunction("f").Call(bg)
			require.NoError(t, err)
			require.EqualValues(t, 6+100*i, got[0])
			require.Equal(t, 1, int(e.code.MapIndex(reflect.ValueOf(codes[i].id)).Elem().FieldByName("refCount").Int()))
			last = mod
		}
		require.Len(t, *e.sorted, 6)
		for i, m := range (*e.sorted)[1:] {
			require.Less(t, e.start((*e.sorted)[i]), e.start(m))
		}
		if first != nil { // whose code the others use
			require.NoError(t, first.Close(bg))
			first, a = nil, nil
			runtime.GC()
			runtime.GC()
		}
	}
	clear(codes)
	for range 3 {
		runtime.GC()
	}
	got, err := last.ExportedFunction("f").Call(bg)
	require.NoError(t, err)
	require.EqualValues(t, 706, got[0])
}

// TestEngineFindsTheFramesOfSharedCode, and forgets it with its last user.
func TestEngineFindsTheFramesOfSharedCode(t *testing.T) {
	var m wasmtest.Module
	m.Func(m.Type(nil, nil), "f", 0x00)
	m.Custom("name", []byte("\x01\x09\x01\x00\x06bottom"))
	wasm := m.Bytes()
	trap := func(r wazero.Runtime) (wazero.CompiledModule, string) {
		cm, err := r.CompileModule(bg, wasm)
		require.NoError(t, err)
		mod, err := r.InstantiateModule(bg, cm, wazero.NewModuleConfig().WithName(""))
		require.NoError(t, err)
		_, err = mod.ExportedFunction("f").Call(bg)
		return cm, err.Error()
	}
	r, a := opened(t, &files{})
	_, want := trap(r)
	require.Contains(t, want, "bottom")
	c, err := a.Code(ModuleID(wasm, false))
	require.NoError(t, err)
	other, e := opened(t, unasked{t: t})
	leave := e.Enter(c)
	cm, got := trap(other)
	leave()
	require.Equal(t, want, got)
	require.NoError(t, cm.Close(bg))
	require.Empty(t, *e.sorted)
	require.Zero(t, e.code.Len())
	e.Enter(c)() // for a compile that fails
	require.Empty(t, *e.sorted)
	require.Zero(t, e.code.Len())
	require.Len(t, *a.sorted, 1)
	require.NoError(t, other.Close(bg))
}

// TestEngineUnderLoad enters and clears code while wazero uses the engine.
func TestEngineUnderLoad(t *testing.T) {
	r, a := opened(t, &files{})
	wasm := wasmtest.Sum(3, 0)
	_, err := r.CompileModule(bg, wasm)
	require.NoError(t, err)
	c, err := a.Code(ModuleID(wasm, false))
	require.NoError(t, err)
	other, e := opened(t, &files{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 50 {
				host, err := other.NewHostModuleBuilder("host").NewFunctionBuilder().WithFunc(func() {}).Export("f").Compile(bg)
				if err == nil {
					err = host.Close(bg)
				}
				if err != nil {
					t.Error(err)
				}
				leave := e.Enter(c)
				if i == 25 {
					e.Clear()
				}
				if i < 49 {
					leave()
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, e.code.Len())
	require.Len(t, *e.sorted, 1)
	e.Clear()
	require.Zero(t, e.code.Len())
	require.Empty(t, *e.sorted)
}

type (
	engineAlike struct {
		mux                   sync.RWMutex
		compiledModules       map[[32]byte]*countAlike
		sortedCompiledModules []*moduleAlike
		sharedFunctions       *sharedAlike
	}
	countAlike struct {
		*compiledModule
		refCount int
	}
	compiledModule struct {
		*executables
		parent          *engineAlike
		sharedFunctions *sharedAlike
	}
	sharedAlike struct{ listenerTrampolines map[int]int }
	moduleAlike = compiledModule
	executables struct{ executable []byte }
)

// TestEngineOfAnotherShape is refused.
func TestEngineOfAnotherShape(t *testing.T) {
	_, err := openEngine(reflect.ValueOf(&engineAlike{}))
	require.NoError(t, err, "or the rest proves nothing")
	for name, v := range map[string]any{
		"no pointer": engineAlike{}, "nil": (*engineAlike)(nil), "no struct": new(int),
		"no fields": &struct{}{},
		"another lock": &struct {
			mux             sync.Mutex
			compiledModules map[[32]byte]*countAlike
		}{},
		"code by name": &struct {
			mux             sync.RWMutex
			compiledModules map[string]*countAlike
		}{},
		"no count": &struct {
			mux             sync.RWMutex
			compiledModules map[[32]byte]*struct{ *compiledModule }
		}{},
		"three fields": &struct {
			mux             sync.RWMutex
			compiledModules map[[32]byte]*struct {
				*compiledModule
				refCount int
				another  int
			}
		}{},
		"modules of another engine": &struct {
			mux                   sync.RWMutex
			compiledModules       map[[32]byte]*countAlike
			sortedCompiledModules []*compiledModule
			sharedFunctions       *sharedAlike
		}{},
	} {
		_, err := openEngine(reflect.ValueOf(v))
		require.ErrorIs(t, err, ErrShape, name)
	}
	_, err = OpenEngine(wazero.NewCompilationCache())
	require.ErrorIs(t, err, ErrShape)
	_, err = OpenEngine(nil)
	require.ErrorIs(t, err, ErrForeign)
}

// TestEngineForgets what a compile that panicked may have left incomplete, so that the next one begins anew.
func TestEngineForgets(t *testing.T) {
	r, e := opened(t, &files{})
	defer r.Close(bg)
	wasm := wasmtest.Const(7)
	id := ModuleID(wasm, false)
	e.Forget(id)
	for range 2 {
		cm, err := r.CompileModule(bg, wasm)
		require.NoError(t, err)
		_, err = e.Code(id)
		require.NoError(t, err)
		require.Len(t, *e.sorted, 1)
		e.Forget(id)
		_, err = e.Code(id)
		require.ErrorIs(t, err, errNoCode)
		require.Empty(t, *e.sorted)
		require.NoError(t, cm.Close(bg))
	}
}
