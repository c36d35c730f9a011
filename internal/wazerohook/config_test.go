package wazerohook

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// Every setting that a RuntimeConfig has must show in Fields, or two configurations
// would share machine code that differs.
func TestConfigsThatDifferReadDifferently(t *testing.T) {
	rc := wazero.NewRuntimeConfig
	seen := map[string]string{}
	for name, c := range map[string]wazero.RuntimeConfig{
		"default":        rc(),
		"interpreter":    wazero.NewRuntimeConfigInterpreter(),
		"core v1":        rc().WithCoreFeatures(api.CoreFeaturesV1),
		"threads":        rc().WithCoreFeatures(api.CoreFeaturesV2 | experimental.CoreFeaturesThreads),
		"memory limit":   rc().WithMemoryLimitPages(100),
		"memory at max":  rc().WithMemoryCapacityFromMax(true),
		"no debug info":  rc().WithDebugInfoEnabled(false),
		"custom":         rc().WithCustomSections(true),
		"close on done":  rc().WithCloseOnContextDone(true),
		"custom + close": rc().WithCustomSections(true).WithCloseOnContextDone(true),
	} {
		conf, err := ReadConfig(c)
		require.NoError(t, err, name)
		require.Equal(t, name == "interpreter", Interpreted(c), name)
		require.Empty(t, seen[conf.Fields], "%s reads like another", name)
		seen[conf.Fields] = name

		cached, err := ReadConfig(c.WithCompilationCache(wazero.NewCompilationCache()))
		require.NoError(t, err)
		require.Equal(t, conf, cached, "the cache is not a setting")
	}
}

type (
	wrappedConfig struct{ wazero.RuntimeConfig }
	stringConfig  struct {
		wazero.RuntimeConfig
		ensureTermination bool
	}
	promotedTermination struct{ *promoted }
	promoted            struct {
		ensureTermination bool
		engineKind        int
		wazero.RuntimeConfig
	}
)

func TestUnknownConfigs(t *testing.T) {
	for _, rc := range []wazero.RuntimeConfig{nil, (*wrappedConfig)(nil), wrappedConfig{}, &wrappedConfig{}, &stringConfig{ensureTermination: true}, &promotedTermination{},
		&promotedTermination{&promoted{ensureTermination: true, engineKind: 1}}} {
		_, err := ReadConfig(rc)
		require.ErrorIs(t, err, ErrShape, "%T", rc)
		require.False(t, Interpreted(rc), "%T", rc)
	}
}
