package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
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
	t.Setenv(environ.MaxBytes, "")

	t.Setenv(environ.Dir, "")
	t.Setenv("HOME", "")
	t.Setenv("XDG_CACHE_HOME", "")
	if _, err := os.UserCacheDir(); err != nil {
		require.Contains(t, call("env").want(t, exitFound).out, "MODCACHE_DIR=''  # none: code is kept in memory")
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
