package testharness

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/modcachetest"
)

// guest stands for the module that your tests embed: (func (export "f") (result i32) i32.const 42).
var guest = []byte(empty + "\x01\x05\x01\x60\x00\x01\x7f" + "\x03\x02\x01\x00" + "\x07\x05\x01\x01f\x00\x00" + "\x0a\x06\x01\x04\x00\x41\x2a\x0b")

const empty = "\x00asm\x01\x00\x00\x00"

// newRuntime is what tests use in the place of wazero.NewRuntime.
func newRuntime(t *testing.T) wazero.Runtime {
	r, err := modcachetest.Cache(t).NewRuntime(t.Context(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close(context.Background()) }) // t.Context has ended by then
	return r
}

func TestNumber(t *testing.T) {
	for range 3 { // each has a runtime of its own, and the code is compiled once
		t.Run("", func(t *testing.T) {
			t.Parallel()
			c, err := New(t.Context(), newRuntime(t), guest)
			require.NoError(t, err)
			defer c.Close(t.Context())
			n, err := c.Number(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 42, n)
		})
	}
}

func TestNoFunction(t *testing.T) {
	_, err := New(t.Context(), newRuntime(t), []byte(empty))
	require.ErrorContains(t, err, "exports no function f")
}

// TestConfigured is for code that takes a configuration and makes its own runtime.
func TestConfigured(t *testing.T) {
	config := wazero.NewRuntimeConfig().WithCompilationCache(modcachetest.Cache(t).CompilationCache())
	r := wazero.NewRuntimeWithConfig(t.Context(), config)
	defer r.Close(t.Context())
	c, err := New(t.Context(), r, guest)
	require.NoError(t, err)
	n, err := c.Number(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 42, n)
}

// TestWarm is not for yours: it shows that the second runtime finds the code, whoever
// compiled it, this process or an earlier one.
func TestWarm(t *testing.T) {
	_, err := New(t.Context(), newRuntime(t), guest)
	require.NoError(t, err)
	before := modcachetest.Cache(t).Metrics().Compiles
	_, err = New(t.Context(), newRuntime(t), guest)
	require.NoError(t, err)
	require.Equal(t, before, modcachetest.Cache(t).Metrics().Compiles)
}
