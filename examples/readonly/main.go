// Command readonly is a program for images that are never written to: the machine code is
// compiled while the image is built, and the container only ever loads it.
//
//	RUN ["/app", "warm", "-dir", "/cache", "/plugins/a.wasm", "/plugins/b.wasm"]
//	CMD ["/app", "run", "-dir", "/cache", "/plugins/a.wasm"]
//
// The image must be built on the kind of machine that it runs on: which instructions
// the CPU has is part of the key. So is the build of wazero, which is why one
// program does both. And both steps run as one user (USER in a Dockerfile): the directory
// is readable by its owner only. docs/deploy.md has a recipe with two.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/modcache/modcache"
)

func main() {
	if err := command(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "readonly:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, out io.Writer) error {
	usage := errors.New("usage: readonly warm -dir directory module.wasm...\n       readonly run  -dir directory module.wasm")
	if len(args) == 0 {
		return usage
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	dir := flags.String("dir", "", "cache directory in the image")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch {
	case *dir == "":
		return usage
	case args[0] == "warm" && flags.NArg() > 0:
		return warm(ctx, out, *dir, flags.Args())
	case args[0] == "run" && flags.NArg() == 1:
		return run(ctx, out, *dir, flags.Arg(0))
	}
	return usage
}

// config is that of both steps: with another one, the machine code would be other code.
func config() wazero.RuntimeConfig {
	return wazero.NewRuntimeConfig().WithDebugInfoEnabled(false)
}

// warm compiles the modules. It fails if any of them isn't in the directory in the end, so
// that the build of the image fails.
func warm(ctx context.Context, out io.Writer, dir string, files []string) error {
	var modules []*modcache.Module
	for _, file := range files {
		wasm, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		modules = append(modules, modcache.NewModule(wasm).Named(filepath.Base(file)))
	}
	cache, err := modcache.Open(dir, &modcache.Options{
		Workers: runtime.GOMAXPROCS(0), // nobody else is served meanwhile
		// The image is what bounds it: nothing that was asked for may be dropped.
		Disk: modcache.DiskOptions{MaxBytes: -1, MaxAge: -1},
	})
	if err != nil {
		return err
	}
	defer cache.Close(ctx)
	if err := cache.Warm(ctx, config(), modules...); err != nil {
		return err
	}
	// The layer of the image may be taken as soon as this process ends.
	if err := cache.Flush(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "compiled %d modules\n", cache.Metrics().Compiles)
	return nil
}

// run starts a module that was warmed. Compiling would take seconds and memory that
// the container may not have, so a module that isn't there is an error.
func run(ctx context.Context, out io.Writer, dir, file string) error {
	cache, err := modcache.Open(dir, &modcache.Options{RequireHit: true, ReadOnly: true})
	if err != nil {
		return err
	}
	defer cache.Close(ctx)
	r, err := cache.NewRuntime(ctx, config())
	if err != nil {
		return err
	}
	defer r.Close(ctx)
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
		return err
	}
	wasm, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	compiled, err := r.CompileModule(ctx, wasm)
	if errors.Is(err, modcache.ErrMiss) {
		return fmt.Errorf("%s was not warmed, or for another machine or build: %w", file, err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "loaded")
	_, err = r.InstantiateModule(ctx, compiled, wazero.NewModuleConfig().WithStdout(out).WithStderr(os.Stderr))
	return err
}
