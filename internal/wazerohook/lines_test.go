package wazerohook

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
)

// TestForgetLinesOfWhatLooksDifferent does nothing. That it has those of a module forgotten is seen in what a Runtime retains.
func TestForgetLinesOfWhatLooksDifferent(t *testing.T) {
	r := wazero.NewRuntime(bg)
	defer r.Close(bg)
	cm, err := r.CompileModule(bg, canary)
	require.NoError(t, err)
	require.True(t, ForgetLines(cm), "without debug info")
	for _, cm := range []wazero.CompiledModule{nil, (*strangeModule)(nil), &strangeModule{}, strangeModule{}} {
		require.False(t, ForgetLines(cm))
	}
}
