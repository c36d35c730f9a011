package main

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/wasmtest"
)

// TestCodeComesInThePlaceOfAliases whose code is gone, wherever it is brought.
func TestCodeComesInThePlaceOfAliases(t *testing.T) {
	_, files := modules(t, 1)
	plain, dir := files[0], t.TempDir()
	wasm, err := os.ReadFile(plain)
	require.NoError(t, err)
	noted := filepath.Join(dir, "noted.wasm")
	require.NoError(t, os.WriteFile(noted, slices.Concat(wasm, wasmtest.CustomSection("producers", []byte("\x00"))), 0o600))

	code, idle := filepath.Join(dir, "code"), filepath.Join(dir, "idle")
	call("warm", "-dir", code, plain).want(t, exitOK)
	call("warm", "-dir", idle, noted).want(t, exitOK)
	call("warm", "-dir", idle, plain).want(t, exitOK)
	files = entries(t, idle)
	require.Len(t, files, 2, "the code, and an alias")
	size := func(file string) int64 {
		fi, err := os.Stat(file)
		require.NoError(t, err)
		return fi.Size()
	}
	require.NoError(t, os.Remove(slices.MaxFunc(files, func(a, b string) int { return cmp.Compare(size(a), size(b)) })))
	call("warm", "-require", "-dir", idle, plain).want(t, exitFound)

	bundles := []string{filepath.Join(dir, "code.bundle"), filepath.Join(dir, "idle.bundle")}
	call("push", "-dir", code, "-o", bundles[0]).want(t, exitOK)
	call("push", "-dir", idle, "-o", bundles[1]).want(t, exitOK)
	for range 2 {
		slices.Reverse(bundles)
		both, to := filepath.Join(t.TempDir(), "both.bundle"), filepath.Join(t.TempDir(), "to")
		call("bundle", "-o", both, bundles[0], bundles[1]).want(t, exitOK)
		call("pull", "-dir", to, both).want(t, exitOK)
		call("warm", "-require", "-dir", to, plain).want(t, exitOK)
	}

	require.Contains(t, call("push", "-dir", idle, "-module", noted, "-o", filepath.Join(dir, "none")).want(t, exitFound).err, "it is gone")
	require.NoFileExists(t, filepath.Join(dir, "none"))
	call("push", "-dir", code, "-module", plain, "-o", filepath.Join(dir, "one")).want(t, exitOK)

	url, key, ring := fleetServer(t, "writer")
	t.Setenv("MODCACHE_TOKEN", "writer")
	call("push", "-dir", idle, "-sign", key, url).want(t, exitOK)
	call("pull", "-n", "-keyring", ring, url, plain).want(t, exitFound)
	require.Contains(t, call("push", "-dir", code, "-sign", key, url).want(t, exitOK).out, "1 uploaded")
	call("pull", "-n", "-keyring", ring, url, plain).want(t, exitOK)
	require.Contains(t, call("push", "-dir", idle, "-sign", key, url).want(t, exitOK).out, "0 uploaded")
	call("pull", "-n", "-keyring", ring, url, plain).want(t, exitOK)

	require.Contains(t, call("pull", "-dir", idle, filepath.Join(dir, "code.bundle")).want(t, exitOK).out, "1 stored")
	call("warm", "-require", "-dir", idle, plain).want(t, exitOK)
}
