package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/environ"
)

func TestEnv(t *testing.T) {
	for _, name := range []string{environ.Mode, environ.Dir, environ.MaxBytes} {
		t.Setenv(name, "")
	}
	base, err := os.UserCacheDir()
	if err != nil {
		t.Skip("NOT TESTED: defaults, which need a home:", err)
	}
	o := call("env").want(t, exitOK)
	require.Contains(t, o.out, "MODCACHE=''  # default")
	require.Contains(t, o.out, "MODCACHE_DIR='"+filepath.Join(base, "modcache")+"'  # default")
	require.Contains(t, o.out, "MODCACHE_MAX_BYTES='2GiB'  # default")

	dir := filepath.Join(t.TempDir(), "it's here")
	t.Setenv(environ.Mode, "ro")
	t.Setenv(environ.Dir, dir)
	t.Setenv(environ.MaxBytes, "500MB")
	o = call("env").want(t, exitOK)
	require.Contains(t, o.out, "MODCACHE='ro'  # the environment")
	if sh, err := exec.LookPath("sh"); err == nil {
		got, err := exec.Command(sh, "-c", o.out+`printf %s "$MODCACHE_DIR $MODCACHE_MAX_BYTES"`).Output()
		require.NoError(t, err)
		require.Equal(t, dir+" 500000000", string(got))
	}

	// What it prints is what Open does, and what the other commands take for the default.
	c, err := modcache.Open("", nil)
	require.NoError(t, err)
	defer c.Close(bg)
	s := c.Status()
	require.Equal(t, dir, s.Dir)
	require.EqualValues(t, 500e6, s.MaxBytes)
	require.True(t, s.ReadOnly)
	require.Contains(t, call("stat").want(t, exitFound).err, dir)

	t.Setenv(environ.MaxBytes, "plenty")
	o = call("env", "-json").want(t, exitFound)
	require.Contains(t, o.err, "plenty")
	var told struct{ Settings []setting }
	require.NoError(t, json.Unmarshal([]byte(o.out), &told))
	require.Equal(t, "2GiB", told.Settings[2].Value)
	require.Contains(t, told.Settings[2].Problem, "ignored")
	t.Setenv(environ.Mode, "rw")
	for _, problem := range []string{`MODCACHE is "rw"`, `MODCACHE_MAX_BYTES is "plenty"`} {
		require.Contains(t, call("env").want(t, exitFound).err, problem)
	}
	t.Setenv(environ.MaxBytes, "")

	t.Setenv(environ.Dir, "")
	t.Setenv("HOME", "")
	t.Setenv("XDG_CACHE_HOME", "")
	if _, err := os.UserCacheDir(); err != nil {
		require.Contains(t, call("env").want(t, exitFound).out, "MODCACHE_DIR=''  # none: code is kept in memory")
	}
}

// TestTrimTellsTheEnvironment has a limit mistyped, as in a job that nobody looks at.
func TestTrimTellsTheEnvironment(t *testing.T) {
	dir, _ := warmed(t, 1)
	for _, args := range [][]string{{"trim", "-dir", dir, "-n"}, {"trim", "-dir", dir}} {
		t.Setenv(environ.MaxBytes, "500mbytes")
		o := call(args...).want(t, exitOK)
		require.Contains(t, o.err, `MODCACHE_MAX_BYTES is "500mbytes", which is ignored`)
		require.Contains(t, o.out, "-max-bytes 2GiB")
		require.Empty(t, call(append(args, "-max-bytes", "1GiB")...).want(t, exitOK).err)
		t.Setenv(environ.MaxBytes, "500MB")
		o = call(args...).want(t, exitOK)
		require.Empty(t, o.err)
		require.Contains(t, o.out, "-max-bytes 500000000")
	}
}

func TestDoctorTellsTheEnvironment(t *testing.T) {
	dir, _ := warmed(t, 1)
	t.Setenv(environ.Dir, dir)
	t.Setenv(environ.Mode, "ro")
	t.Setenv(environ.MaxBytes, "x")
	o := call("doctor").want(t, exitOK)
	require.Contains(t, o.out, "MODCACHE_DIR="+dir)
	require.Contains(t, o.out, "MODCACHE=ro")
	require.Contains(t, o.out, "MODCACHE_MAX_BYTES is \"x\"")
	require.Contains(t, o.out, dir+" is a cache")
	t.Setenv(environ.Mode, "off")
	require.Contains(t, call("doctor").want(t, exitOK).out, "use no directory")
}

// TestEnvForbidsWriting has every command find a directory by the environment that nothing is to be written to.
func TestEnvForbidsWriting(t *testing.T) {
	cache, files := warmed(t, 2)
	bundle := filepath.Join(t.TempDir(), "bundle")
	call("push", "-dir", cache, "-o", bundle).want(t, exitOK)
	damage(t, entries(t, cache)[0])
	key, _ := keypair(t)
	url, signed, ring := fleetServer(t, "writer")
	t.Setenv("MODCACHE_TOKEN", "writer")
	call("push", "-dir", cache, "-sign", signed, url).want(t, exitFound)
	t.Setenv(environ.Dir, cache)
	out := func() string { return filepath.Join(t.TempDir(), "out") }
	writers := [][]string{
		{"warm", files[0]}, {"trim"}, {"rm", "-all"}, {"verify", "-quarantine"}, {"pull", bundle}, {"pull", "-keyring", ring, url, files[0]},
	}
	others := [][]string{
		{"warm", "-require", files[0]}, {"warm", "-to", url, "-sign", signed, files[0]}, {"trim", "-n"}, {"rm", "-n", "-all"}, {"verify"}, {"pull", "-n", bundle},
		{"ls"}, {"stat"}, {"key", files[0]}, {"bundle", "-o", out(), files[0]}, {"push", "-o", out()}, {"keygen", out()}, {"doctor"}, {"env"}, {"version"},
	}
	for _, c := range commands {
		named := func(args []string) bool { return args[0] == c.name }
		require.True(t, c.name == "serve" || slices.ContainsFunc(slices.Concat(writers, others), named), c.name)
	}
	before := snapshot(t, cache)
	for _, mode := range []string{"ro", "off", "r0"} {
		t.Setenv(environ.Mode, mode)
		for _, args := range writers {
			require.Contains(t, call(args...).want(t, exitUsage).err, `MODCACHE is "`+mode+`"`, args)
			require.Equal(t, before, snapshot(t, cache), args)
		}
		// What is signed is kept in memory.
		url := serving(t, "-sign", key)
		resp, err := http.Get(url + "/" + strings.TrimSuffix(filepath.Base(entries(t, cache)[1]), ".v1"))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode)
	}
	t.Setenv(environ.Mode, "ro")
	for _, args := range others {
		require.NotEqual(t, exitUsage, call(args...).code, args)
	}
	require.Equal(t, before, snapshot(t, cache))
	// Who names a directory means it, as with Open.
	for _, args := range writers {
		o := call(append(args, "-dir", cache)...)
		require.Contains(t, []int{exitOK, exitFound}, o.code, "%v: %s", args, o.err)
	}
	require.NotEqual(t, before, snapshot(t, cache))
}

// TestEnvBoundsTrim has trim keep what programs may.
func TestEnvBoundsTrim(t *testing.T) {
	cache, _ := warmed(t, 3)
	t.Setenv(environ.MaxBytes, "1kB")
	require.Contains(t, call("trim", "-n", "-dir", cache).want(t, exitOK).out, "3 entries would be dropped")
	require.Contains(t, call("trim", "-n", "-max-bytes", "1GiB", "-dir", cache).want(t, exitOK).out, "0 entries would be dropped")
}
