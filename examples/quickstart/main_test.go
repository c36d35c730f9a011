package main

import (
	"os"
	"os/exec"
	"path/filepath"
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
	require.Regexp(t, `(?s)artifact +[0-9a-f]{64}, .* MB, in .*first process +miss, compiled in .*second process +hit, loaded.*hello from a guest on wasip1/wasm`, string(out))
}

// TestForeignImports has a module that needs more than WASI: it is compiled and loaded, and
// what it lacks is named.
func TestForeignImports(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env.wasm")
	require.NoError(t, os.WriteFile(file, importer, 0o600))
	out, err := exec.Command("go", "run", ".", "-dir", t.TempDir()+"/cache", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `(?s)first process +miss, compiled in .*second process +hit, loaded.*not run +it imports the function env\.f`, string(out))
}

// importer is (module (import "env" "f" (func)) (func)).
var importer = []byte("\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x02\x09\x01\x03env\x01f\x00\x00\x03\x02\x01\x00\x0a\x04\x01\x02\x00\x0b")

func TestNotAModule(t *testing.T) {
	out, err := exec.Command("go", "run", ".", "-dir", t.TempDir()+"/cache", "main.go").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "quickstart: main.go: invalid magic number")
}
