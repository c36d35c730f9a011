package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/dirfs"
)

// TestKeepsWhatItSays fills a directory with more than its bound.
func TestKeepsWhatItSays(t *testing.T) {
	cache, files := warmed(t, 3)
	src := filepath.Dir(files[0])
	var taken int64
	for _, file := range entries(t, cache) {
		fi, err := os.Stat(file)
		require.NoError(t, err)
		taken += (fi.Size() + 4095) / 4096 * 4096 // on most file systems
	}
	room := fmt.Sprint(taken / 2)
	file := filepath.Join(t.TempDir(), "bundle")
	call("push", "-dir", cache, "-o", file).want(t, exitOK)
	for name, args := range map[string][]string{
		"warm":       {"warm", "-jobs", "1", src},
		"warm -json": {"warm", "-jobs", "1", "-json", src},
		"drop-in":    {"warm", "-jobs", "1", "-drop-in", src},
		"pull":       {"pull", file},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			bounded := append([]string{args[0], "-dir", dir, "-max-bytes", room}, args[1:]...)
			o := call(bounded...).want(t, exitFailed)
			require.Regexp(t, "entr(y was|ies were) stored or found before, and not there any more: -max-bytes leaves no room for all", o.err)
			call(bounded...).want(t, exitFailed)
			bounded[4] = "1GiB"
			call(bounded...).want(t, exitOK)
			call(bounded...).want(t, exitOK)
		})
	}
}

// TestStaysWithinMaxBytes has commands store nothing, or next to nothing, in a directory that is beyond their bound.
func TestStaysWithinMaxBytes(t *testing.T) {
	full, files := warmed(t, 4)
	bytesOf := func(dir string) (n int64) {
		for _, file := range entries(t, dir) {
			fi, err := os.Stat(file)
			require.NoError(t, err)
			n += dirfs.Taken(fi)
		}
		return n
	}
	room := bytesOf(full) / 2
	file := filepath.Join(t.TempDir(), "bundle")
	call("bundle", "-o", file, files[0]).want(t, exitOK)
	url, sign, ring := fleetServer(t, "writer")
	t.Setenv("MODCACHE_TOKEN", "writer")
	call("warm", "-to", url, "-sign", sign, files[0]).want(t, exitOK)
	noModule := filepath.Join(t.TempDir(), "no.wasm")
	require.NoError(t, os.WriteFile(noModule, []byte("none"), 0o600))
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"warm":               {[]string{"warm", files[0]}, exitOK},
		"warm what is none":  {[]string{"warm", noModule}, exitFailed},
		"pull":               {[]string{"pull", file}, exitOK},
		"pull from a server": {[]string{"pull", "-keyring", ring, url, files[0]}, exitOK},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			require.NoError(t, os.CopyFS(dir, os.DirFS(full)))
			bounded := append([]string{c.args[0], "-dir", dir, "-max-bytes", fmt.Sprint(room)}, c.args[1:]...)
			call(bounded...).want(t, c.code)
			require.LessOrEqual(t, bytesOf(dir), room)
			if c.code == exitOK {
				call("warm", "-require", "-dir", dir, files[0]).want(t, exitOK)
			}
		})
	}
}

// TestMaxBytesThatCannotBeKept says so, whatever else became of the modules.
func TestMaxBytesThatCannotBeKept(t *testing.T) {
	needsCompiler(t)
	if !cachetest.Unprivileged(t) {
		return
	}
	dir, files := warmed(t, 2)
	shards, err := filepath.Glob(filepath.Join(dir, "?"))
	require.NoError(t, err)
	chmod := func(mode os.FileMode) {
		for _, shard := range shards {
			require.NoError(t, os.Chmod(shard, mode))
		}
	}
	bounded := []string{"warm", "-dir", dir, "-max-bytes", "4096", "-json", files[0]}
	chmod(0o500)
	o := call(bounded...).want(t, exitFailed)
	require.Contains(t, o.err, "the limits don't hold")
	require.Equal(t, 1, told[warmReport](t, o).Present)
	chmod(0o700)
	call(bounded...)
	require.LessOrEqual(t, len(entries(t, dir)), 1)
}
