package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/examples/exampletest"
)

func TestImage(t *testing.T) {
	exampletest.NeedCompiler(t)
	ctx, tmp := t.Context(), t.TempDir()
	module := func(name string, wasm []byte) string {
		file := filepath.Join(tmp, name)
		require.NoError(t, os.WriteFile(file, wasm, 0o600))
		return file
	}
	a, b := module("a.wasm", exampletest.Module(50, 1)), module("b.wasm", exampletest.Module(50, 2))
	unknown := module("unknown.wasm", exampletest.Module(50, 3))
	dir := filepath.Join(tmp, "cache")

	// Before the image is built there is no directory, and none is made.
	require.ErrorIs(t, run(ctx, new(bytes.Buffer), dir, a), modcache.ErrMiss)
	require.NoDirExists(t, dir)

	var out bytes.Buffer
	require.NoError(t, command(ctx, []string{"warm", "-dir", dir, a, b}, &out))
	require.Equal(t, "compiled 2 modules\n", out.String())
	freeze(t, dir)
	before := tree(t, dir)

	for _, file := range []string{a, b, a} {
		out.Reset()
		require.NoError(t, command(ctx, []string{"run", "-dir", dir, file}, &out))
		require.Equal(t, "loaded\n", out.String())
	}
	err := run(ctx, &out, dir, unknown)
	require.ErrorIs(t, err, modcache.ErrMiss)
	require.ErrorContains(t, err, "unknown.wasm was not warmed")
	require.Equal(t, before, tree(t, dir), "the directory was written to")
}

// freeze takes all write permissions away, which doesn't impress root.
func freeze(t *testing.T, dir string) {
	chmod := func(file, dir os.FileMode) func(string, fs.DirEntry, error) error {
		return func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				return os.Chmod(path, dir)
			} else if err == nil {
				return os.Chmod(path, file)
			}
			return err
		}
	}
	require.NoError(t, filepath.WalkDir(dir, chmod(0o400, 0o500)))
	t.Cleanup(func() { _ = filepath.WalkDir(dir, chmod(0o600, 0o700)) })
}

// tree describes all files below dir.
func tree(t *testing.T, dir string) (files []string) {
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		files = append(files, path+" "+fi.Mode().String()+" "+fi.ModTime().String())
		return nil
	}))
	return files
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"warm"}, {"warm", "-dir", "x"}, {"run", "-dir", "x", "a", "b"}, {"walk", "-dir", "x", "a"}} {
		require.ErrorContains(t, command(t.Context(), args, new(bytes.Buffer)), "usage")
	}
}

func TestWarmFails(t *testing.T) {
	exampletest.NeedCompiler(t)
	dir := filepath.Join(t.TempDir(), "cache")
	require.ErrorIs(t, warm(t.Context(), new(bytes.Buffer), dir, []string{"no such file"}), fs.ErrNotExist)
	require.ErrorContains(t, warm(t.Context(), new(bytes.Buffer), dir, []string{"main.go"}), "invalid magic number")
}
