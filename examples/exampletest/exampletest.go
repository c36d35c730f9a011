// Package exampletest says what the tests of the examples can't do without.
package exampletest

import (
	"os/exec"
	"testing"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// Wasm is a module in the making.
type Wasm = wasmtest.Module

// Module returns a module of n functions whose export f returns 1+2+…+n + seed.
func Module(n int, seed int32) []byte { return wasmtest.Sum(n, seed) }

// Forever returns a module whose start function never returns.
func Forever() []byte {
	var m wasmtest.Module
	m.Start(m.Func(m.Type(nil, nil), "_start", 0x03, 0x40, 0x0c, 0x00, 0x0b)) // loop br 0 end
	return m.Bytes()
}

// NeedCompiler skips a test where wazero only interprets, so that there is nothing to
// cache.
func NeedCompiler(t testing.TB) {
	t.Helper()
	c, err := modcache.New(modcache.NewMemory(nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	r, err := c.NewRuntime(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(t.Context())
	if r.Key(modcache.NewModule(nil)) == (modcache.Key{}) {
		t.Skip("wazero has no compiler for this platform")
	}
}

// NeedToolchain skips a test that builds Go programs where that can't be done, or
// takes too long.
func NeedToolchain(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds Go programs for WASI, which takes a while")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no Go toolchain to build a guest with")
	}
}
