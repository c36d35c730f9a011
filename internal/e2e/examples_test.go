package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestExamplesCanBeCopied has somebody copy the examples into a module of his own, with their tests.
func TestExamplesCanBeCopied(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("NOT TESTED: copies of examples, which needs the go tool")
	}
	root, copied := moduleRoot(t), t.TempDir()
	dirs, err := os.ReadDir(filepath.Join(root, "examples"))
	require.NoError(t, err)
	n := 0
	for _, d := range dirs {
		from := filepath.Join(root, "examples", d.Name())
		if _, err := os.Stat(filepath.Join(from, "go.mod")); err == nil || !d.IsDir() {
			continue // a module already
		}
		if d.Name() == "guest" || d.Name() == "exampletest" {
			continue // which the copies import
		}
		require.NoError(t, os.CopyFS(filepath.Join(copied, d.Name()), os.DirFS(from)))
		n++
	}
	require.NotZero(t, n)

	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	mod = regexp.MustCompile(`(?m)^module .*`).ReplaceAll(mod, []byte("module copied"))
	mod = append(mod, "\nrequire github.com/modcache/modcache v0.0.0\n\nreplace github.com/modcache/modcache => "+root+"\n"...)
	require.NoError(t, os.WriteFile(filepath.Join(copied, "go.mod"), mod, 0o600))
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(copied, "go.sum"), sum, 0o600))

	// vet compiles them and their tests, and links nothing.
	vet := exec.Command("go", "vet", "-mod=mod", "./...")
	vet.Dir = copied
	vet.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "GOPROXY=off")
	out, err := vet.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
