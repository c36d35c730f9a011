package modcache_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"golang.org/x/sys/unix"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestRuntimeInAProcessWithoutExecutableMemory runs in a process of its own, which forbids itself to make memory
// executable. From then on, wazero interprets what would run on a stub's traps, or panics.
func TestRuntimeInAProcessWithoutExecutableMemory(t *testing.T) {
	needsCompiler(t)
	if os.Getenv("MODCACHE_NO_EXECUTABLE") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), "MODCACHE_NO_EXECUTABLE=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		if _, why, skipped := strings.Cut(string(out), "NOT TESTED: "); skipped {
			t.Skip("NOT TESTED:", why)
		}
		return
	}
	ctx := context.Background()
	c, err := modcache.New(modcache.NewMemory(nil), nil)
	require.NoError(t, err)
	run := func() (string, error) {
		r, err := c.NewRuntime(ctx, nil)
		require.NoError(t, err)
		mod, err := r.InstantiateWithConfig(ctx, wasmtest.Const(9), anonymous())
		if err != nil {
			return "", err
		}
		return invoke(mod, "f"), nil
	}
	for range 3 {
		got, err := run()
		require.NoError(t, err)
		require.Equal(t, "[9]", got)
	}
	const refuseGain = 1
	if err := unix.Prctl(unix.PR_SET_MDWE, refuseGain, 0, 0, 0); err != nil {
		t.Skip("NOT TESTED: this kernel doesn't forbid a process to make memory executable:", err)
	}
	if err := contain.Call(func() error { wazero.NewRuntime(ctx); return nil }); err != nil { // before v1.12
		_, err = c.NewRuntime(ctx, nil)
		require.ErrorIs(t, err, modcache.ErrUnsupportedWazero)
		require.ErrorContains(t, err, "MemoryDenyWriteExecute")
		require.Error(t, (<-c.Prepare(ctx, nil, modcache.NewModule(wasmtest.Const(10)))).Err)
		return
	}
	for range 3 {
		got, err := run()
		require.NoError(t, err)
		require.Equal(t, "[9]", got)
	}
}
