package wazerohook

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/wasmtest"
)

// TestProveKnowsAllSettings of the wazero in use.
func TestProveKnowsAllSettings(t *testing.T) {
	w := probed(t)
	rc := wazero.NewRuntimeConfig
	for name, config := range map[string]wazero.RuntimeConfig{
		"default":       rc(),
		"old":           rc().WithCoreFeatures(api.CoreFeaturesV1),
		"all":           rc().WithCoreFeatures(wasmtest.AllFeatures &^ wasmtest.TypedFunctionReferences),
		"close on done": rc().WithCloseOnContextDone(true),
		"no debug info": rc().WithDebugInfoEnabled(false),
	} {
		conf, err := ReadConfig(config)
		require.NoError(t, err)
		layout, err := w.Prove(config, conf)
		require.NoError(t, err, name)
		require.NoError(t, layout, name)
		conf.CloseOnContextDone = !conf.CloseOnContextDone
		_, err = w.Prove(config, conf)
		require.ErrorIs(t, err, ErrShape, "%s, misread", name)
	}
	_, err := w.Prove(wazero.NewRuntimeConfigInterpreter(), Config{})
	require.ErrorIs(t, err, ErrInterpreter)
}

// TestCanaryHasAllParts that an entry may have.
func TestCanaryHasAllParts(t *testing.T) {
	w := probed(t)
	for _, test := range []struct {
		wasm     []byte
		features api.CoreFeatures
		catches  bool
	}{
		{plainCanary, api.CoreFeaturesV1, false},
		{fullCanary, api.CoreFeaturesV2 | wasmtest.ExceptionHandling, true},
	} {
		if test.catches && !hasCatchTables(w) {
			continue // this wazero knows no exceptions
		}
		seen := &probeCache{}
		require.NoError(t, seen.compile(bg, wazero.NewRuntimeConfig().WithCoreFeatures(test.features), test.wasm))
		_, b, _ := seen.last()
		e, err := read(b, w.Version, 1)
		require.NoError(t, err)
		require.EqualValues(t, 1, e.tail[4], "no source map")
		if test.catches {
			require.Equal(t, "\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00", string(e.tail[len(e.tail)-18:]))
		}
	}
}

func BenchmarkProve(b *testing.B) {
	w := probed(b)
	rc := wazero.NewRuntimeConfig()
	conf, _ := ReadConfig(rc)
	for b.Loop() {
		if _, err := w.Prove(rc, conf); err != nil {
			b.Fatal(err)
		}
	}
}
