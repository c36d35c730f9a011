package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/examples/internal/exampletest"
	"github.com/modcache/modcache/internal/wasmtest"
)

func TestRun(t *testing.T) {
	exampletest.NeedCompiler(t)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, t.TempDir(), modcache.NewModule(wasmtest.Sum(100, 5))))
	require.Equal(t, `alpha: compiled
alpha: found in memory
alpha: memory answered 1
alpha: disk answered 0
alpha: fleet answered 0
beta: found in fleet
beta: found in memory
beta: memory answered 1
beta: disk answered 0
beta: fleet answered 1
beta: found in disk
beta: found in memory
beta: memory answered 1
beta: disk answered 1
beta: fleet answered 0
`, out.String())
}
