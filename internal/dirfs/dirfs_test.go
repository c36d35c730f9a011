package dirfs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/dirfs"
)

func read(t *testing.T, tree dirfs.FS, name string) string {
	t.Helper()
	f, err := tree.OpenFile(name, os.O_RDONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	fi, err := f.Stat()
	require.NoError(t, err)
	b := make([]byte, fi.Size())
	_, err = f.ReadAt(b, 0)
	require.NoError(t, err)
	return string(b)
}

// TestDirectoryMadeAnew deletes a directory that files were read from.
func TestDirectoryMadeAnew(t *testing.T) {
	dir := t.TempDir()
	tree, err := dirfs.Open(dir)
	require.NoError(t, err)
	defer tree.Close()
	sub := filepath.Join(dir, "a")
	for _, text := range []string{"one", "two", "three"} {
		require.NoError(t, os.Mkdir(sub, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(sub, "file"), []byte(text), 0o600))
		require.Equal(t, text, read(t, tree, "a/file"))
		require.Equal(t, text, read(t, tree, "a/file"))
		_, err = tree.OpenFile("a/none", os.O_RDONLY, 0)
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.NoError(t, os.RemoveAll(sub))
		_, err = tree.OpenFile("a/file", os.O_RDONLY, 0)
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
}

func TestNothingLeadsOut(t *testing.T) {
	outside := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "file"), []byte("secret"), 0o600))
	dir := t.TempDir()
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "a")))
	require.NoError(t, os.Symlink(filepath.Join(outside, "file"), filepath.Join(dir, "b")))
	tree, err := dirfs.Open(dir)
	require.NoError(t, err)
	defer tree.Close()
	for _, name := range []string{"a/file", "b", "../" + filepath.Base(outside) + "/file", filepath.Join(outside, "file")} {
		for range 2 {
			_, err := tree.OpenFile(name, os.O_RDONLY, 0)
			require.Error(t, err, name)
			_, err = tree.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
			require.Error(t, err, name)
		}
		if name != "b" { // that moves the link
			require.Error(t, tree.Rename(name, "stolen"), name)
		}
	}
}

func TestClosed(t *testing.T) {
	dir := t.TempDir()
	tree, err := dirfs.Open(dir)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a", "file"), []byte("text"), 0o600))
	require.Equal(t, "text", read(t, tree, "a/file"))
	require.NoError(t, tree.Close())
	_, err = tree.OpenFile("a/file", os.O_RDONLY, 0)
	require.ErrorIs(t, err, os.ErrClosed)
}
