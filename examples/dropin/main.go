// Command dropin is a program that uses wazero as it always did, but for one line.
// Run it twice: the second run loads what the first compiled.
//
//	go run ./examples/dropin             # a Go program, built on the spot
//	go run ./examples/dropin module.wasm # a WASI command of yours
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/examples/guest"
)

func main() {
	dir := flag.String("dir", "", "cache directory; the default is in your cache directory")
	flag.Parse()
	ctx := context.Background()
	wasm, err := guest.Load(ctx, flag.Arg(0))
	if err == nil {
		err = run(ctx, os.Stdout, *dir, wasm)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dropin:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, dir string, wasm []byte) error {
	cache, err := modcache.Open(dir, nil)
	if err != nil {
		return err
	}
	defer cache.Close(ctx)

	// The line: what was wazero.NewCompilationCacheWithDir, or nothing, before.
	config := wazero.NewRuntimeConfig().WithCompilationCache(cache.CompilationCache())

	r := wazero.NewRuntimeWithConfig(ctx, config)
	defer r.Close(ctx)
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
		return err
	}
	start := time.Now()
	compiled, err := r.CompileModule(ctx, wasm)
	if err != nil {
		return err
	}
	took := time.Since(start).Round(100 * time.Microsecond)
	if cache.Metrics().Hits > 0 {
		fmt.Fprintf(out, "loaded from the cache in %v\n", took)
	} else {
		fmt.Fprintf(out, "compiled in %v\n", took)
	}

	_, err = r.InstantiateModule(ctx, compiled, wazero.NewModuleConfig().WithStdout(out).WithStderr(os.Stderr))
	return err
}
