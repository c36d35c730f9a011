// Command quickstart compiles a WebAssembly module, then starts another process
// that gets the machine code from the cache and runs it.
//
//	go run ./examples/quickstart             # a Go program, built on the spot
//	go run ./examples/quickstart module.wasm # a WASI command of yours
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"

	"github.com/modcache/modcache"
)

//go:embed guest/main.go
var guest []byte

var (
	dir  = flag.String("dir", "", "cache directory; the default is a temporary one")
	warm = flag.Bool("second-process", false, "only load and run the module: what the first process starts")
)

func main() {
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: quickstart [-dir directory] [module.wasm]\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if *warm {
		return secondProcess(ctx, *dir, flag.Arg(0))
	}
	tmp, err := os.MkdirTemp("", "quickstart")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if *dir == "" {
		*dir = filepath.Join(tmp, "cache")
	}
	file := flag.Arg(0)
	if file == "" {
		file = filepath.Join(tmp, "guest.wasm")
		if err := buildGuest(tmp, file); err != nil {
			return err
		}
	}
	if err := firstProcess(ctx, *dir, file); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	second := exec.CommandContext(ctx, self, "-second-process", "-dir", *dir, file)
	second.Stdout, second.Stderr = os.Stdout, os.Stderr
	return second.Run()
}

// firstProcess compiles the module and leaves its machine code in the cache.
func firstProcess(ctx context.Context, dir, file string) error {
	cache, err := modcache.Open(dir, nil)
	if err != nil {
		return err
	}
	defer cache.Close(ctx)

	took, key, err := compile(ctx, cache, file, nil)
	if err != nil {
		return err
	}
	artifact, ok, err := cache.Store().Get(ctx, key)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("the machine code is not in %s", dir)
	}
	defer artifact.Close()
	fmt.Printf("artifact        %v, %.1f MB, in %s\n", key, float64(artifact.Size())/1e6, dir)
	fmt.Printf("first process   %s in %v\n", outcome(cache), took.Round(time.Millisecond))
	return nil
}

// secondProcess compiles the module, which is a load now, and runs it.
func secondProcess(ctx context.Context, dir, file string) error {
	cache, err := modcache.Open(dir, nil)
	if err != nil {
		return err
	}
	defer cache.Close(ctx)

	took, _, err := compile(ctx, cache, file, func(r *modcache.Runtime, m wazero.CompiledModule) error {
		_, err := r.InstantiateModule(ctx, m, wazero.NewModuleConfig().WithStdout(os.Stdout).WithStderr(os.Stderr))
		var exit *sys.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 0 {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("second process  %s in %v\n", outcome(cache), took.Round(100*time.Microsecond))
	return nil
}

// compile times the compiling of the module in a new runtime, and calls use with it.
func compile(ctx context.Context, cache *modcache.Cache, file string, use func(*modcache.Runtime, wazero.CompiledModule) error) (time.Duration, modcache.Key, error) {
	wasm, err := os.ReadFile(file)
	if err != nil {
		return 0, modcache.Key{}, err
	}
	r, err := cache.NewRuntime(ctx, nil)
	if err != nil {
		return 0, modcache.Key{}, err
	}
	defer r.Close(ctx)
	wasi_snapshot_preview1.MustInstantiate(ctx, r)

	done := showProgress("compiling " + filepath.Base(file))
	start := time.Now()
	module := modcache.NewModule(wasm)
	compiled, err := r.Compile(ctx, module)
	took := time.Since(start)
	done()
	if err != nil {
		return 0, modcache.Key{}, fmt.Errorf("%s: %w", file, err)
	}
	if use != nil {
		err = use(r, compiled)
	}
	return took, r.Key(module), err
}

func outcome(cache *modcache.Cache) string {
	if m := cache.Metrics(); m.Hits > 0 {
		return fmt.Sprintf("hit, loaded (the compile took %v)", m.Saved.Round(time.Millisecond))
	}
	return "miss, compiled"
}

// showProgress counts the seconds on a terminal until done is called.
func showProgress(what string) (done func()) {
	if info, err := os.Stdout.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func() {}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for start := time.Now(); ; {
			select {
			case <-tick.C:
				fmt.Printf("\r%s … %.1f s", what, time.Since(start).Seconds())
			case <-stop:
				fmt.Print("\r\x1b[K")
				return
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

// buildGuest builds the program in guest for WASI, with the Go toolchain at hand.
func buildGuest(tmp, file string) error {
	src := filepath.Join(tmp, "guest")
	if err := os.Mkdir(src, 0o700); err != nil {
		return err
	}
	for name, content := range map[string][]byte{"main.go": guest, "go.mod": []byte("module guest\n\ngo 1.25\n")} {
		if err := os.WriteFile(filepath.Join(src, name), content, 0o600); err != nil {
			return err
		}
	}
	build := exec.Command("go", "build", "-trimpath", "-o", file, ".")
	build.Dir = src
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOWORK=off", "GOFLAGS=")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the guest (or name a .wasm file instead): %w", err)
	}
	return nil
}
