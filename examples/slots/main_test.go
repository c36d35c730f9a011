package main

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"

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
