package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/modcache/modcache/internal/wasmtest"
)

// TestDoctorWithoutExecutableMemory runs in a process that may not make memory executable.
func TestDoctorWithoutExecutableMemory(t *testing.T) {
	const variable = "MODCACHE_TEST_NO_EXEC"
	if os.Getenv(variable) == "" {
		needsCompiler(t)
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), variable+"=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		if strings.Contains(string(out), "--- SKIP") {
			t.Skipf("NOT TESTED: denied executable memory, which needs Linux 6.3: %s", out)
		}
		return
	}
	if err := unix.Prctl(unix.PR_SET_MDWE, unix.PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0); err != nil {
		t.Skip(err)
	}
	file := filepath.Join(t.TempDir(), "m.wasm")
	require.NoError(t, os.WriteFile(file, wasmtest.Const(1), 0o600))
	o := call("doctor", "-dir", t.TempDir(), file).want(t, exitFound)
	require.Contains(t, o.out, "may not make memory executable")
	o = call("key", file).want(t, exitOK)
	require.Contains(t, o.out, "none: ")
}
