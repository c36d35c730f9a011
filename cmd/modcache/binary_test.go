package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/wasmtest"
)

// build returns this command as an executable.
func build(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a program")
	}
	needsCompiler(t)
	bin := filepath.Join(t.TempDir(), "modcache.exe")
	out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	return bin
}

func TestBinary(t *testing.T) {
	bin := build(t)
	src, files := modules(t, 2)
	cache := filepath.Join(t.TempDir(), "cache")
	tool := func(code int, args ...string) (stdout string) {
		t.Helper()
		var out, stderr bytes.Buffer
		cmd := exec.Command(bin, args...)
		cmd.Stdout, cmd.Stderr = &out, &stderr
		_ = cmd.Run()
		require.Equal(t, code, cmd.ProcessState.ExitCode(), "%v\n%s%s", args, out.String(), stderr.String())
		require.Equal(t, code == exitOK, stderr.Len() == 0 || args[0] == "push" || args[0] == "bundle", stderr.String())
		return out.String()
	}
	require.Contains(t, tool(exitOK, "-h"), "warm")
	tool(exitUsage, "warm")
	tool(exitFailed, "ls", "-dir", src)
	tool(exitFound, "warm", "-require", "-dir", cache, src)
	tool(exitOK, "warm", "-dir", cache, "-program", bin, src)
	tool(exitOK, "warm", "-require", "-dir", cache, src)

	// A package that isn't built is read as what it will be.
	file := filepath.Join(t.TempDir(), "b.bundle")
	tool(exitOK, "bundle", "-o", file, "-program", ".", src)
	requireBundle(t, file, files...)

	// What one process pushes another pulls, through a pipe.
	pushing, pulling := exec.Command(bin, "push", "-dir", cache), exec.Command(bin, "pull", "-dir", cache+"2")
	pipe, err := pushing.StdoutPipe()
	require.NoError(t, err)
	pulling.Stdin = pipe
	require.NoError(t, pulling.Start())
	require.NoError(t, pushing.Run())
	require.NoError(t, pulling.Wait())
	tool(exitOK, "warm", "-require", "-dir", cache+"2", src)

	// This tool, unlike this test, says what it was built with.
	out := tool(exitOK, "doctor", "-dir", cache, "-program", bin, files[0])
	require.Contains(t, out, "what this tool compiles is for the program")
	require.Contains(t, out, "is there: ")
	goBin, err := exec.LookPath("go")
	require.NoError(t, err)
	tool(exitFailed, "doctor", "-dir", cache, "-program", goBin)
}

// TestSignal interrupts a process that warms, and one that waits for a bundle.
func TestSignal(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no signals between processes")
	}
	bin := build(t)
	src := t.TempDir()
	for i := range 40 {
		name := filepath.Join(src, strings.Repeat("m", i+1)+".wasm")
		require.NoError(t, os.WriteFile(name, wasmtest.Sum(4000, int32(i)), 0o600))
	}
	cache := filepath.Join(t.TempDir(), "cache")
	warm := exec.Command(bin, "warm", "-dir", cache, "-jobs", "2", src)
	var stderr bytes.Buffer
	warm.Stderr = &stderr
	out, err := warm.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, warm.Start())
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan())
	require.NoError(t, warm.Process.Signal(os.Interrupt))
	for lines.Scan() {
	}
	require.Error(t, warm.Wait())
	require.Equal(t, exitFailed, warm.ProcessState.ExitCode(), stderr.String())
	require.Equal(t, "modcache warm: interrupted; what was stored until then is complete\n", stderr.String())
	require.NotEmpty(t, entries(t, cache))
	require.Less(t, len(entries(t, cache)), 40)
	call("verify", "-dir", cache).want(t, exitOK)

	pull := exec.Command(bin, "pull", "-dir", cache)
	stderr.Reset()
	pull.Stderr = &stderr
	in, err := pull.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, pull.Start())
	_, err = in.Write([]byte("a start")) // and then nothing
	require.NoError(t, err)
	require.NoError(t, pull.Process.Signal(os.Interrupt))
	require.Error(t, pull.Wait())
	require.NotEmpty(t, entries(t, cache))
	call("verify", "-dir", cache).want(t, exitOK)
}
