package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestDoctorWithoutExecutableMemory runs in a process that may not make memory executable.
func TestDoctorWithoutExecutableMemory(t *testing.T) {
	if !cachetest.Apart(t) {
		return
	}
	cachetest.DenyExecutable(t)
	file := filepath.Join(t.TempDir(), "m.wasm")
	require.NoError(t, os.WriteFile(file, wasmtest.Const(1), 0o600))
	o := call("doctor", "-dir", t.TempDir(), file).want(t, exitFound)
	require.Contains(t, o.out, "may not make memory executable")
	o = call("key", file).want(t, exitOK)
	require.Contains(t, o.out, "none: ")
}
