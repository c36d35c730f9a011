package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/examples/exampletest"
	"github.com/modcache/modcache/remote"
)

// served returns a fleet around a server of its own.
func served(t *testing.T, keyFile string) fleet {
	f := fleet{token: "the builder's", patience: time.Minute}
	var err error
	f.key, err = signingKey(keyFile)
	require.NoError(t, err)
	stop, err := f.serve()
	require.NoError(t, err)
	t.Cleanup(stop)
	return f
}

func TestRun(t *testing.T) {
	exampletest.NeedCompiler(t)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, t.TempDir(), served(t, ""), modcache.NewModule(exampletest.Module(100, 5))))
	require.Equal(t, `builder: compiled 1
builder: disk answered 0
builder: fleet answered 0
node: compiled 0
node: disk answered 0
node: fleet answered 1
node, again: compiled 0
node, again: disk answered 1
node, again: fleet answered 0
`, out.String())
}

// TestStrangers shows that a machine runs nothing that its keyring doesn't list, and
// that nobody publishes without a token.
func TestStrangers(t *testing.T) {
	exampletest.NeedCompiler(t)
	key, err := remote.GenerateKey()
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, []byte(key.Secret()+" # of this test\n"), 0o600))
	f, ctx, module := served(t, file), t.Context(), modcache.NewModule(exampletest.Module(100, 6))
	require.Equal(t, key.Public(), f.key.Public())
	require.NoError(t, run(ctx, new(bytes.Buffer), t.TempDir(), f, module))

	alone := func(o remote.Options, module *modcache.Module) (string, error) {
		var out bytes.Buffer
		err := use(ctx, &out, "machine", t.TempDir(), f.url, o, module)
		return out.String(), err
	}
	said, err := alone(f.node(), module)
	require.NoError(t, err)
	require.Contains(t, said, "compiled 0")
	require.Contains(t, said, "fleet answered 1")

	other, err := remote.GenerateKey()
	require.NoError(t, err)
	said, err = alone(fleet{key: other, patience: time.Minute}.node(), module)
	require.NoError(t, err)
	require.Contains(t, said, "compiled 1")
	require.Contains(t, said, "fleet answered 0")

	_, err = alone(fleet{key: other, token: "no token"}.builder(), modcache.NewModule(exampletest.Module(100, 7)))
	require.ErrorContains(t, err, "401")
}
