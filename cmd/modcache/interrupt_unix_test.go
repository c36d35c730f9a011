//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const mainChild = "MODCACHE_MAIN_CHILD"

// TestMainChild is not a test but the command, in a process that another test starts.
func TestMainChild(t *testing.T) {
	args := os.Getenv(mainChild)
	if args == "" {
		t.Skip("runs in processes that another test starts")
	}
	os.Args = strings.Split("modcache\n"+args, "\n")
	main()
}

// child is the command in a process of its own, with a directory for its temporary files that has to be empty
// when it has ended.
func child(t *testing.T, args ...string) (cmd *exec.Cmd, stderr *bytes.Buffer) {
	t.Helper()
	tmp := t.TempDir()
	cmd = exec.Command(os.Args[0], "-test.run=^TestMainChild$")
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, mainChild+"="+strings.Join(args, "\n"))
	stderr = &bytes.Buffer{}
	cmd.Stderr = stderr
	t.Cleanup(func() {
		if cmd.ProcessState == nil && cmd.Process != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return
		}
		left, err := os.ReadDir(tmp)
		require.NoError(t, err)
		require.Empty(t, left, args)
	})
	return cmd, stderr
}

func fifo(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(name, 0o600))
	return name
}

// read waits until somebody has opened a FIFO to read it.
func read(t *testing.T, fifo string) *os.File {
	t.Helper()
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	require.NoError(t, err)
	return w
}

// TestInterruptedByASignal sends one to commands that wait for a file which nobody writes: those that only read, and
// those that have begun to make something.
func TestInterruptedByASignal(t *testing.T) {
	cache, files := warmed(t, 1)
	name := fifo(t)
	all := signals() // without the one that nohup has us ignore
	for i, args := range [][]string{
		{"key", name}, {"bundle", "-o", filepath.Join(cache, "bundle"), files[0], name}, {"warm", "-dir", cache, name},
	} {
		cmd, stderr := child(t, args...)
		require.NoError(t, cmd.Start())
		w := read(t, name)
		require.NoError(t, cmd.Process.Signal(all[i%len(all)]))
		var exit *exec.ExitError
		require.ErrorAs(t, cmd.Wait(), &exit)
		require.NoError(t, w.Close())
		require.Equal(t, exitFailed, exit.ExitCode(), "%v: %s", args, stderr)
		require.Contains(t, stderr.String(), "interrupted", args)
	}
	require.NoFileExists(t, filepath.Join(cache, "bundle"))
}

// TestInterruptedWhileReading has every command that takes the name of a file wait for it.
func TestInterruptedWhileReading(t *testing.T) {
	cache, files := warmed(t, 1)
	bundle := filepath.Join(t.TempDir(), "bundle")
	call("push", "-dir", cache, "-o", bundle).want(t, exitOK)
	none := filepath.Join(t.TempDir(), "none")
	before := snapshot(t, cache)
	for _, args := range [][]string{
		{"key", "FIFO"}, {"key", files[0], "FIFO"}, {"warm", "-require", "-dir", cache, "FIFO"}, {"warm", "-dir", cache, "FIFO"},
		{"warm", "-dir", none, "-key-file", "FIFO", files[0]}, {"warm", "-to", "http://127.0.0.1:1", "-sign", "FIFO", files[0]},
		{"warm", "-dir", none, "-program", "FIFO", files[0]},
		{"ls", "-dir", cache, "-module", "FIFO"}, {"ls", "-dir", cache, "-key-file", "FIFO"}, {"stat", "-dir", cache, "-key-file", "FIFO"},
		{"verify", "-quarantine", "-dir", cache, "-key-file", "FIFO"}, {"trim", "-dir", cache, "-key-file", "FIFO"},
		{"rm", "-dir", cache, "-module", "FIFO"}, {"doctor", "-dir", cache, "FIFO"},
		{"bundle", "-o", none, "FIFO"}, {"bundle", "-o", none, "-sign", "FIFO", files[0]}, {"bundle", "-o", none, files[0], "FIFO"},
		{"push", "-dir", cache, "-o", none, "-sign", "FIFO"}, {"push", "-dir", cache, "-o", none, "-module", "FIFO"},
		{"pull", "-dir", none, "FIFO"}, {"pull", "-dir", none, "-keyring", "FIFO", bundle},
		{"keygen", "-public", "FIFO"}, {"serve", "-dir", none, "-read-tokens", "FIFO"},
		{"serve", "-dir", none, "-tls-cert", "FIFO", "-tls-key", files[0]},
	} {
		name := fifo(t)
		for i := range args {
			args[i] = strings.Replace(args[i], "FIFO", name, 1)
		}
		ctx, cancel := context.WithCancel(bg)
		code := make(chan int, 1)
		go func() { code <- run(ctx, args, &streams{out: io.Discard, err: io.Discard}) }()
		w := read(t, name)
		cancel()
		require.Equal(t, exitFailed, <-code, args)
		require.NoError(t, w.Close()) // ends what was left behind
	}
	require.Equal(t, before, snapshot(t, cache))
	require.NoFileExists(t, none)
}

// TestInterruptedWhileWriting interrupts a bundle that nobody reads.
func TestInterruptedWhileWriting(t *testing.T) {
	_, files := modules(t, 1)
	name := fifo(t)
	cmd, _ := child(t, "bundle", "-o", name, files[0])
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "1 compiled") {
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	require.Equal(t, exitFailed, exit.ExitCode())
}

// TestInterruptedMakesNothing leaves a command behind, which may go on later.
func TestInterruptedMakesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(bg)
	i, on, made := new(interruption), make(chan struct{}), make(chan error)
	cancel()
	require.ErrorIs(t, i.run(ctx, func() error {
		<-on
		made <- i.begin(ctx)
		return nil
	}), context.Canceled)
	close(on)
	require.ErrorIs(t, <-made, context.Canceled)

	// One that has begun is waited for.
	ctx, cancel = context.WithCancel(bg)
	ended := errors.New("ended")
	i = new(interruption)
	require.Equal(t, ended, i.run(ctx, func() error {
		require.NoError(t, i.begin(ctx))
		cancel()
		require.NoError(t, i.begin(ctx), "what it makes may take several steps")
		return ended
	}))
}

// TestOutputBreaks has nobody read what commands print: one that only reads is ended by that, and one that makes
// something makes all of it, then says that nobody has seen what it said.
func TestOutputBreaks(t *testing.T) {
	cache, files := warmed(t, 2)
	r, broken, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, r.Close())
	defer broken.Close()
	other := filepath.Join(t.TempDir(), "other")
	for _, args := range [][]string{
		{"ls", "-dir", cache}, {"warm", "-dir", other, files[0]}, {"bundle", "-o", "-", files[0]},
	} {
		cmd, stderr := child(t, args...)
		cmd.Stdout = broken
		var exit *exec.ExitError
		require.ErrorAs(t, cmd.Run(), &exit, args)
		if args[0] == "ls" {
			require.Equal(t, syscall.SIGPIPE, exit.Sys().(syscall.WaitStatus).Signal())
			continue
		}
		require.Equal(t, exitFailed, exit.ExitCode(), args)
		require.Contains(t, stderr.String(), "broken pipe", args)
	}
	require.Len(t, entries(t, other), 1)
}
