// Command embedded is a program that brings the machine code of its plugins along. It needs no
// cache directory, compiles nothing, and starts as fast on a machine that has never seen it.
//
//	go generate ./examples/embedded && go run ./examples/embedded 3 4
//
// In a module of your own, after go get -tool github.com/modcache/modcache/cmd/modcache:
//
//	//go:generate go tool modcache bundle -o plugins.bundle -program . plugins
//
// The bundle in this repository is empty, so that the program can be built: machine code is of
// one kind of CPU and one wazero. Generate it on, or for, machines like those that run the
// program. To go on without it, see the Example of modcache.OpenBundle: what isn't in the bundle
// is compiled once, and kept in a directory.
package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
)

//go:generate go run github.com/modcache/modcache/cmd/modcache bundle -o plugins.bundle -program . plugins

// A string stays where it is in the executable: code is read from there to where it runs.
//
//go:embed plugins.bundle
var bundle string

//go:embed plugins
var plugins embed.FS

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: embedded number number")
	}
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	store, err := modcache.OpenBundle(strings.NewReader(bundle), int64(len(bundle)), nil)
	if err != nil {
		return err
	}
	cache, err := modcache.New(store, &modcache.Options{RequireHit: true, ReadOnly: true})
	if err != nil {
		return err
	}
	defer cache.Close(ctx)
	r, err := cache.NewRuntime(ctx, wazero.NewRuntimeConfig())
	if err != nil {
		return err
	}
	defer r.Close(ctx)

	wasm, err := plugins.ReadFile("plugins/add.wasm")
	if err != nil {
		return err
	}
	plugin, err := r.Instantiate(ctx, wasm)
	if errors.Is(err, modcache.ErrMiss) {
		return fmt.Errorf("run go generate, for this machine: %w", err)
	}
	if err != nil {
		return err
	}
	var numbers []uint64
	for _, arg := range args {
		n, err := strconv.ParseUint(arg, 10, 31)
		if err != nil {
			return err
		}
		numbers = append(numbers, n)
	}
	sum, err := plugin.ExportedFunction("add").Call(ctx, numbers...)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d, %d compiled\n", sum[0], cache.Metrics().Compiles)
	return nil
}
