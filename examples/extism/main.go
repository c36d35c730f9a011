// Command extism runs an extism plugin, by extism's own SDK, on a modcache. The SDK takes a
// configuration and the plugin's bytes, and makes a runtime for each plugin; a stub stands in for
// the bytes. Run it twice:
//
//	cd examples/extism && go run .
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	extism "github.com/extism/go-sdk"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
)

func main() {
	dir := flag.String("dir", "", "cache directory; the default is in your cache directory")
	file := flag.String("plugin", "", "a plugin with a function \"run\"; the default returns 42")
	flag.Parse()
	if err := run(context.Background(), os.Stdout, *dir, *file); err != nil {
		fmt.Fprintln(os.Stderr, "extism:", err)
		os.Exit(1)
	}
}

// answer is (module (func (export "run") (result i32) i32.const 42)).
var answer = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x05\x01\x60\x00\x01\x7f" + "\x03\x02\x01\x00" + "\x07\x07\x01\x03run\x00\x00" + "\x0a\x06\x01\x04\x00\x41\x2a\x0b")

func run(ctx context.Context, out io.Writer, dir, file string) error {
	wasm := answer
	if file != "" {
		var err error
		if wasm, err = os.ReadFile(file); err != nil {
			return err
		}
	}
	cache, err := modcache.Open(dir, nil)
	if err != nil {
		return err
	}
	defer cache.Close(ctx)

	start := time.Now()
	config := wazero.NewRuntimeConfig().WithCompilationCache(cache.CompilationCache())
	// extism changes the configuration if a manifest has a timeout or limits its memory. Then do the same here.
	stub, err := cache.Stub(ctx, config, modcache.NewModule(wasm))
	if err != nil {
		return err
	}
	plugin, err := extism.NewPlugin(ctx,
		extism.Manifest{Wasm: []extism.Wasm{extism.WasmData{Data: stub}}},
		extism.PluginConfig{RuntimeConfig: config, EnableWasi: true}, nil)
	if err != nil {
		return err
	}
	defer plugin.Close(ctx)
	took := time.Since(start).Round(100 * time.Microsecond)

	result, _, err := plugin.CallWithContext(ctx, "run", nil)
	if file == "" && result != 42 {
		return fmt.Errorf("the plugin returned %d: %w", result, err)
	}
	how := "loaded"
	if cache.Metrics().Compiles > 0 {
		how = "compiled"
	}
	_, err = fmt.Fprintf(out, "the plugin returns %d; %s in %v\n", result, how, took)
	return err
}
