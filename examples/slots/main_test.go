package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/examples/exampletest"
)

func TestRun(t *testing.T) {
	exampletest.NeedToolchain(t)
	guest, err := build(context.Background())
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, run(context.Background(), &out, guest))
	require.Equal(t, `alice: alice's journal: opened
alice: alice's journal: still open by its second handle
bob: alice's journal: written by the one it was lent to
host: bob tried 100000 integers, 1 of them worked
host: bob writes by alice's handle: false
host: alice is gone and holds 0 journals, bob holds 1
host: alice's journal is closed
`, out.String())
}

// TestRead copies no more of a guest's memory than maxText, and nothing outside of it.
func TestRead(t *testing.T) {
	var m exampletest.Wasm
	m.Memory(1)
	m.Data([]byte(strings.Repeat("x", 2*maxText)))
	r := wazero.NewRuntime(t.Context())
	defer r.Close(t.Context())
	mod, err := r.Instantiate(t.Context(), m.Bytes())
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("x", maxText), read(mod, 0, maxText))
	require.Empty(t, read(mod, 0, maxText+1))
	require.Equal(t, "\x00", read(mod, 1<<16-1, 1))
	require.Empty(t, read(mod, 1<<16-1, 2))
}
