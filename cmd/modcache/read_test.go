package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// hollow makes a file of that size, with nothing but its start in it.
func hollow(t *testing.T, start string, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "hollow")
	require.NoError(t, os.WriteFile(name, []byte(start), 0o600))
	require.NoError(t, os.Truncate(name, size))
	return name
}

// TestReadBounds names files that hold far more than they should.
func TestReadBounds(t *testing.T) {
	text := hollow(t, "", maxText+1)
	cache, files := warmed(t, 1)
	dir := filepath.Join(t.TempDir(), "served")
	for _, args := range [][]string{
		{"ls", "-dir", cache, "-key-file", text}, {"keygen", "-public", text},
		{"push", "-dir", cache, "-sign", text, "-o", dir}, {"push", "-dir", cache, "-bundle-key-file", text, "-o", dir}, {"pull", "-keyring", text, "-n", text},
		{"serve", "-dir", dir, "-keyring", text}, {"serve", "-dir", dir, "-sign", text}, {"serve", "-dir", dir, "-read-tokens", text},
		{"serve", "-dir", dir, "-write-tokens", text}, {"serve", "-dir", dir, "-tls-cert", text, "-tls-key", text},
	} {
		require.Contains(t, call(args...).want(t, exitFailed).err, text+" holds more than 1.0 MB")
	}
	require.NoDirExists(t, dir)

	const header = "\x00asm\x01\x00\x00\x00"
	module := hollow(t, header, maxModule+1)
	for _, args := range [][]string{
		{"warm", "-dir", cache, module}, {"key", module}, {"key", files[0], module}, {"bundle", "-o", dir, module},
		{"ls", "-dir", cache, "-module", module}, {"rm", "-dir", cache, "-module", module}, {"doctor", "-dir", cache, module},
	} {
		require.Contains(t, call(args...).want(t, exitFailed).err, module+" holds more than 1.1 GB", args)
	}
	_, err := readUpTo(hollow(t, header, 100), 100, []byte("\x00asm"))
	require.NoError(t, err, "the limit itself")
}

// TestReadsModulesOnly selects by what is no module.
func TestReadsModulesOnly(t *testing.T) {
	cache, files := warmed(t, 1)
	other := hollow(t, "", 100)
	for _, args := range [][]string{
		{"ls", "-module", other}, {"rm", "-module", other}, {"rm", "-n", "-module", other}, {"push", "-module", other}, {"doctor", other},
	} {
		require.Contains(t, call(append(args, "-dir", cache)...).want(t, exitFailed).err, "not a WebAssembly module", args)
	}
	require.Len(t, entries(t, cache), 1)
	call("ls", "-dir", cache, "-module", files[0]).want(t, exitOK)
}
