package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/examples/exampletest"
)

// The program is built with a bundle that is generated for this machine, and finds no place to
// write to.
func TestEmbedded(t *testing.T) {
	exampletest.NeedCompiler(t)
	exampletest.NeedToolchain(t)
	tmp := t.TempDir()
	made := filepath.Join(tmp, "plugins.bundle")
	command(t, "go", "run", "github.com/modcache/modcache/cmd/modcache", "bundle", "-o", made, "-program", ".", "plugins")

	here, err := filepath.Abs("plugins.bundle")
	require.NoError(t, err)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{here: made}})
	require.NoError(t, err)
	file := filepath.Join(tmp, "overlay.json")
	require.NoError(t, os.WriteFile(file, overlay, 0o600))
	program := filepath.Join(tmp, "embedded.exe")
	command(t, "go", "build", "-overlay", file, "-o", program, ".")

	cmd := exec.Command(program, "3", "4")
	cmd.Dir, cmd.Env = "/", []string{"TMPDIR=/nonexistent"}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, "7, 0 compiled\n", string(out))
}

func command(t *testing.T, args ...string) {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	require.NoError(t, err, string(out))
}

// As it is in the repository, nothing is in the bundle.
func TestEmbeddedNothing(t *testing.T) {
	exampletest.NeedCompiler(t)
	if len(bundle) > 4<<10 {
		t.Skip("NOT TESTED: go generate has filled plugins.bundle")
	}
	err := run(t.Context(), []string{"3", "4"}, new(bytes.Buffer))
	require.ErrorIs(t, err, modcache.ErrMiss)
	require.ErrorContains(t, err, "run go generate")
	require.ErrorContains(t, err, "bundle is empty")
}
