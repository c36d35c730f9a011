package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// bundled returns the bundle that the command makes.
func bundled(t *testing.T, args ...string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "b.bundle")
	call(append([]string{"bundle", "-o", file}, args...)...).want(t, exitOK)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	return b
}

// requireBundle checks that a program finds these modules in a bundle.
func requireBundle(t *testing.T, file string, files ...string) {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	fi, err := f.Stat()
	require.NoError(t, err)
	s, err := modcache.OpenBundle(f, fi.Size(), nil)
	require.NoError(t, err)
	c, err := modcache.New(s, &modcache.Options{RequireHit: true, ReadOnly: true})
	require.NoError(t, err)
	defer c.Close(bg)
	for _, name := range files {
		wasm, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, c.Warm(bg, nil, modcache.NewModule(wasm)))
	}
	require.Zero(t, c.Metrics().Compiles)
}

func TestBundleCommand(t *testing.T) {
	dir, files := modules(t, 3)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", filepath.Join(tmp, "t"))
	require.NoError(t, os.Mkdir(filepath.Join(tmp, "t"), 0o700))
	file := func(name string) string { return filepath.Join(tmp, name) }
	make := func(name string, args ...string) string {
		call(append([]string{"bundle", "-o", file(name)}, args...)...).want(t, exitOK)
		return file(name)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		return b
	}

	all := make("all", dir)
	requireBundle(t, all, files...)
	require.Equal(t, read(all), bundled(t, files[2], files[0], files[1]), "the same bytes, in whatever order")

	one, two := make("one", files[0]), make("two", files[1], files[2])
	require.Equal(t, read(all), read(make("merged", two, one)))
	require.Equal(t, read(all), read(make("mixed", two, files[0])))
	require.Equal(t, read(all), read(make("one", "-append", two)), "-append keeps what was there")
	require.Equal(t, read(two), read(make("one", two)), "without it, the file is replaced")
	require.Equal(t, read(two), read(make("new", "-append", two)), "there was none")

	small := make("small", "-compress", dir)
	requireBundle(t, small, files...)
	require.Less(t, len(read(small)), len(read(all)))
	require.Equal(t, read(all), read(make("raw", small)), "and back")

	left, err := os.ReadDir(file("t"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// Two builds that share code share it in whatever order they are found.
func TestBundleCommandSharesSpellings(t *testing.T) {
	dir, files := modules(t, 1)
	wasm, err := os.ReadFile(files[0])
	require.NoError(t, err)
	other := filepath.Join(dir, "other.wasm")
	require.NoError(t, os.WriteFile(other, append(wasm, 0, 3, 1, 'x', 'y'), 0o600)) // a custom section
	first, others := firstSpellings(bg, []string{files[0], other})
	require.Equal(t, [][]string{{files[0]}, {other}}, [][]string{first, others})
	b := bundled(t, dir)
	for range 3 {
		require.Equal(t, b, bundled(t, "-jobs", "4", dir))
	}
}

func TestBundleCommandRefuses(t *testing.T) {
	_, files := modules(t, 1)
	tmp := t.TempDir()
	out := filepath.Join(tmp, "out")
	require.NoError(t, os.WriteFile(out, []byte("what was there"), 0o600))
	bad := filepath.Join(tmp, "bad.wasm")
	require.NoError(t, os.WriteFile(bad, []byte("\x00asm no module"), 0o600))
	key := filepath.Join(tmp, "key")
	call("keygen", key).want(t, exitOK)
	good := filepath.Join(tmp, "good")
	call("bundle", "-o", good, files[0]).want(t, exitOK)
	damaged := filepath.Join(tmp, "damaged")
	b, err := os.ReadFile(good)
	require.NoError(t, err)
	b[len(b)/2] ^= 1
	require.NoError(t, os.WriteFile(damaged, b, 0o600))
	cut := filepath.Join(tmp, "cut")
	require.NoError(t, os.WriteFile(cut, b[:len(b)/2], 0o600))

	call("bundle", files[0]).want(t, exitUsage)
	call("bundle", "-o", out).want(t, exitUsage)
	for _, args := range [][]string{
		{files[0], bad}, {filepath.Join(tmp, "none")}, {damaged}, {cut}, {"-sign", key, good}, {"-program", tmp, files[0]},
	} {
		o := call(append([]string{"bundle", "-o", out}, args...)...)
		require.Equal(t, exitFailed, o.code, "%v: %s", args, o.err)
		kept, err := os.ReadFile(out)
		require.NoError(t, err)
		require.Equal(t, "what was there", string(kept), args)
	}
	require.Contains(t, call("bundle", "-o", out, "-append", files[0]).want(t, exitFailed).err, "not a bundle")

	// Signed ones merge with those of the same key, and are taken by it.
	signed := filepath.Join(tmp, "signed")
	call("bundle", "-o", signed, "-sign", key, files[0]).want(t, exitOK)
	call("bundle", "-o", signed, "-sign", key, "-append", files[0]).want(t, exitOK)
	ring := filepath.Join(tmp, "ring")
	require.NoError(t, os.WriteFile(ring, []byte(call("keygen", "-public", key).want(t, exitOK).out), 0o600))
	call("pull", "-dir", filepath.Join(tmp, "cache"), "-keyring", ring, signed).want(t, exitOK)
}
