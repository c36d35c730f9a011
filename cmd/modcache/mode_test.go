package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/cachetest"
)

// modesBelow returns the modes of directories and files.
func modesBelow(t *testing.T, dir string) (dirs, files []fs.FileMode) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		require.NoError(t, err)
		fi, err := e.Info()
		require.NoError(t, err)
		if e.IsDir() {
			dirs = append(dirs, fi.Mode()&^fs.ModeDir)
		} else {
			files = append(files, fi.Mode())
		}
		return nil
	}))
	return dirs, files
}

func requireModes(t *testing.T, dir string, forDirs, forFiles fs.FileMode) {
	t.Helper()
	dirs, files := modesBelow(t, dir)
	require.NotEmpty(t, files)
	for _, mode := range dirs {
		require.Equal(t, forDirs, mode)
	}
	for _, mode := range files {
		require.Equal(t, forFiles, mode)
	}
}

func TestMode(t *testing.T) {
	if os.PathSeparator == '\\' {
		t.Skip("NOT TESTED: there are no modes")
	}
	src, _ := modules(t, 2)
	above := filepath.Join(t.TempDir(), "above")
	cache := filepath.Join(above, "a", "cache")
	bundle := filepath.Join(t.TempDir(), "bundle")
	call("warm", "-dir", cache, src).want(t, exitOK)
	requireModes(t, above, 0o700, 0o600)
	call("push", "-dir", cache, "-o", bundle).want(t, exitOK)
	call("warm", "-dir", cache, "-mode", "0750", src).want(t, exitOK)
	requireModes(t, cache, 0o750, 0o640)
	require.NoError(t, os.RemoveAll(above))
	for range 2 {
		call("warm", "-dir", cache, "-mode", "0755", src).want(t, exitOK)
		requireModes(t, above, 0o755, 0o644)
	}
	require.NoError(t, os.RemoveAll(above))
	call("pull", "-dir", cache, "-mode", "755", bundle).want(t, exitOK)
	requireModes(t, above, 0o755, 0o644)

	for _, mode := range []string{"0777", "0775", "0702"} {
		require.Contains(t, call("warm", "-dir", cache, "-mode", mode, src).want(t, exitUsage).err, "see -group")
	}
	for _, mode := range []string{"0555", "rwx", "01755", "0"} {
		require.Contains(t, call("warm", "-dir", cache, "-mode", mode, src).want(t, exitUsage).err, "octal")
	}
	call("warm", "-dir", cache, "-require", "-mode", "0755", src).want(t, exitUsage)
	call("warm", "-dir", cache, "-group", "-mode", "0755", src).want(t, exitUsage)
	call("pull", "-dir", cache, "-n", "-mode", "0755", bundle).want(t, exitUsage)
}

// TestModeIsHinted to a user who can't read what another one has stored.
func TestModeIsHinted(t *testing.T) {
	if !cachetest.Unprivileged(t) {
		return
	}
	cache := cacheWithNothing(t)
	for _, closed := range []string{filepath.Dir(cache), cache} {
		require.NoError(t, os.Chmod(closed, 0))
		for _, command := range []string{"ls", "stat", "verify", "push"} {
			require.Contains(t, call(command, "-dir", cache).want(t, exitFailed).err, "-mode 0755", command)
		}
		require.NoError(t, os.Chmod(closed, 0o700))
	}
}

func TestGroup(t *testing.T) {
	if os.PathSeparator == '\\' {
		t.Skip("NOT TESTED: there are no modes")
	}
	src, _ := modules(t, 1)
	above := t.TempDir()
	require.NoError(t, os.Chown(above, -1, os.Getegid()))
	cache := filepath.Join(above, "cache")
	call("warm", "-dir", cache, "-group", src).want(t, exitOK)
	requireModes(t, cache, 0o770|fs.ModeSetgid, 0o660)
	require.Contains(t, call("ls", "-dir", cache).want(t, exitFailed).err, "-group")
	require.Contains(t, call("doctor", "-dir", cache).want(t, exitFound).out, "DiskOptions.Group")
	call("ls", "-dir", cache, "-group").want(t, exitOK)
	call("trim", "-dir", cache, "-group", "-max-age", "1h").want(t, exitOK)
}
