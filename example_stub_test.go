//go:build amd64 || arm64

package modcache_test

import (
	"context"
	"fmt"
	"log"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
)

// libraryCall stands for a library that makes its own runtimes.
func libraryCall(ctx context.Context, config wazero.RuntimeConfig, wasm []byte) (uint64, error) {
	runtime := wazero.NewRuntimeWithConfig(ctx, config)
	defer runtime.Close(ctx)
	instance, err := runtime.Instantiate(ctx, wasm)
	if err != nil {
		return 0, err
	}
	results, err := instance.ExportedFunction("f").Call(ctx)
	if err != nil {
		return 0, err
	}
	return results[0], nil
}

// A library that takes a configuration and a module's bytes gets a stub in place of them. It must not
// come into any other runtime: it has no code of its own.
func ExampleCache_Stub() {
	ctx := context.Background()
	dir, remove := exampleDir()
	defer remove()
	cache, err := modcache.Open(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)

	config := wazero.NewRuntimeConfig().WithCompilationCache(cache.CompilationCache())
	stub, err := cache.Stub(ctx, config, modcache.NewModule(answer))
	if err != nil {
		log.Fatal(err)
	}
	result, err := libraryCall(ctx, config, stub)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result, "loaded through a stub:", cache.Metrics().Stubbed > 0)
	// Output:
	// 42 loaded through a stub: true
}
