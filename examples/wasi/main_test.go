package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/examples/exampletest"
	"github.com/modcache/modcache/examples/guest"
)

func TestRun(t *testing.T) {
	exampletest.NeedToolchain(t)
	wasm, err := guest.Build(t.Context(), words)
	require.NoError(t, err)
	cacheDir, files := filepath.Join(t.TempDir(), "cache"), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(files, "text"), []byte("three small words"), 0o600))

	for _, test := range []struct {
		stdin, mount string
		args         []string
		code         int
		stdout       string
		stderr       string
	}{
		{stdin: "one two", stdout: "2 words\n"},
		{stdin: "", stdout: "0 words\n", code: 2},
		{args: []string{"/text", "/text"}, mount: files, stdout: "5 words\n"}, // the files adjoin
		{args: []string{"/text"}, code: 1, stderr: "open /text: "},            // nothing is mounted
	} {
		var stdout, stderr bytes.Buffer
		code, err := run(t.Context(), command{
			cacheDir: cacheDir, wasm: wasm, args: append([]string{"words"}, test.args...), mount: test.mount,
			stdin: strings.NewReader(test.stdin), stdout: &stdout, stderr: &stderr,
		})
		require.NoError(t, err)
		require.Equal(t, test.code, code)
		require.Equal(t, test.stdout, stdout.String())
		require.Contains(t, stderr.String(), test.stderr)
	}
}

// An interrupt ends a guest that never would.
func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	code, err := run(ctx, command{cacheDir: filepath.Join(t.TempDir(), "cache"), wasm: exampletest.Forever()})
	require.Error(t, err)
	require.Equal(t, 1, code)
}

func TestNotAModule(t *testing.T) {
	code, err := run(t.Context(), command{cacheDir: filepath.Join(t.TempDir(), "cache"), wasm: []byte("no")})
	require.ErrorContains(t, err, "invalid magic number")
	require.Equal(t, 1, code)
}
