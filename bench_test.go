package modcache_test

import (
	"context"
	"os"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
)

// BenchmarkWarmStart is what a new process does to have a module ready, in one
// process. MODCACHE_WASM names the module.
func BenchmarkWarmStart(b *testing.B) {
	file := os.Getenv("MODCACHE_WASM")
	if file == "" {
		b.Skip("set MODCACHE_WASM to the file of a module")
	}
	wasm, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	ctx, dir := context.Background(), b.TempDir()
	b.Run("wazero directory", func(b *testing.B) {
		for b.Loop() {
			cc, err := wazero.NewCompilationCacheWithDir(dir + "/wazero")
			if err != nil {
				b.Fatal(err)
			}
			r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCompilationCache(cc))
			if _, err := r.CompileModule(ctx, wasm); err != nil {
				b.Fatal(err)
			}
			cc.Close(ctx)
		}
	})
	b.Run("Runtime", func(b *testing.B) {
		for b.Loop() {
			c, err := modcache.Open(dir+"/modcache", nil)
			if err != nil {
				b.Fatal(err)
			}
			r, err := c.NewRuntime(ctx, nil)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := r.CompileModule(ctx, wasm); err != nil {
				b.Fatal(err)
			}
			r.Close(ctx)
			c.Close(ctx)
		}
	})
}
