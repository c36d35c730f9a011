// Package exampletest says what the tests of the examples can't do without.
package exampletest

import (
	"os/exec"
	"testing"

	"github.com/modcache/modcache"
)

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
