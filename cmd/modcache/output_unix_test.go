//go:build unix

package main

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestOutputIsWrittenThrough pushes to names that stand for something else than a regular
// file, which has to stay what it is.
func TestOutputIsWrittenThrough(t *testing.T) {
	bundle, cache, files := pushed(t, 2)
	dir := t.TempDir()
	push := func(name string) outcome { return call("push", "-dir", cache, "-o", name) }
	requireWrittenThrough(t, bundle, push)
	merged := bundled(t, files...)
	requireWrittenThrough(t, merged, func(name string) outcome { return call(append([]string{"bundle", "-o", name}, files...)...) })

	null := filepath.Join(dir, "null")
	require.NoError(t, os.Symlink(os.DevNull, null))
	push(null).want(t, exitOK)
	fi, err := os.Lstat(null)
	require.NoError(t, err)
	require.NotZero(t, fi.Mode()&os.ModeSymlink, "the link was replaced")

	// A link to a file leads to it, and a link to nothing nowhere.
	file, link := filepath.Join(t.TempDir(), "file"), filepath.Join(dir, "link")
	require.NoError(t, os.WriteFile(file, []byte("old"), 0o600))
	require.NoError(t, os.Symlink(file, link))
	push(link).want(t, exitOK)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.True(t, bytes.Equal(bundle, b))

	// Who may read a file stays as it was, and nobody else may read a new one.
	requireMode := func(mode fs.FileMode) {
		t.Helper()
		fi, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, mode, fi.Mode())
	}
	requireMode(0o600)
	require.NoError(t, os.Chmod(file, 0o644))
	push(file).want(t, exitOK)
	requireMode(0o644)
	require.NoError(t, os.Remove(file))
	require.Contains(t, push(link).want(t, exitFailed).err, "link to nothing")
	require.NoFileExists(t, file)
	push(dir).want(t, exitFailed)

	t.Chdir(t.TempDir())
	require.Equal(t, string(bundle), push("-").want(t, exitOK).out)
	require.Equal(t, string(merged), call(append([]string{"bundle", "-o", "-"}, files...)...).want(t, exitOK).out)
	require.NoFileExists(t, "-")
}

// requireWrittenThrough has a command write a bundle to a FIFO, and to a link to it.
func requireWrittenThrough(t *testing.T, bundle []byte, command func(name string) outcome) {
	t.Helper()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	for _, name := range []string{fifo, filepath.Join(dir, "to fifo")} {
		if name != fifo {
			require.NoError(t, os.Symlink(fifo, name))
		}
		r, err := os.OpenFile(fifo, os.O_RDWR, 0) // doesn't wait for a writer
		require.NoError(t, err)
		got := make(chan []byte)
		go func() {
			b := make([]byte, len(bundle))
			_, _ = io.ReadFull(r, b)
			got <- b
		}()
		command(name).want(t, exitOK)
		fi, err := os.Stat(fifo)
		require.NoError(t, err)
		if fi.Mode()&os.ModeNamedPipe == 0 {
			r.Close()
			t.Fatal("the pipe was replaced")
		}
		require.Equal(t, bundle, <-got)
		require.NoError(t, r.Close())
	}
}

// TestOutputIsFull fails commands whose results nobody gets to see.
func TestOutputIsFull(t *testing.T) {
	cache, files := warmed(t, 1)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	for _, args := range [][]string{
		{"ls"}, {"ls", "-json"}, {"stat"}, {"stat", "-json"}, {"verify"}, {"trim"}, {"trim", "-n"}, {"push"}, {"warm", files[0]},
		{"rm", "-n", "-all"}, {"doctor"}, {"doctor", "-json"},
	} {
		callWith(bg, &streams{out: full}, append(args, "-dir", cache)...).want(t, exitFailed)
	}
	require.Len(t, entries(t, cache), 1)
	for _, args := range [][]string{
		{"key", files[0]}, {"keygen", filepath.Join(t.TempDir(), "key")}, {"-h"}, {"--help"}, {"help"}, {"help", "warm"}, {"ls", "-h"},
		{"env"}, {"env", "-json"}, {"version"}, {"version", "-json"}, {"completion", "bash"}, {"completion", "fish"},
	} {
		callWith(bg, &streams{out: full}, args...).want(t, exitFailed)
	}
}

// TestReadEndsEarly reads no more of a pipe than it may.
func TestReadEndsEarly(t *testing.T) {
	name := fifo(t)
	const most = 1000
	written := make(chan int64)
	go func() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			written <- 0
			return
		}
		n, _ := f.Write(make([]byte, 1<<20))
		_ = f.Close()
		written <- int64(n)
	}()
	_, err := readUpTo(name, most, nil)
	require.ErrorContains(t, err, "holds more than 1.0 kB")
	require.Less(t, <-written, int64(1<<20))
}

// TestDevicesAreNoTerminals redirects to devices that nobody sits in front of.
func TestDevicesAreNoTerminals(t *testing.T) {
	for _, name := range []string{os.DevNull, "/dev/zero", "/dev/full"} {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Log(err)
			continue
		}
		require.False(t, isTerminal(f), name)
		require.NoError(t, f.Close())
	}
}
