package main

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/layout"
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
	require.NoError(t, os.Remove(slices.MaxFunc(files, func(a, b string) int { return cmp.Compare(fileSize(t, a), fileSize(t, b)) })))
	call("warm", "-require", "-dir", idle, plain).want(t, exitFound)

	bundles := []string{filepath.Join(dir, "code.bundle"), filepath.Join(dir, "idle.bundle")}
	call("push", "-dir", code, "-o", bundles[0]).want(t, exitOK)
	require.Contains(t, call("push", "-dir", idle, "-o", bundles[1]).want(t, exitFound).err, "1 alias was left out")
	require.NoFileExists(t, bundles[1])
	alias := strings.TrimSuffix(filepath.Base(entries(t, idle)[0]), layout.Suffix)
	call("push", "-dir", idle, "-o", bundles[1], alias).want(t, exitOK)
	for range 2 {
		slices.Reverse(bundles)
		both, to := filepath.Join(t.TempDir(), "both.bundle"), filepath.Join(t.TempDir(), "to")
		call("bundle", "-o", both, bundles[0], bundles[1]).want(t, exitOK)
		call("pull", "-dir", to, both).want(t, exitOK)
		call("warm", "-require", "-dir", to, plain).want(t, exitOK)
	}

	call("push", "-dir", idle, "-module", noted, "-o", filepath.Join(dir, "none")).want(t, exitFound)

	url, key, ring := fleetServer(t, "writer")
	t.Setenv("MODCACHE_TOKEN", "writer")
	call("push", "-dir", idle, "-sign", key, url, alias).want(t, exitOK)
	call("pull", "-n", "-keyring", ring, url, plain).want(t, exitFound)
	require.Contains(t, call("push", "-dir", code, "-sign", key, url).want(t, exitOK).out, "1 uploaded")
	call("pull", "-n", "-keyring", ring, url, plain).want(t, exitOK)
	require.Contains(t, call("push", "-dir", idle, "-sign", key, url, alias).want(t, exitOK).out, "0 uploaded")
	call("pull", "-n", "-keyring", ring, url, plain).want(t, exitOK)

	require.Contains(t, call("pull", "-dir", idle, filepath.Join(dir, "code.bundle")).want(t, exitOK).out, "1 stored")
	call("warm", "-require", "-dir", idle, plain).want(t, exitOK)
}

// TestAliasesTakeThePlaceOfIdleOnes where the code of another spelling is brought.
func TestAliasesTakeThePlaceOfIdleOnes(t *testing.T) {
	_, files := modules(t, 1)
	dir := t.TempDir()
	wasm, err := os.ReadFile(files[0])
	require.NoError(t, err)
	spellings := []string{files[0]}
	for _, section := range []string{"producers", "target_features", "sourceMappingURL"} {
		file := filepath.Join(dir, section+".wasm")
		require.NoError(t, os.WriteFile(file, slices.Concat(wasm, wasmtest.CustomSection(section, []byte("\x00"))), 0o600))
		spellings = append(spellings, file)
	}
	idle, other, bundle := filepath.Join(dir, "idle"), filepath.Join(dir, "other"), filepath.Join(dir, "other.bundle")
	call("warm", "-dir", idle, spellings[1]).want(t, exitOK)
	held := entries(t, idle)
	require.Len(t, held, 2)
	slices.SortFunc(held, func(a, b string) int { return cmp.Compare(fileSize(t, a), fileSize(t, b)) })
	require.NoError(t, os.Remove(held[1]))
	alias := strings.TrimSuffix(filepath.Base(held[0]), layout.Suffix)
	call("warm", "-dir", other, spellings[2]).want(t, exitOK)
	call("push", "-dir", other, "-o", bundle).want(t, exitOK)

	url, key, ring := fleetServer(t, "writer")
	t.Setenv("MODCACHE_TOKEN", "writer")
	call("push", "-dir", idle, "-sign", key, url, alias).want(t, exitOK)
	for range 2 {
		call("push", "-dir", other, "-sign", key, url).want(t, exitOK)
	}
	without := filepath.Join(dir, "idle.bundle")
	call("push", "-dir", idle, "-o", without, alias).want(t, exitOK)
	require.Contains(t, call("pull", "-dir", other, without).want(t, exitOK).out, "1 present")
	for _, order := range [][]string{{bundle, without}, {without, bundle}} {
		both, to := filepath.Join(t.TempDir(), "both"), filepath.Join(t.TempDir(), "to")
		call("bundle", "-o", both, order[0], order[1]).want(t, exitOK)
		call("pull", "-dir", to, both).want(t, exitOK)
		for _, file := range spellings {
			call("warm", "-require", "-dir", to, file).want(t, exitOK)
			call("warm", "-require", "-dir", other, file).want(t, exitOK)
		}
	}
	require.Contains(t, call("pull", "-dir", idle, bundle).want(t, exitOK).out, "2 stored")
	for _, file := range spellings {
		call("warm", "-require", "-dir", idle, file).want(t, exitOK)
		call("pull", "-n", "-keyring", ring, url, file).want(t, exitOK)
	}
}

// TestPullLooksBehindAliases in the directory for what comes under their keys, and tells of those that lead nowhere.
func TestPullLooksBehindAliases(t *testing.T) {
	_, files := modules(t, 1)
	plain, dir := files[0], t.TempDir()
	wasm, err := os.ReadFile(plain)
	require.NoError(t, err)
	spell := func(section string) string {
		file := filepath.Join(dir, section+".wasm")
		require.NoError(t, os.WriteFile(file, slices.Concat(wasm, wasmtest.CustomSection(section, []byte("\x00"))), 0o600))
		return file
	}
	first, other := spell("producers"), spell("target_features")
	key := func(file string) string {
		var r keyReport
		require.NoError(t, json.Unmarshal([]byte(call("key", "-json", file).want(t, exitOK).out), &r))
		return r.Modules[0].Key
	}
	// filled returns a directory with the code of the first file, to which other files lead, or led.
	filled := func(leads bool, files ...string) string {
		to := filepath.Join(t.TempDir(), "cache")
		for _, file := range files {
			call("warm", "-dir", to, file).want(t, exitOK)
		}
		if !leads {
			call("rm", "-dir", to, key(files[0])).want(t, exitOK)
		}
		return to
	}
	server := func(files ...string) func(want int, args ...string) outcome {
		url, sign, ring := fleetServer(t, "writer")
		t.Setenv("MODCACHE_TOKEN", "writer")
		call("push", "-dir", filled(true, files...), "-sign", sign, url).want(t, exitOK)
		return func(want int, args ...string) outcome {
			return call(append([]string{"pull", "-keyring", ring, url}, args...)...).want(t, want)
		}
	}

	// The server has the code itself.
	pull, to := server(plain), filled(false, first, plain)
	require.Equal(t, "1 found, 0 missing, 1 entry stored\n", pull(exitOK, "-dir", to, key(plain)).out)
	call("warm", "-require", "-dir", to, plain).want(t, exitOK)
	require.Equal(t, "1 found, 0 missing, 0 entries stored\n", pull(exitOK, "-dir", to, key(plain)).out)
	to = filled(false, first, plain)
	require.Equal(t, "1 found, 0 missing, 1 entry stored\n", pull(exitOK, "-dir", to, plain).out)

	// It has an alias of another spelling, whose code comes along or doesn't.
	pull, to = server(other, plain), filled(false, first, plain)
	for _, o := range []outcome{pull(exitFound, "-dir", to, key(plain)), pull(exitFound, "-dir", filepath.Join(dir, "new"), key(plain))} {
		require.Contains(t, o.out, "0 found, 1 missing")
		require.Contains(t, o.err, key(plain)+"  is an alias, and the code that it leads to isn't there")
	}
	pull(exitOK, "-n", key(plain)) // looks at no directory
	full := pull(exitFound, "-dir", filepath.Join(dir, "full"), "-max-bytes", "1", key(plain))
	require.Contains(t, full.out, "0 found, 0 missing")
	require.Contains(t, full.err, "1 of 1 could not be had")
	require.Equal(t, "2 found, 0 missing, 2 entries stored\n", pull(exitOK, "-dir", to, key(plain), key(other)).out)
	call("warm", "-require", "-dir", to, plain).want(t, exitOK)
	to = filled(false, first, plain)
	pull(exitOK, "-dir", to, key(other))
	require.Equal(t, "1 found, 0 missing, 1 entry stored\n", pull(exitOK, "-dir", to, key(plain)).out)
	call("warm", "-require", "-dir", to, plain).want(t, exitOK)
	to = filled(false, first, plain)
	pull(exitOK, "-dir", to, plain)
	call("warm", "-require", "-dir", to, plain).want(t, exitOK)

	// What the directory has leads to code.
	to = filled(true, first, plain)
	require.Equal(t, "1 found, 0 missing, 0 entries stored\n", pull(exitOK, "-dir", to, key(plain)).out)
	call("warm", "-require", "-dir", to, plain).want(t, exitOK)

	// It has that code for other settings alone.
	to = filled(false, first, plain)
	call("warm", "-dir", to, "-close-on-context-done", first).want(t, exitOK)
	again := server(plain)
	require.Equal(t, "1 found, 0 missing, 1 entry stored\n", again(exitOK, "-dir", to, key(plain)).out)
	call("warm", "-require", "-dir", to, plain).want(t, exitOK)
	require.Equal(t, "1 found, 0 missing, 0 entries stored\n", again(exitOK, "-dir", to, key(plain)).out)

	// A bundle has the alias, and the directory the code.
	bundle, to := filepath.Join(dir, "alias.bundle"), filled(false, first, plain)
	call("push", "-dir", filled(true, other, plain), "-o", bundle, key(plain)).want(t, exitOK)
	require.Contains(t, call("pull", "-dir", to, bundle).want(t, exitOK).out, "0 stored")
	pull(exitOK, "-dir", to, key(other))
	require.Contains(t, call("pull", "-dir", to, bundle).want(t, exitOK).out, "1 stored")
	call("warm", "-require", "-dir", to, plain).want(t, exitOK)
}

func fileSize(t *testing.T, file string) int64 {
	t.Helper()
	fi, err := os.Stat(file)
	require.NoError(t, err)
	return fi.Size()
}
