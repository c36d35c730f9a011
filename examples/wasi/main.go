// Command wasi runs a WASI command, with arguments, standard streams, a directory and its
// exit code, in a Runtime: from the second time on it starts in milliseconds.
//
//	echo one two | go run ./examples/wasi                   # counts words; built on the spot
//	go run ./examples/wasi -mount . module.wasm arg1 arg2   # a WASI command of yours
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/examples/guest"
)

//go:embed guest/main.go
var words []byte

// command is what is to be run.
type command struct {
	cacheDir string
	wasm     []byte
	args     []string // the first is the program's name
	mount    string   // directory that the guest sees as its root, to read; "" = none
	stdin    io.Reader
	stdout   io.Writer
	stderr   io.Writer
}

func main() {
	c := command{args: []string{"words"}, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	flag.StringVar(&c.cacheDir, "dir", "", "cache directory; the default is in your cache directory")
	flag.StringVar(&c.mount, "mount", "", "directory that the guest may read")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop) // the second one ends the process
	var err error
	if file := flag.Arg(0); file != "" {
		c.args = append([]string{filepath.Base(file)}, flag.Args()[1:]...)
		c.wasm, err = os.ReadFile(file)
	} else {
		c.wasm, err = guest.Build(ctx, words)
	}
	code := 1
	if err == nil {
		code, err = run(ctx, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "wasi:", err)
	}
	os.Exit(code)
}

// run returns the exit code of the guest.
func run(ctx context.Context, c command) (code int, err error) {
	cache, err := modcache.Open(c.cacheDir, nil)
	if err != nil {
		return 1, err
	}
	defer cache.Close(context.WithoutCancel(ctx))

	// A guest that loops must end when we are interrupted. The setting is part of the
	// key under which machine code is kept: it compiles to other code.
	r, err := cache.NewRuntime(ctx, wazero.NewRuntimeConfig().WithCloseOnContextDone(true))
	if err != nil {
		return 1, err
	}
	defer r.Close(context.WithoutCancel(ctx))
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
		return 1, err
	}
	compiled, err := r.CompileModule(ctx, c.wasm)
	if err != nil {
		return 1, err
	}

	config := wazero.NewModuleConfig().
		WithArgs(c.args...).
		WithStdin(c.stdin).WithStdout(c.stdout).WithStderr(c.stderr).
		WithSysWalltime().WithSysNanotime()
	if c.mount != "" {
		config = config.WithFSConfig(wazero.NewFSConfig().WithReadOnlyDirMount(c.mount, "/"))
	}
	_, err = r.InstantiateModule(ctx, compiled, config)
	var exit *sys.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		code = int(exit.ExitCode())
		if code != 0 && code&0xff == 0 { // of which systems keep 8 bits
			code = 1
		}
		return code, nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}
