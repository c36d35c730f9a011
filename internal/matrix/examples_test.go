package matrix

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/wasmtest"
)

// TestExamplesWithoutACache runs the examples against a wazero all of whose unexported names
// are others: they do their work, uncached. Only those that insist on their cache say
// that they can't have it.
func TestExamplesWithoutACache(t *testing.T) {
	if os.Getenv("MODCACHE_MATRIX") == "" {
		t.Skip("builds many programs; set MODCACHE_MATRIX")
	}
	dir, err := wasmtest.WazeroDir()
	if err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	bin, module := t.TempDir(), filepath.Join(t.TempDir(), "go.mod")
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(strings.TrimSuffix(module, "go.mod")+name, b, 0o600))
	}
	gomod := func(args ...string) {
		out, err := exec.Command("go", append([]string{"mod", "edit"}, append(args, module)...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	gomod("-replace=" + wazeroModule + "=" + patch(t, dir, nil))

	mains, err := filepath.Glob(filepath.Join(root, "examples", "*", "main.go"))
	require.NoError(t, err)
	require.NotEmpty(t, mains)
	build := []string{"build", "-modfile=" + module, "-mod=mod", "-trimpath", "-buildvcs=false", "-o", bin + string(os.PathSeparator)}
	var names []string
	for _, main := range mains {
		example := filepath.Dir(main)
		if _, err := os.Stat(filepath.Join(example, "go.mod")); err == nil {
			continue // of a module of its own
		}
		names = append(names, filepath.Base(example))
		build = append(build, "./examples/"+filepath.Base(example))
	}
	cmd := exec.Command("go", build...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "GOPROXY=off")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)

	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(filepath.Join(bin, name), arguments[name]...)
			cmd.Dir, cmd.Env = root, append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir())
			cmd.Stdin = strings.NewReader("two words\n")
			switch name {
			case "perrequest", "pluginhost":
				served(t, cmd)
			case "readonly", "embedded":
				out, err := cmd.CombinedOutput()
				require.Error(t, err, "%s", out)
				require.Contains(t, string(out), "unsupported wazero version")
			default:
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
				require.NotEmpty(t, out)
			}
		})
	}
}

// arguments are those that an example needs.
var arguments = map[string][]string{"perrequest": {"-addr", "127.0.0.1:0"}, "pluginhost": {"-addr", "127.0.0.1:0"}, "readonly": {"run", "-dir", os.TempDir(), "module.wasm"}, "embedded": {"3", "4"}}

// served waits until a server says that it is there, and interrupts it.
func served(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.StderrPipe()
	require.NoError(t, err)
	cmd.Stdout = cmd.Stderr
	require.NoError(t, cmd.Start())
	defer time.AfterFunc(5*time.Minute, func() { _ = cmd.Process.Kill() }).Stop()
	line, _ := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait(), line)
	require.NotEmpty(t, line)
}
