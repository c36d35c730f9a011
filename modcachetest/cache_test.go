package modcachetest_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/modcachetest"
)

func ExampleCache() {
	// A test of yours:
	testPlugin := func(t *testing.T) {
		ctx := t.Context()
		r, err := modcachetest.Cache(t).NewRuntime(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close(ctx)
		mod, err := r.Instantiate(ctx, wasmtest.Const(42)) // your module
		if err != nil {
			t.Fatal(err)
		}
		res, err := mod.ExportedFunction("f").Call(ctx)
		if err != nil || res[0] != 42 {
			t.Fatal(res, err)
		}
	}
	_ = testPlugin
	fmt.Println("the second go test loads what the first compiled")
	// Output: the second go test loads what the first compiled
}

// TestMain gives the tests of this package a cache directory of their own, so that
// they leave the user's alone. It is that of the environment when a process begins.
func TestMain(m *testing.M) {
	const again = "MODCACHETEST_AGAIN"
	if os.Getenv(again) != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "modcachetest")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), append(cacheDirEnv(dir), again+"=1")...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	_ = os.RemoveAll(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// cacheDirEnv makes dir the user's cache directory, and names the directories of the
// go command, which follow the same variables.
func cacheDirEnv(dir string) []string {
	env := []string{"XDG_CACHE_HOME=" + dir, "LocalAppData=" + dir}
	if runtime.GOOS == "darwin" {
		env = append(env, "HOME="+dir)
	}
	names := []string{"GOCACHE", "GOMODCACHE", "GOPATH"}
	out, err := exec.Command("go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		return env // no go command that could mind
	}
	for i, value := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		env = append(env, names[i]+"="+strings.TrimSpace(value))
	}
	return env
}

// TestCacheIsNoTests runs where a test has a HOME of its own.
func TestCacheIsNoTests(t *testing.T) {
	for _, v := range cacheDirEnv(t.TempDir()) {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	here, err := os.UserCacheDir()
	require.NoError(t, err)
	require.NotContains(t, modcachetest.Cache(t).Status().Dir, here)
	require.NoDirExists(t, filepath.Join(here, "modcache-test"))
}

func TestCacheIsShared(t *testing.T) {
	ctx := t.Context()
	c := modcachetest.Cache(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			other := modcachetest.Cache(t)
			if other != c {
				t.Error("Cache returned another one")
				return
			}
			r, err := other.NewRuntime(ctx, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close(ctx)
			mod, err := r.Instantiate(ctx, wasmtest.Sum(20, 2))
			if err != nil {
				t.Error(err)
				return
			}
			res, err := mod.ExportedFunction("f").Call(ctx)
			if err != nil || res[0] != 212 {
				t.Error(res, err)
			}
		})
	}
	wg.Wait()
}

// A test that closes the cache takes nothing away from others.
func TestCacheAfterClose(t *testing.T) {
	ctx := t.Context()
	first := modcachetest.Cache(t)
	require.NoError(t, first.Close(ctx))
	second := modcachetest.Cache(t)
	require.NotSame(t, first, second)
	r, err := second.NewRuntime(ctx, nil)
	require.NoError(t, err)
	defer r.Close(ctx)
	_, err = r.CompileModule(ctx, wasmtest.Const(1))
	require.NoError(t, err)
	require.NoError(t, second.Flush(ctx), "the store is open")
}

// TestCacheAcrossRuns runs go test in a module of its own, edits the tested code and
// runs it again: it must find what the first run compiled, although it is another
// program.
func TestCacheAcrossRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("builds test binaries")
	}
	r, err := modcachetest.Cache(t).NewRuntime(t.Context(), nil)
	require.NoError(t, err)
	defer r.Close(t.Context())
	if r.Key(modcache.NewModule(nil)) == (modcache.Key{}) {
		t.Skip("wazero has no compiler for this platform")
	}
	m := newTestModule(t)

	cold := m.run("first version")
	require.Contains(t, cold, "code: first version")
	require.Contains(t, cold, "hits 0, compiles 1")

	warm := m.run("second version")
	require.Contains(t, warm, "code: second version")
	require.Contains(t, warm, "hits 1, compiles 0", "it is cold after an edit")
	require.NotContains(t, warm, "modcachetest:", "a warning")

	// It is no reason for the go command to run tests that it needn't.
	require.Contains(t, m.run("second version"), "(cached)")

	again := m.run("third version", "-count=3")
	require.NotContains(t, again, "compiles 1")
	require.Equal(t, 3, strings.Count(again, "--- PASS"), again)
}

// TestCacheCantBeOpened runs it where there is no cache directory to be had.
func TestCacheCantBeOpened(t *testing.T) {
	if testing.Short() {
		t.Skip("builds test binaries")
	}
	m := newTestModule(t)
	file := filepath.Join(m.dir, "not-a-directory")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	m.env = append(m.env, "XDG_CACHE_HOME="+file, "LocalAppData="+file, "HOME="+file) // and on macOS

	out := m.run("no cache", "-count=2")
	require.Equal(t, 1, strings.Count(out, "modcachetest: go test will compile modules anew each time"), out)
	require.Contains(t, out, "hits 0")
	require.Equal(t, 2, strings.Count(out, "--- PASS"), out)
}

// testModule is a module with one tested package.
type testModule struct {
	t   *testing.T
	dir string
	env []string
}

func newTestModule(t *testing.T) *testModule {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("SKIPPED, NOTHING WAS TESTED: no go command")
	}
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	m := &testModule{t: t, dir: t.TempDir()}
	m.env = append(os.Environ(), cacheDirEnv(t.TempDir())...)
	m.env = append(m.env, "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")

	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	// The same requirements, so that no version has to be looked up.
	text := regexp.MustCompile(`(?m)^module .*$`).ReplaceAllString(string(mod), "module edited")
	text += fmt.Sprintf("\nrequire github.com/modcache/modcache v0.0.0\n\nreplace github.com/modcache/modcache => %s\n", root)
	m.write("go.mod", text)
	sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	m.write("go.sum", string(sum))
	m.write("edited_test.go", fmt.Sprintf(editedTest, wasmtest.Sum(50, 0)))
	return m
}

const editedTest = `package edited

import (
	"context"
	"testing"

	"github.com/modcache/modcache/modcachetest"
)

func TestModule(t *testing.T) {
	ctx := context.Background()
	c := modcachetest.Cache(t)
	before := c.Metrics()
	r, err := c.NewRuntime(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(ctx)
	mod, err := r.Instantiate(ctx, []byte(%q))
	if err != nil {
		t.Fatal(err)
	}
	res, err := mod.ExportedFunction("f").Call(ctx)
	if err != nil || res[0] != 1275 {
		t.Fatal(res, err)
	}
	after := c.Metrics()
	t.Logf("code: %%s, hits %%d, compiles %%d", version, after.Hits-before.Hits, after.Compiles-before.Compiles)
}
`

func (m *testModule) write(name, text string) {
	require.NoError(m.t, os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o600))
}

// run edits the tested code, and tests it.
func (m *testModule) run(version string, flags ...string) string {
	m.write("edited.go", fmt.Sprintf("package edited\n\nconst version = %q\n", version))
	args := append([]string{"test", "-v"}, flags...)
	cmd := exec.CommandContext(m.t.Context(), "go", append(args, ".")...)
	cmd.Dir, cmd.Env = m.dir, m.env
	out, err := cmd.CombinedOutput()
	if err != nil && regexp.MustCompile(`GOPROXY=off|missing go.sum entry`).Match(out) {
		m.t.Skipf("SKIPPED, NOTHING WAS TESTED: modules are missing and must not be downloaded:\n%s", out)
	}
	require.NoError(m.t, err, "%s", out)
	return string(out)
}
