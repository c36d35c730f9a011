package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/wasmtest"
)

// The program and the test tell the identity they find, and what a Cache in them does.
const (
	identityProgram = `package main

import (
	"fmt"

	"example.com/app/lib"
)

func main() { fmt.Println("EDIT", lib.Tell()) }
`
	identityTell = `package lib

import (
	"context"
	"fmt"
	"os"

	"github.com/modcache/modcache"
	"github.com/tetratelabs/wazero"
)

var canary = []byte("\x00asm\x01\x00\x00\x00\x01\x05\x01\x60\x00\x01\x7f\x03\x02\x01\x00\x07\x05\x01\x01f\x00\x00\x0a\x06\x01\x04\x00\x41\x2a\x0b")

func Tell() string {
	dir, err := os.MkdirTemp("", "identity")
	if err != nil {
		return err.Error()
	}
	defer os.RemoveAll(dir)
	var off error
	ctx := context.Background()
	c, err := modcache.Open(dir+"/c", &modcache.Options{Retain: -1, OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventDegraded && off == nil {
			off = e.Err
		}
	}})
	if err != nil {
		return err.Error()
	}
	defer c.Close(ctx)
	for range 2 {
		plain := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCompilationCache(c.CompilationCache()))
		ours, err := c.NewRuntime(ctx, nil)
		if err != nil {
			return err.Error()
		}
		for _, r := range []wazero.Runtime{plain, ours} {
			mod, err := r.Instantiate(ctx, canary)
			if err != nil {
				return err.Error()
			}
			res, err := mod.ExportedFunction("f").Call(ctx)
			if err != nil || res[0] != 42 {
				return fmt.Sprint("wrong: ", res, err)
			}
			r.Close(ctx)
		}
	}
	return fmt.Sprintf("ENGINE <%s> HITS <%d> OFF <%v> ATTACH <%v>", c.EngineID(), c.Metrics().Hits, off, c.Attach(wazero.NewCompilationCache()))
}
`
	// Test binaries of a package main list their modules, those of others don't.
	identityMainTest = `package main

import (
	"testing"

	"example.com/app/lib"
)

func TestTell(t *testing.T) { t.Log("EDIT", lib.Tell()) }
`
	identityLibTest = `package lib

import "testing"

func TestTell(t *testing.T) { t.Log("EDIT", Tell()) }
`
)

// project is a module in a directory of its own that uses modcache and wazero.
type project struct {
	t   testing.TB
	dir string
}

func newProject(t testing.TB, goMod string) project {
	t.Helper()
	root := moduleRoot(t)
	p := project{t, t.TempDir()}
	require.NoError(t, os.Mkdir(filepath.Join(p.dir, "lib"), 0o700))
	ours, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	// What we require, and ourselves from where this test runs.
	text := regexp.MustCompile(`(?m)^module .*`).ReplaceAllString(string(ours), "module example.com/app")
	text += fmt.Sprintf("\nrequire github.com/modcache/modcache v0.0.0\n\nreplace github.com/modcache/modcache => %s\n%s\n", root, goMod)
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	for name, content := range map[string]string{
		"go.mod": text, "go.sum": string(sums), "main.go": identityProgram, "main_test.go": identityMainTest,
		"lib/tell.go": identityTell, "lib/tell_test.go": identityLibTest,
	} {
		p.write(name, content)
	}
	return p
}

func (p project) write(name, content string) {
	require.NoError(p.t, os.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o600))
}

// edit changes the program, and nothing that could change wazero.
func (p project) edit() project {
	for _, name := range []string{"main.go", "main_test.go", "lib/tell_test.go"} {
		b, err := os.ReadFile(filepath.Join(p.dir, name))
		require.NoError(p.t, err)
		p.write(name, strings.ReplaceAll(string(b), "EDIT", "EDIT again"))
	}
	return p
}

func (p project) command(name string, args ...string) string {
	p.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
	if slices.Contains(args, "-mod=vendor") {
		cmd.Env = append(cmd.Env, "GOFLAGS=")
	}
	out, err := cmd.CombinedOutput()
	require.NoError(p.t, err, "%s %v\n%s", name, args, out)
	return string(out)
}

type told struct{ engine, hits, off, attach string }

var tale = regexp.MustCompile(`(?s)ENGINE <(.*?)> HITS <(.*?)> OFF <(.*)> ATTACH <(.*)>`)

func (p project) told(out string) told {
	p.t.Helper()
	m := tale.FindStringSubmatch(out)
	require.NotNil(p.t, m, out)
	return told{m[1], m[2], m[3], m[4]}
}

func (p project) build(flags ...string) told {
	p.t.Helper()
	bin := filepath.Join(p.dir, "app.exe")
	p.command("go", append(append([]string{"build", "-o", bin}, flags...), ".")...)
	return p.told(p.command(bin))
}

func (p project) test(pkg string, flags ...string) told {
	p.t.Helper()
	return p.told(p.command("go", append([]string{"test", "-count=1", "-v", pkg}, flags...)...))
}

// wazeroCopy returns a copy of wazero's source, with a change.
func wazeroCopy(t testing.TB, file, old, new string) string {
	src, err := wasmtest.WazeroDir()
	require.NoError(t, err)
	dst := t.TempDir()
	require.NoError(t, filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(src, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || rel == "site" || rel == "examples"):
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(dst, rel), 0o700)
		case strings.HasSuffix(rel, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if filepath.ToSlash(rel) == file {
			require.Contains(t, string(b), old)
			b = []byte(strings.ReplaceAll(string(b), old, new))
		}
		return os.WriteFile(filepath.Join(dst, rel), b, 0o600)
	}))
	return dst
}

// TestIdentityOfVendoredBuilds builds a program whose wazero has no checksum, with two wazeros, in each way that there is of building. It
// takes minutes, and so needs MODCACHE_BUILDS to be set.
func TestIdentityOfVendoredBuilds(t *testing.T) {
	needsCompiler(t)
	if os.Getenv("MODCACHE_BUILDS") == "" && !thorough {
		t.Skip("NOT TESTED: identities of vendored builds; set MODCACHE_BUILDS=1")
	}
	if _, err := wasmtest.WazeroDir(); err != nil {
		t.Skipf("NOT TESTED: identities of vendored builds, which needs the go tool and a module cache: %v", err)
	}
	t.Parallel()
	p := newProject(t, "")
	p.command("go", "mod", "vendor")
	file := filepath.Join(p.dir, "vendor/github.com/tetratelabs/wazero/internal/engine/wazevo/engine_cache.go")
	before, err := os.ReadFile(file)
	require.NoError(t, err)
	const line = "// Read the header before the native code."
	require.Contains(t, string(before), line)
	after := []byte(strings.Replace(string(before), line, "if len(magic) > 1000 { return }", 1))

	seen := map[string]string{}
	for _, c := range []struct {
		flags []string
		quick bool // there is an id, so that the file needn't be hashed
	}{
		{nil, true},
		{[]string{"-trimpath"}, true},
		{[]string{"-buildvcs=false"}, true},
		{[]string{"-ldflags=-s -w"}, true},
		{[]string{"-buildmode=pie"}, true},
		{[]string{"-ldflags=-buildid="}, false},
		{[]string{"-ldflags=-buildid=redacted"}, false},
	} {
		name, ids := fmt.Sprint(c.flags), map[string]string{}
		for version, text := range map[string][]byte{"before": before, "after": after} {
			require.NoError(t, os.WriteFile(file, text, 0o600))
			x := p.build(append(c.flags, "-mod=vendor")...)
			require.Equal(t, "<nil>", x.off, name)
			require.Equal(t, "2", x.hits, name)
			require.Equal(t, c.quick, strings.Count(x.engine, "/") == 3, "%s: %s", name, x.engine)
			ids[version] = x.engine
			t.Logf("%-30s %-6s %s", name, version, x.engine)
		}
		require.NotEqual(t, ids["before"], ids["after"], "%s: another wazero has the same identity", name)
		for _, id := range ids {
			require.True(t, seen[id] == "" || name == "[-buildvcs=false]", "%s and %s", name, seen[id])
			seen[id] = name
		}
	}
}

// TestIdentityOfBuilds builds programs in all the ways that people do, which takes
// the Go toolchain and half a minute or more, and so needs MODCACHE_BUILDS to be set.
func TestIdentityOfBuilds(t *testing.T) {
	needsCompiler(t)
	if os.Getenv("MODCACHE_BUILDS") == "" && !thorough {
		t.Skip("NOT TESTED: identities of builds; set MODCACHE_BUILDS=1")
	}
	if _, err := wasmtest.WazeroDir(); err != nil {
		t.Skipf("NOT TESTED: identities of builds, which needs the go tool and a module cache: %v", err)
	}
	t.Parallel()
	seen := map[string]told{}
	record := func(name string, x told) told {
		t.Logf("%-22s %s", name, x.engine)
		seen[name] = x
		return x
	}

	plain := newProject(t, "")
	record("plain", plain.build())
	record("trimpath", plain.build("-trimpath"))
	record("stripped", plain.build("-ldflags=-s -w"))
	record("test", plain.test("./lib"))
	record("test of main", plain.test("."))
	record("test trimpath", plain.test("./lib", "-trimpath"))
	record("run", plain.told(plain.command("go", "run", ".")))
	other := newProject(t, "").edit()
	record("elsewhere, edited", other.build())
	record("test elsewhere, edited", other.test("./lib"))
	record("test trimpath, edited", other.test("./lib", "-trimpath"))

	// The same version as plain, but another code: an instruction's cost, say.
	patched := wazeroCopy(t, "internal/engine/wazevo/engine_cache.go", "// Read the header before the native code.", "_ = len(magic)")
	replaced := newProject(t, "replace github.com/tetratelabs/wazero => "+patched)
	record("replaced", replaced.build())
	record("replaced trimpath", replaced.build("-trimpath"))
	record("replaced test", replaced.test("./lib"))
	record("replaced, edited", replaced.edit().build())

	vendored := newProject(t, "")
	vendored.command("go", "mod", "vendor")
	record("vendored", vendored.build("-mod=vendor"))
	record("vendored test", vendored.test("./lib", "-mod=vendor"))

	for name, x := range seen {
		require.Equal(t, "<nil>", x.off, name)
		require.Equal(t, "<nil>", x.attach, name)
		require.Equal(t, "2", x.hits, name)
	}
	// The same wazero, known by its checksum, wherever and however it is built.
	for _, name := range []string{"trimpath", "stripped", "test", "test of main", "run", "elsewhere, edited", "test elsewhere, edited"} {
		require.Equal(t, seen["plain"].engine, seen[name].engine, name)
	}
	require.Contains(t, seen["plain"].engine, " h1:")
	// What isn't known by a checksum is like nothing else.
	unknown := map[string]string{}
	for _, name := range []string{"plain", "test trimpath", "test trimpath, edited", "replaced", "replaced trimpath", "replaced test", "replaced, edited", "vendored", "vendored test"} {
		id := seen[name].engine
		require.Empty(t, unknown[id], "%s has the identity of another", name)
		unknown[id] = name
		if name != "plain" {
			require.Contains(t, id, "executable ", name)
		}
	}

	t.Run("unknown shape", func(t *testing.T) {
		// A wazero whose cache has its files under another name.
		dir := wazeroCopy(t, "cache.go", "fileCache", "files")
		x := newProject(t, "replace github.com/tetratelabs/wazero => "+dir).build()
		require.Equal(t, "0", x.hits)
		require.Contains(t, x.off, "unknown shape")
		require.Contains(t, x.attach, "unsupported wazero version")
	})
	t.Run("unknown keys", func(t *testing.T) {
		// A wazero that names modules in another way: the drop-in still serves.
		dir := wazeroCopy(t, "internal/engine/wazevo/engine_cache.go", "s.Write(magic)", "s.Write(magic[1:])")
		x := newProject(t, "replace github.com/tetratelabs/wazero => "+dir).build()
		require.Equal(t, "3", x.hits, "both ways in are the drop-in, and share")
		require.Contains(t, x.off, "keys")
		require.Equal(t, "<nil>", x.attach)
	})
}
