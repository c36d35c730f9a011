package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRuntimeFirstOfAProcess has the race detector watch the first runtimes of a program. A test can't: wazero
// looks for its version among a program's dependencies, and go test lists none.
func TestRuntimeFirstOfAProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT TESTED with -short: the first runtimes of a process, for which a program is built")
	}
	program := filepath.Join(t.TempDir(), "first.exe")
	if out, err := exec.Command("go", "build", "-race", "-o", program, "./testdata/first").CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: the first runtimes of a process, which takes a program with -race: %v: %s", err, out)
	}
	for range 5 {
		out, err := exec.Command(program).CombinedOutput()
		require.NoError(t, err, string(out))
	}
}
