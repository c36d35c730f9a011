package main

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestQuickstart runs the command as a newcomer would: the second process must
// load what the first compiled, and the guest must run.
func TestQuickstart(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a Go program for WASI, which takes a while")
	}
	out, err := exec.Command("go", "run", ".", "-dir", t.TempDir()+"/cache").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `(?s)artifact +[0-9a-f]{64}, .* MB, in .*first process +miss, compiled in .*hello from a guest on wasip1/wasm\nsecond process +hit, loaded`, string(out))
}

func TestNotAModule(t *testing.T) {
	out, err := exec.Command("go", "run", ".", "-dir", t.TempDir()+"/cache", "main.go").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "quickstart: main.go: invalid magic number")
}
