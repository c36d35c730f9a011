package cachetest

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const apart = "MODCACHE_TEST_APART" // the test that the process is for

// Apart reports whether this process is the test's own, which it may spoil. If not, the test runs in one of its own, if there is
// a compiler; it passes there or says what isn't tested, and there is nothing left to do for the caller.
func Apart(t *testing.T) bool {
	t.Helper()
	if os.Getenv(apart) == t.Name() {
		return true
	}
	NeedsCompiler(t) // which this process may find out
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), apart+"="+t.Name())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	if _, why, skipped := strings.Cut(string(out), "NOT TESTED: "); skipped {
		t.Skip("NOT TESTED:", why)
	}
	require.Contains(t, string(out), "--- PASS: "+t.Name())
	return false
}

// DenyExecutable forbids this process for good to make memory executable.
func DenyExecutable(t *testing.T) {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_MDWE, unix.PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0); err != nil {
		t.Skip("NOT TESTED: denied executable memory, which needs Linux 6.3:", err)
	}
}
