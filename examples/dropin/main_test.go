package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/examples/exampletest"
)

func TestRun(t *testing.T) {
	exampletest.NeedCompiler(t)
	dir := filepath.Join(t.TempDir(), "cache")
	once := func() string {
		var out bytes.Buffer
		require.NoError(t, run(t.Context(), &out, dir, exampletest.Module(100, 1)))
		return out.String()
	}
	require.Regexp(t, "^compiled in ", once())
	require.Regexp(t, "^loaded from the cache in ", once())

	// Whatever happens to the directory, the program works.
	files, err := filepath.Glob(filepath.Join(dir, "?", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		require.NoError(t, os.Truncate(f, 100))
	}
	require.Regexp(t, "^compiled in ", once())
	require.Regexp(t, "^loaded from the cache in ", once())
}

// TestCommand runs the command as a newcomer would.
func TestCommand(t *testing.T) {
	exampletest.NeedToolchain(t)
	out, err := exec.CommandContext(t.Context(), "go", "run", ".", "-dir", t.TempDir()+"/cache").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `^compiled in .*\nhello from the guest\n$`, string(out))
}
