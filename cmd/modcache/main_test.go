package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/layout"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/internal/wazerohook"
)

var bg = context.Background()

// outcome is what a command left behind.
type outcome struct {
	code     int
	out, err string
}

// call runs a command as main does.
func call(args ...string) outcome { return callWith(bg, &streams{in: strings.NewReader("")}, args...) }

func callWith(ctx context.Context, s *streams, args ...string) outcome {
	var out, err bytes.Buffer
	if s.out == nil {
		s.out = &out
	}
	if s.err == nil {
		s.err = &err
	}
	code := run(ctx, args, s)
	return outcome{code, out.String(), err.String()}
}

func (o outcome) want(t *testing.T, code int) outcome {
	t.Helper()
	require.Equal(t, code, o.code, "stdout: %s\nstderr: %s", o.out, o.err)
	if code != exitOK {
		require.NotEmpty(t, o.err)
	}
	require.NotContains(t, o.err, "goroutine")
	require.NotContains(t, o.err, ": modcache: ")
	return o
}

// needsCompiler skips where there is nothing to cache.
func needsCompiler(t *testing.T) {
	t.Helper()
	if _, err := wazerohook.Probe(); errors.Is(err, wazerohook.ErrInterpreter) {
		t.Skip(err)
	}
}

// modules writes n small modules to a directory of their own.
func modules(t *testing.T, n int) (dir string, files []string) {
	t.Helper()
	needsCompiler(t)
	dir = t.TempDir()
	for i := range n {
		name := filepath.Join(dir, "module"+string(rune('a'+i))+".wasm")
		require.NoError(t, os.WriteFile(name, wasmtest.Sum(40, int32(i)), 0o600))
		files = append(files, name)
	}
	return dir, files
}

// warmed returns a cache that holds the code of n modules.
func warmed(t *testing.T, n int) (cache string, files []string) {
	t.Helper()
	src, files := modules(t, n)
	cache = filepath.Join(t.TempDir(), "cache")
	call("warm", "-dir", cache, src).want(t, exitOK)
	return cache, files
}

// snapshot is everything that can be seen of a directory tree.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	seen := make(map[string]string)
	require.NoError(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			content = string(b)
		}
		seen[name] = fi.Mode().String() + fi.ModTime().String() + content
		return nil
	}))
	return seen
}

// entries returns the files of a cache's entries.
func entries(t *testing.T, cache string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cache, "?", "*.v1"))
	require.NoError(t, err)
	return files
}

// damage flips a bit in the middle of a file.
func damage(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	b[len(b)-5] ^= 4
	require.NoError(t, os.WriteFile(file, b, 0o600))
}

func TestHelp(t *testing.T) {
	top := call("-h").want(t, exitOK)
	require.Empty(t, top.err)
	require.Equal(t, top, call("help"))
	for _, c := range commands {
		require.Contains(t, top.out, c.name)
		h := call(c.name, "-h").want(t, exitOK)
		require.Empty(t, h.err)
		require.Equal(t, h, call("help", c.name))
		require.Contains(t, h.out, "usage: modcache "+c.name)
		require.Contains(t, h.out, exitCodes)
		for line := range strings.Lines(c.long) {
			require.LessOrEqual(t, len(line), 80, line)
		}
		for line := range strings.Lines(h.out) {
			require.LessOrEqual(t, len(line), 160, line)
		}
	}
	require.Contains(t, call("warm", "-h").out, "wazero, by module version and checksum")
}

// TestHelpShowsExamples has each flag say what may stand behind it, and takes it at its word.
func TestHelpShowsExamples(t *testing.T) {
	for _, c := range commands {
		for _, f := range flagsOf(c) {
			example, _ := flag.UnquoteUsage(f)
			if example == "" { // a switch
				continue
			}
			if f.Name != "log" { // which takes words
				require.NotRegexp(t, `^[a-z]+$`, example, "modcache %s -%s", c.name, f.Name)
			}
			require.NoError(t, f.Value.Set(example), "modcache %s -%s", c.name, f.Name)
		}
	}
}

func TestUsage(t *testing.T) {
	src, files := modules(t, 1)
	cache := filepath.Join(t.TempDir(), "cache")
	for _, args := range [][]string{
		{}, {"frobnicate"}, {"warm"}, {"warm", "-frobnicate"}, {"warm", "-dir", cache, "-features", "v3", src},
		{"warm", "-dir", cache, "-features", "v2,frobnication", src}, {"warm", "-dir", cache, "-memory-limit-pages", "65537", src},
		{"warm", "-dir", cache, "-jobs", "-1", src}, {"warm", "-dir", cache, "-require", "-compress", src},
		{"warm", "-dir", cache, "-max-bytes", "many", src}, {"ls", "-dir", cache, "-unused-for", "-1h"},
		{"stat", "-dir", cache, "x"}, {"verify", "x"}, {"trim", "x"}, {"rm", "-dir", cache}, {"rm", "-dir", cache, "-all", "0123abcd"},
		{"warm", "-dir", cache, "-max-bytes", "0", src}, {"pull", "-max-entry", "0", "a"}, {"serve", "-dir", cache, "-max-bytes", "0B"},
		{"key"}, {"key", files[0], files[0], files[0]}, {"pull", "a", "b"},
	} {
		call(args...).want(t, exitUsage)
	}
	require.NoDirExists(t, cache)
	// Selections are judged with a cache at hand.
	cache, _ = warmed(t, 1)
	call("ls", "-dir", cache, "0123").want(t, exitUsage)
	call("ls", "-dir", cache, "0123456x").want(t, exitUsage)
	call("rm", "-dir", cache, "-this-engine", "-other-engines").want(t, exitUsage)
	require.Len(t, entries(t, cache), 1)
	terminal := &streams{outIsTerminal: true}
	callWith(bg, terminal, "push", "-dir", cache).want(t, exitUsage)
}

func TestFlagsAnywhere(t *testing.T) {
	cache, files := warmed(t, 2)
	call("warm", files[0], "-require", files[1], "-dir", cache).want(t, exitOK)
	o := call("warm", "-dir", cache, "--", files[0], "-require").want(t, exitFailed)
	require.Contains(t, o.err, "-require")
}

// TestForeignDirectory offers every command a directory that isn't a cache.
func TestForeignDirectory(t *testing.T) {
	src, files := modules(t, 1)
	cache, _ := warmed(t, 1)
	bundle := filepath.Join(t.TempDir(), "bundle")
	call("push", "-dir", cache, "-o", bundle).want(t, exitOK)

	foreign := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(foreign, "00"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(foreign, "00", strings.Repeat("0", 64)+".v1"), []byte("mine"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(foreign, layout.Tag), []byte("Signature: of another program"), 0o600))
	missing := filepath.Join(t.TempDir(), "missing")
	before := snapshot(t, foreign)
	for _, args := range [][]string{
		{"warm", src}, {"warm", "-require", src}, {"ls"}, {"stat"}, {"verify"}, {"verify", "-quarantine"}, {"trim"}, {"trim", "-max-bytes", "0"}, {"trim", "-n"},
		{"rm", "-all"}, {"push", "-o", filepath.Join(missing, "bundle")}, {"pull", bundle}, {"doctor", files[0]},
	} {
		o := call(append(args, "-dir", foreign)...)
		require.Contains(t, []int{exitFailed, exitFound}, o.code, args)
		require.Contains(t, o.out+o.err, "not a cache directory of modcache", args)
		require.Equal(t, before, snapshot(t, foreign), args)

		if args[0] == "pull" || args[0] == "warm" && len(args) == 2 {
			continue // these may create one
		}
		call(append(args, "-dir", missing)...).want(t, exitFound)
		require.NoDirExists(t, missing, args)
	}
	// A new file system isn't empty.
	require.NoError(t, os.MkdirAll(filepath.Join(missing, "lost+found"), 0o700))
	call("warm", "-dir", missing, src).want(t, exitOK)
}

// TestCacheAmongFilesOfOthers can be looked at, and is left as it is.
func TestCacheAmongFilesOfOthers(t *testing.T) {
	for name, tag := range map[string]string{"no tag": "", "a tag of others": "Signature: 8a477f597d28d172789f06886806bc55\n# Of another program.\n"} {
		t.Run(name, func(t *testing.T) {
			cache, files := warmed(t, 1)
			require.NoError(t, os.Remove(filepath.Join(cache, layout.Tag)))
			if tag != "" {
				require.NoError(t, os.WriteFile(filepath.Join(cache, layout.Tag), []byte(tag), 0o600))
			}
			require.NoError(t, os.WriteFile(filepath.Join(cache, "app.db"), nil, 0o600))
			before := snapshot(t, cache)
			for _, args := range [][]string{{"ls"}, {"stat"}, {"verify"}, {"trim", "-n"}, {"warm", "-require", files[0]}} {
				call(append(args, "-dir", cache)...).want(t, exitOK)
			}
			require.Contains(t, call("doctor", "-dir", cache, files[0]).want(t, exitOK).out, "isn't marked as a cache")
			for _, args := range [][]string{{"warm", files[0]}, {"trim"}, {"rm", "-all"}, {"verify", "-quarantine"}} {
				require.Contains(t, call(append(args, "-dir", cache)...).want(t, exitFailed).err, "not a cache directory of modcache")
			}
			require.Equal(t, before, snapshot(t, cache))
		})
	}
	none := t.TempDir() // as other programs' caches are
	require.NoError(t, os.WriteFile(filepath.Join(none, "a"), nil, 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(none, "0"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(none, "0", "stats"), nil, 0o600))
	require.Contains(t, call("ls", "-dir", none).want(t, exitFailed).err, "not a cache directory of modcache")
}

// TestEmptyTag has a directory lack what says that it is a cache, because there was no room for it.
func TestEmptyTag(t *testing.T) {
	cache, files := warmed(t, 1)
	tag := filepath.Join(cache, layout.Tag)
	require.NoError(t, os.Truncate(tag, 0))
	call("warm", "-dir", cache, "-require", files[0]).want(t, exitOK)
	call("ls", "-dir", cache).want(t, exitOK)
	call("trim", "-dir", cache).want(t, exitOK)
	text, err := os.ReadFile(tag)
	require.NoError(t, err)
	require.Equal(t, layout.TagText, string(text))
}

// TestReadersChangeNothing runs what reads over a cache with damage in it.
func TestReadersChangeNothing(t *testing.T) {
	cache, files := warmed(t, 3)
	damage(t, entries(t, cache)[0])
	before := snapshot(t, cache)
	call("ls", "-dir", cache).want(t, exitOK)
	call("ls", "-dir", cache, "-json", "-module", files[1]).want(t, exitOK)
	call("stat", "-dir", cache).want(t, exitOK)
	call("verify", "-dir", cache).want(t, exitFound)
	call("rm", "-n", "-all", "-dir", cache).want(t, exitOK)
	call("trim", "-n", "-max-bytes", "0", "-dir", cache).want(t, exitOK)
	call(append([]string{"warm", "-require", "-dir", cache}, files...)...).want(t, exitFound)
	call("push", "-dir", cache, "-o", filepath.Join(t.TempDir(), "bundle")).want(t, exitFound)
	call(append([]string{"doctor", "-dir", cache}, files...)...)
	require.Equal(t, before, snapshot(t, cache))
}

func TestInsecureDirectory(t *testing.T) {
	if os.PathSeparator == '\\' {
		t.Skip("no permission bits")
	}
	cache, files := warmed(t, 1)
	require.NoError(t, os.Chmod(cache, 0o777))
	for _, args := range [][]string{{"ls"}, {"stat"}, {"verify"}, {"trim"}, {"rm", "-all"}, {"warm", files[0]}} {
		o := call(append(args, "-dir", cache)...).want(t, exitFailed)
		require.Contains(t, o.err, "chmod 700", args)
	}
	require.Contains(t, call("doctor", "-dir", cache).want(t, exitFound).out, "chmod 700")
	require.Len(t, entries(t, cache), 1)
}

func TestDoctorWithoutCache(t *testing.T) {
	if os.PathSeparator == '\\' {
		t.Skip("no permission bits")
	}
	dir := t.TempDir()
	diagnose := func(dir string) string {
		t.Helper()
		return call("doctor", "-dir", dir).want(t, exitFound).out
	}
	require.NotContains(t, diagnose(filepath.Join(dir, "none")), "programs of this user")
	require.NoDirExists(t, filepath.Join(dir, "none"))
	missing := filepath.Join(dir, "secret")
	require.Contains(t, call("doctor", "-dir", dir, "-key-file", missing).want(t, exitFound).out, "read the secret: open "+missing)

	require.NoError(t, os.Chmod(dir, 0o777))
	require.Contains(t, diagnose(dir), "programs of this user can't make one there: insecure cache directory: everybody can write to it")

	says := "permission denied"
	require.NoError(t, os.Chmod(dir, 0o500))
	if os.Getuid() == 0 {
		says = "root makes no directory in"
		require.NoError(t, os.Chown(dir, 1, 1))
		require.Contains(t, diagnose(dir), "run as that user")
	}
	require.Contains(t, diagnose(filepath.Join(dir, "none")), says)
}

// openWarm returns a Cache that compiles nothing.
func openWarm(t *testing.T, cache string, o modcache.Options) *modcache.Cache {
	t.Helper()
	o.RequireHit, o.ReadOnly, o.Retain = true, true, -1
	c, err := modcache.Open(cache, &o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(bg) })
	return c
}

// TestPlain writes errors of the library behind a name of ours.
func TestPlain(t *testing.T) {
	err := error(&modcache.Error{Op: "get", Store: "disk /var/modcache: x", Err: modcache.ErrClosed})
	require.Equal(t, "get disk", plain(errors.New("modcache: get disk")))
	require.Equal(t, "disk /var/modcache: x: get: closed", plain(err))
	err = &modcache.Error{Op: "compile", Err: contain.Caught("index out of range")}
	require.Equal(t, "panic: index out of range", plain(err))
	require.Equal(t, "one?[31m\n  two", plain(errors.New("one\x1b[31m\ntwo")))
	for _, err := range []error{errors.New(strings.Repeat("x", 1<<20)), contain.Caught(strings.Repeat("x", 1<<20))} {
		require.Less(t, len(plain(err)), 2<<10)
	}
}

// TestDefaultDirectory is about the directory of whoever names none. Its name looks like
// the prefix of the library's errors.
func TestDefaultDirectory(t *testing.T) {
	base := t.TempDir()
	for _, name := range []string{"HOME", "XDG_CACHE_HOME", "LocalAppData"} {
		t.Setenv(name, base)
	}
	dir, err := (&dirFlags{}).path()
	require.NoError(t, err)
	require.Contains(t, call("ls").want(t, exitFound).err, "there is no cache in "+dir+": nothing was stored")
}

// TestEmptyValues stands for scripts in which a variable isn't set.
func TestEmptyValues(t *testing.T) {
	for _, args := range [][]string{
		{"rm", "-all", "-dir", ""}, {"pull", "-keyring", "", "bundle"}, {"push", "-sign="}, {"warm", "-key-file", "", "x.wasm"},
		{"serve", "-read-tokens", ""},
	} {
		require.Contains(t, call(args...).want(t, exitUsage).err, "has an empty value")
	}
}

// A variable that can't be understood must not turn the default directory into the one that
// is emptied.
func TestRelativeEnvironmentDir(t *testing.T) {
	t.Setenv("MODCACHE_DIR", "./cache")
	for _, args := range [][]string{{"rm", "-all"}, {"trim"}, {"ls"}} {
		require.Contains(t, call(args...).want(t, exitUsage).err, `MODCACHE_DIR is "./cache"`)
	}
}
