package modcache_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
)

// TestCacheRequireHitSaysWhatIsThere has a module missed in each way that it can be.
func TestCacheRequireHitSaysWhatIsThere(t *testing.T) {
	needsCompiler(t)
	fill := func(t *testing.T, way int, o modcache.Options, wasm []byte) string {
		dir := filepath.Join(t.TempDir(), "c")
		c := openCache(t, dir, &o)
		_, err := ways[way].Run(c, wasm)
		require.NoError(t, err)
		require.NoError(t, c.Close(bg))
		return dir
	}
	const dropIn, ours = 0, 1
	secret := modcache.DiskOptions{Key: []byte("a secret of sixteen or more bytes")}
	for _, c := range []struct {
		name string
		way  int
		dir  func(t *testing.T) string
		want string
	}{
		{"missing", ours, func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") }, "none does not exist"},
		{"not a cache", ours, func(t *testing.T) string { return t.TempDir() }, "is not a cache"},
		{"another engine", ours, func(t *testing.T) string {
			return fill(t, ours, modcache.Options{EngineID: "of yesterday"}, chainWasm)
		}, `was filled for another engine, "of yesterday"`},
		{"another engine, drop-in", dropIn, func(t *testing.T) string {
			return fill(t, dropIn, modcache.Options{EngineID: "of yesterday"}, chainWasm)
		}, `was filled for another engine, "of yesterday"`},
		{"drop-in only", ours, func(t *testing.T) string { return fill(t, dropIn, modcache.Options{}, chainWasm) }, "entries of the drop-in only"},
		{"Runtimes only", dropIn, func(t *testing.T) string { return fill(t, ours, modcache.Options{}, chainWasm) }, "entries of Runtimes only"},
		{"another module", ours, func(t *testing.T) string { return fill(t, ours, modcache.Options{}, otherWasm) }, "but not this module"},
		{"another module, drop-in", dropIn, func(t *testing.T) string { return fill(t, dropIn, modcache.Options{}, otherWasm) }, "but not this module"},
		{"another key", ours, func(t *testing.T) string { return fill(t, ours, modcache.Options{Disk: secret}, chainWasm) }, "sealed under another"},
		{"another configuration", ours, func(t *testing.T) string {
			dir := filepath.Join(t.TempDir(), "c")
			c := openCache(t, dir, nil)
			require.NoError(t, c.Warm(bg, wazero.NewRuntimeConfig().WithMemoryLimitPages(9), modcache.NewModule(chainWasm)))
			require.NoError(t, c.Close(bg))
			return dir
		}, "for another configuration"},
		{"many", ours, func(t *testing.T) string {
			dir := fill(t, ours, modcache.Options{}, otherWasm)
			d := openDisk(t, dir, nil)
			for i := range uint64(1000) {
				require.NoError(t, d.Add(bg, diskKey(i), modcache.NewArtifact(nil, modcache.Info{Engine: "of yesterday"})))
			}
			return dir
		}, "(256 of its entries were looked at)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := c.dir(t)
			strict := openCache(t, dir, &modcache.Options{RequireHit: true, ReadOnly: true})
			_, err := ways[c.way].Run(strict, chainWasm)
			require.ErrorIs(t, err, modcache.ErrMiss)
			require.ErrorContains(t, err, dir+" ")
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "modcache doctor")
			require.Zero(t, strict.Metrics().Compiles)
		})
	}
	t.Run("empty", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "c")
		c := openCache(t, dir, nil)
		requireRuns(t, ways[ours], c, chainWasm, chainWant)
		require.NoError(t, c.Close(bg))
		shards, err := filepath.Glob(filepath.Join(dir, "[0-9a-f]"))
		require.NoError(t, err)
		for _, shard := range shards {
			require.NoError(t, os.RemoveAll(shard))
		}
		_, err = ways[ours].Run(openCache(t, dir, &modcache.Options{RequireHit: true}), chainWasm)
		require.ErrorIs(t, err, modcache.ErrMiss)
		require.ErrorContains(t, err, "is empty")
	})
	t.Run("only an alias", func(t *testing.T) {
		wasm := spellings(t)[1]
		dir := fill(t, ours, modcache.Options{}, wasm)
		d := openDisk(t, dir, nil)
		left := 0
		for e, err := range d.Walk(bg) {
			require.NoError(t, err)
			if left++; e.Info.WasmSize != 0 { // code
				require.NoError(t, d.Delete(bg, e.Key))
				left--
			}
		}
		require.NotZero(t, left)
		_, err := ways[ours].Run(openCache(t, dir, &modcache.Options{RequireHit: true}), wasm)
		require.ErrorIs(t, err, modcache.ErrMiss)
		require.ErrorContains(t, err, "but not this module")
	})
	t.Run("a store of somebody's", func(t *testing.T) {
		_, err := ways[ours].Run(newCache(t, &storetest.Fake{}, &modcache.Options{RequireHit: true}), chainWasm)
		require.ErrorIs(t, err, modcache.ErrMiss)
		require.NotContains(t, err.Error(), "doctor")
	})
}

// What interprets compiles nothing, so that there is no hit either.
func TestCacheRequireHitWhereWazeroInterprets(t *testing.T) {
	needsCompiler(t)
	c := newCache(t, &storetest.Fake{}, &modcache.Options{RequireHit: true})
	_, err := c.NewRuntime(bg, wazero.NewRuntimeConfigInterpreter())
	require.ErrorIs(t, err, modcache.ErrMiss)
	require.ErrorIs(t, err, modcache.ErrUnsupportedWazero)
	err = c.Warm(bg, wazero.NewRuntimeConfigInterpreter(), modcache.NewModule(chainWasm))
	require.ErrorIs(t, err, modcache.ErrUnsupportedWazero)
}
