//lint:file-ignore U1000 the fields of look-alikes are for reflection to see

package wazerohook

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache/internal/wasmtest"
)

var bg = context.Background()

// files is a cache's files in memory, which remembers what it was asked for.
type files struct {
	asked   []WazeroKey
	entries map[WazeroKey][]byte
	deleted int
}

func (f *files) Get(key WazeroKey) (io.ReadCloser, bool, error) {
	f.asked = append(f.asked, key)
	b, ok := f.entries[key]
	if !ok {
		return nil, false, nil
	}
	return io.NopCloser(bytes.NewReader(b)), true, nil
}

func (f *files) Add(key WazeroKey, content io.Reader) error {
	b, err := io.ReadAll(content)
	if f.entries == nil {
		f.entries = make(map[WazeroKey][]byte)
	}
	f.entries[key] = b
	return err
}

func (f *files) Delete(key WazeroKey) error {
	f.deleted++
	delete(f.entries, key)
	return nil
}

// only returns the one entry that was added.
func (f *files) only(t testing.TB) (WazeroKey, []byte) {
	require.Len(t, f.entries, 1)
	for k, b := range f.entries {
		return k, b
	}
	panic("unreachable")
}

func plugged(t testing.TB, fc FileCache) wazero.CompilationCache {
	cc := wazero.NewCompilationCache()
	_, err := Plug(cc, fc)
	require.NoError(t, err)
	return cc
}

// compileOver compiles wasm in a runtime of its own over fc.
func compileOver(t testing.TB, ctx context.Context, rc wazero.RuntimeConfig, fc FileCache, wasm []byte) error {
	r := wazero.NewRuntimeWithConfig(ctx, rc.WithCompilationCache(plugged(t, fc)))
	defer r.Close(ctx)
	_, err := r.CompileModule(ctx, wasm)
	return err
}

// probed skips a test where wazero has no compiler to hook into.
func probed(t testing.TB) *Wazero {
	t.Helper()
	w, err := Probe()
	if errors.Is(err, ErrInterpreter) {
		t.Skip("NOT TESTED:", err)
	}
	require.NoError(t, err)
	return w
}

func TestProbeKnowsThisWazero(t *testing.T) {
	w := probed(t)
	require.True(t, w.KeysKnown, "wazero's keys are not what we predict")
	require.NotEmpty(t, w.Version)
	again, err := Probe()
	require.NoError(t, err)
	require.Same(t, w, again)
}

func TestPlug(t *testing.T) {
	probed(t)
	first, second := &files{}, &files{}
	cc := wazero.NewCompilationCache()
	previous, err := Plug(cc, first)
	require.NoError(t, err)
	require.Nil(t, previous)
	previous, err = Plug(cc, second)
	require.NoError(t, err)
	require.Same(t, first, previous)

	r := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCompilationCache(cc))
	defer r.Close(bg)
	_, err = r.CompileModule(bg, canary)
	require.NoError(t, err)
	require.Empty(t, first.asked)
	require.Len(t, second.asked, 1)

	_, err = Plug(cc, first)
	require.ErrorIs(t, err, ErrInUse)
	_, err = r.CompileModule(bg, wasmtest.Const(7))
	require.NoError(t, err)
	require.Empty(t, first.asked, "a refused Plug must change nothing")
	require.Len(t, second.asked, 2)
}

func TestPlugReturnsWazerosOwnFiles(t *testing.T) {
	probed(t)
	cc, err := wazero.NewCompilationCacheWithDir(t.TempDir())
	require.NoError(t, err)
	previous, err := Plug(cc, &files{})
	require.NoError(t, err)
	require.NotNil(t, previous)
	_, ok, err := previous.Get(WazeroKey{1})
	require.NoError(t, err)
	require.False(t, ok)
}

func TestPlugBeforeAnInterpretersEngineOnly(t *testing.T) {
	cc := plugged(t, &files{})
	r := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfigInterpreter().WithCompilationCache(cc))
	defer r.Close(bg)
	_, err := Plug(cc, &files{})
	require.ErrorIs(t, err, ErrInUse)
}

type wrapped struct{ wazero.CompilationCache }

func TestPlugRefusesForeignCaches(t *testing.T) {
	inner := wazero.NewCompilationCache()
	var typedNil *wrapped
	for _, cc := range []wazero.CompilationCache{nil, typedNil, wrapped{inner}, &wrapped{inner}} {
		_, err := Plug(cc, &files{})
		require.ErrorIs(t, err, ErrForeign, "%T", cc)
	}
	// wazero's functions return nil for its own type too, in interfaces of theirs.
	field := reflect.New(reflect.TypeOf(inner)).Elem().Interface().(wazero.CompilationCache)
	_, err := Plug(field, &files{})
	require.ErrorIs(t, err, ErrForeign)
}

// What other versions of wazero might look like.
type (
	engineLike interface{ Close() error }

	looksRight struct {
		engs      [2]engineLike
		fileCache FileCache
	}
	renamedField struct {
		engs  [2]engineLike
		files FileCache
	}
	noField       struct{ engs [2]engineLike }
	concreteField struct {
		engs      [2]engineLike
		fileCache *files
	}
	structField struct {
		engs      [2]engineLike
		fileCache files
	}
	otherMethods struct {
		engs      [2]engineLike
		fileCache interface {
			FileCache
			Flush() error
		}
	}
	otherKey struct {
		engs      [2]engineLike
		fileCache interface {
			Get(key string) (io.ReadCloser, bool, error)
		}
	}
	withContext struct {
		engs      [2]engineLike
		fileCache interface {
			Get(context.Context, WazeroKey) (io.ReadCloser, bool, error)
		}
	}
	noEngines struct{ fileCache FileCache }
	// The engine may not be captured at once, or not per kind: then we can't tell.
	mapOfEngines struct {
		engs      map[int]engineLike
		fileCache FileCache
	}
	enginePointers struct {
		engs      [2]*files
		fileCache FileCache
	}
	inner     struct{ looksRight }
	embedded  struct{ *looksRight }
	embedded2 struct{ *inner }
	// Anything goes into an any, but what comes out is not what we put back.
	anyField struct {
		engs      [2]engineLike
		fileCache any
	}
	notAStruct int
)

func TestUnknownShapes(t *testing.T) {
	for _, cache := range []any{
		&renamedField{}, &noField{}, &concreteField{}, &structField{}, &otherMethods{}, &otherKey{}, &withContext{},
		&noEngines{}, &mapOfEngines{engs: map[int]engineLike{1: nil}}, &enginePointers{},
		&embedded{}, &embedded{&looksRight{}}, &embedded2{}, &inner{}, &anyField{fileCache: 3}, new(notAStruct),
	} {
		before := reflect.ValueOf(cache).Elem().Interface()
		_, err := plug(reflect.ValueOf(cache).Elem(), &files{})
		require.ErrorIs(t, err, ErrShape, "%T", cache)
		require.Equal(t, before, reflect.ValueOf(cache).Elem().Interface(), "%T", cache)
	}
	right := &looksRight{}
	fc := &files{}
	_, err := plug(reflect.ValueOf(right).Elem(), fc)
	require.NoError(t, err)
	require.Same(t, fc, right.fileCache)
	right.engs[1] = io.NopCloser(nil)
	_, err = plug(reflect.ValueOf(right).Elem(), &files{})
	require.ErrorIs(t, err, ErrInUse)
	require.Same(t, fc, right.fileCache)
}

// A wazero whose entries look different is told apart by the first one.
func TestReadVersionOfUnknownEntries(t *testing.T) {
	w := probed(t)
	seen := &files{}
	require.NoError(t, compileOver(t, bg, wazero.NewRuntimeConfig(), seen, canary))
	_, entry := seen.only(t)
	version, err := readVersion(entry)
	require.NoError(t, err)
	require.Equal(t, w.Version, version)

	for n := range entry {
		_, err := readVersion(entry[:n])
		if hasCatchTables(w) && n == len(entry)-4 {
			// That is what versions without the table wrote.
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, ErrShape, "%d of %d bytes", n, len(entry))
	}
	for _, b := range [][]byte{append(bytes.Clone(entry), 0), append([]byte("WAZERO"), entry[6:]...), bytes.Repeat([]byte{255}, 300)} {
		_, err := readVersion(b)
		require.ErrorIs(t, err, ErrShape)
	}
}

// traced is a factory that listens to some functions.
type traced struct{ every int }

func (l traced) NewFunctionListener(def api.FunctionDefinition) experimental.FunctionListener {
	if int(def.Index())%l.every != 0 {
		return nil
	}
	return experimental.FunctionListenerFunc(func(context.Context, api.Module, api.FunctionDefinition, []uint64, experimental.StackIterator) {})
}

func TestKeysArePredicted(t *testing.T) {
	w := probed(t)
	var imports wasmtest.Module
	imports.Import("env", "g", imports.Type(nil, nil))
	imports.Func(0, "f")
	for _, wasm := range [][]byte{canary, wasmtest.Const(1), wasmtest.Sum(50, 3), imports.Bytes(), []byte("\x00asm\x01\x00\x00\x00")} {
		for _, term := range []bool{false, true} {
			rc := wazero.NewRuntimeConfig().WithCloseOnContextDone(term)
			conf, err := ReadConfig(rc)
			require.NoError(t, err)
			require.Equal(t, term, conf.CloseOnContextDone)

			seen := &files{}
			require.NoError(t, compileOver(t, bg, rc, seen, wasm))
			require.Equal(t, []WazeroKey{w.Key(wasm, term)}, seen.asked)

			for _, every := range []int{1, 2, 1000} {
				require.Nil(t, w.Listeners(bg))
				ctx := experimental.WithFunctionListenerFactory(bg, traced{every})
				require.Equal(t, traced{every}, w.Listeners(ctx))
				key := &ListenerKey{FunctionListenerFactory: traced{every}}
				seen := &files{}
				require.NoError(t, compileOver(t, experimental.WithFunctionListenerFactory(bg, key), rc, seen, wasm))
				require.Equal(t, []WazeroKey{key.Key(w, wasm, term)}, seen.asked)
			}
		}
	}
}
