package wazerohook

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/wasmtest"
)

// refusing fails each Get, and remembers the key.
type refusing struct {
	files
	err error
}

func (r *refusing) Get(key WazeroKey) (io.ReadCloser, bool, error) {
	r.asked = append(r.asked, key)
	return nil, false, r.err
}

func (r *refusing) last() (key WazeroKey, ok bool) {
	if len(r.asked) == 0 {
		return key, false
	}
	return r.asked[len(r.asked)-1], true
}

func look(t testing.TB, rc wazero.RuntimeConfig, said, expected error, misread func(*Config)) (*Wazero, error) {
	conf, err := ReadConfig(rc)
	require.NoError(t, err)
	misread(&conf)
	fc := &refusing{err: said}
	cc := plugged(t, fc)
	r := wazero.NewRuntimeWithConfig(bg, rc.WithCompilationCache(cc))
	defer r.Close(bg)
	return Look(r, cc, conf, fc.last, expected)
}

var errRefusal = errors.New("refused")

// TestLookFindsWhatProbeDoes, without compiling anything, under all kinds of settings.
func TestLookFindsWhatProbeDoes(t *testing.T) {
	probe := probed(t)
	rc := wazero.NewRuntimeConfig
	for name, config := range map[string]wazero.RuntimeConfig{
		"default":       rc(),
		"old":           rc().WithCoreFeatures(api.CoreFeaturesV1),
		"all":           rc().WithCoreFeatures(wasmtest.AllFeatures &^ wasmtest.TypedFunctionReferences),
		"close on done": rc().WithCloseOnContextDone(true),
		"no debug info": rc().WithDebugInfoEnabled(false),
	} {
		w, err := look(t, config, errRefusal, errRefusal, func(*Config) {})
		require.NoError(t, err, name)
		require.Equal(t, &Wazero{Version: probe.Version, CPU: probe.CPU, listenerKey: probe.listenerKey}, w, name)
		_, err = look(t, config, errRefusal, errRefusal, func(c *Config) { c.CloseOnContextDone = !c.CloseOnContextDone })
		require.ErrorIs(t, err, ErrShape, "%s, misread", name)
	}
	_, err := look(t, wazero.NewRuntimeConfigInterpreter(), errRefusal, errRefusal, func(*Config) {})
	require.ErrorIs(t, err, ErrInterpreter)
}

// TestLookNeedsErrorsOfGet: a wazero that compiles when its cache fails would compile stubs.
func TestLookNeedsErrorsOfGet(t *testing.T) {
	probed(t)
	for _, said := range []error{nil, fmt.Errorf("something else: %v", errRefusal)} {
		_, err := look(t, wazero.NewRuntimeConfig(), said, errRefusal, func(*Config) {})
		require.ErrorIs(t, err, ErrShape, "%v", said)
	}
}

func TestSupported(t *testing.T) {
	probed(t)
	require.NoError(t, Supported())
}

// TestVersionOfUnknownShapes finds nothing rather than anything wrong, and asks the probe.
func TestVersionOfUnknownShapes(t *testing.T) {
	w := probed(t)
	type unversioned struct{ io.Closer }
	for _, cc := range []any{
		nil, 3, (*looksRight)(nil), &renamedField{}, &noEngines{}, &mapOfEngines{}, &enginePointers{}, new(notAStruct),
		&looksRight{}, &looksRight{engs: [2]engineLike{&unversioned{}, &unversioned{}}},
		&looksRight{engs: [2]engineLike{(*unversioned)(nil), unversioned{}}},
	} {
		require.Empty(t, versionIn(reflect.ValueOf(cc)), "%T", cc)
	}
	cc := wazero.NewCompilationCache() // without an engine
	require.Empty(t, versionIn(reflect.ValueOf(cc)))
	version, err := Version(cc)
	require.NoError(t, err)
	require.Equal(t, w.Version, version)
	r := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCompilationCache(cc))
	defer r.Close(bg)
	require.Equal(t, w.Version, versionIn(reflect.ValueOf(cc)))
}

func BenchmarkLook(b *testing.B) {
	conf, _ := ReadConfig(wazero.NewRuntimeConfig())
	fc := &refusing{err: errRefusal}
	cc := plugged(b, fc)
	r := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCompilationCache(cc))
	defer r.Close(bg)
	for b.Loop() {
		if _, err := Look(r, cc, conf, fc.last, errRefusal); err != nil {
			b.Fatal(err)
		}
	}
}
