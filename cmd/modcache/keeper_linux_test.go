package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/wasmtest"
)

// TestDropsNothingForRoom stores more than a file system has room for, beside what is there.
func TestDropsNothingForRoom(t *testing.T) {
	needsCompiler(t)
	mount := t.TempDir()
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=512k"); err != nil {
		t.Skip("NOT TESTED: a full file system:", err)
	}
	defer func() { require.NoError(t, syscall.Unmount(mount, syscall.MNT_DETACH)) }()
	first, src := filepath.Join(t.TempDir(), "first.wasm"), t.TempDir()
	require.NoError(t, os.WriteFile(first, wasmtest.Sum(200, 1000), 0o600))
	files := []string{first}
	for i := range 40 {
		file := filepath.Join(src, fmt.Sprint(i, ".wasm"))
		require.NoError(t, os.WriteFile(file, wasmtest.Sum(200, int32(i)), 0o600))
		files = append(files, file)
	}
	full, bundle := filepath.Join(t.TempDir(), "full"), filepath.Join(t.TempDir(), "bundle")
	call("warm", "-dir", full, src).want(t, exitOK)
	call("push", "-dir", full, "-o", bundle).want(t, exitOK)
	url, key, ring := fleetServer(t, "writer")
	t.Setenv("MODCACHE_TOKEN", "writer")
	call("push", "-dir", full, "-sign", key, url).want(t, exitOK)

	for name, args := range map[string][]string{
		"warm":             {"warm", src},
		"drop-in":          {"warm", "-drop-in", src},
		"pull":             {"pull", bundle},
		"pull from server": {"pull", "-keyring", ring, url, src},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(mount, "cache")
			defer os.RemoveAll(dir)
			call("warm", "-dir", dir, first).want(t, exitOK)
			for range 2 {
				o := call(append([]string{args[0], "-dir", dir}, args[1:]...)...).want(t, exitFailed)
				require.Contains(t, o.err, "no room left")
				require.Greater(t, len(entries(t, dir)), 3)
				call("warm", "-require", "-dir", dir, first).want(t, exitOK)
				if args[0] == "warm" {
					present := len(entries(t, dir)) - 1
					require.Contains(t, o.out+o.err, fmt.Sprintf("%d failed", len(files)-1-present))
				}
			}
		})
	}
	t.Run("bundle", func(t *testing.T) {
		t.Setenv("TMPDIR", mount)
		o := call("bundle", "-o", filepath.Join(t.TempDir(), "bundle"), src).want(t, exitFailed)
		require.Contains(t, o.err, "no space left")
	})
}
