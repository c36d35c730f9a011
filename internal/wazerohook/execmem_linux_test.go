package wazerohook

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestExecutableMemory(t *testing.T) {
	require.NoError(t, tryExecutableMemory())
	require.NoError(t, diagnose(nil))
	require.Equal(t, ErrShape, diagnose(ErrShape), "there is no better reason")
}

// TestExecutableMemoryDenied probes in a process that may not make memory executable.
func TestExecutableMemoryDenied(t *testing.T) {
	const variable = "MODCACHE_TEST_MDWE"
	if os.Getenv(variable) != "" {
		if err := unix.Prctl(unix.PR_SET_MDWE, unix.PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0); err != nil {
			t.Skip(err)
		}
		_, err := Probe()
		require.ErrorIs(t, err, ErrExecutableMemory)
		require.ErrorIs(t, err, os.ErrPermission)
		require.True(t, errors.Is(err, ErrInterpreter) || errors.Is(err, ErrShape), "%v", err)
		require.NotContains(t, err.Error(), "unknown shape")
		require.NotContains(t, err.Error(), "no compiler for this platform")
		return
	}
	if _, err := Probe(); err != nil {
		t.Skip("NOT TESTED: denied executable memory:", err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestExecutableMemoryDenied$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("NOT TESTED: denied executable memory, which needs Linux 6.3: %s", out)
	}
}
