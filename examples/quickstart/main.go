// Command quickstart compiles a WebAssembly module, then starts another process
// that gets the machine code from the cache and runs it.
//
//	go run ./examples/quickstart             # a Go program, built on the spot
//	go run ./examples/quickstart module.wasm # a module of yours; it is run if WASI is all it imports
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
	"github.com/modcache/modcache/examples/guest"
)

//go:embed guest/main.go
var hello []byte

var dir = flag.String("dir", "", "cache directory; the default is a temporary one")

// secondProcess, in the environment, says which process this is.
const secondProcess = "QUICKSTART_SECOND_PROCESS"

func main() {
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: quickstart [-dir directory] [module.wasm]\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 1 {
		fmt.Fprintf(os.Stderr, "quickstart: one module, please, and flags before it, not %q\n", flag.Args()[1:])
		os.Exit(2)
	}
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if os.Getenv(secondProcess) != "" {
		return process(ctx, *dir, flag.Arg(0), true)
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
		wasm, err := guest.Build(ctx, hello)
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, wasm, 0o600); err != nil {
			return err
		}
	}
	if err := process(ctx, *dir, file, false); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	second := exec.CommandContext(ctx, self, "-dir", *dir, file)
	second.Env = append(os.Environ(), secondProcess+"=1")
	second.Stdout, second.Stderr = os.Stdout, os.Stderr
	return second.Run()
}

// process compiles the module. The first one leaves its machine code in the cache, and the
// second, for which compiling is a load, runs it.
func process(ctx context.Context, dir, file string, second bool) error {
	cache, err := modcache.Open(dir, nil)
	if err != nil {
		return err
	}
	defer cache.Close(ctx)
	r, err := cache.NewRuntime(ctx, nil)
	if err != nil {
		return err
	}
	defer r.Close(ctx)
	wasi_snapshot_preview1.MustInstantiate(ctx, r)

	wasm, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	module := modcache.NewModule(wasm)
	start := time.Now()
	compiled, err := r.Compile(ctx, module)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	took := time.Since(start)
	if second {
		fmt.Printf("second process  %s in %v\n", outcome(cache), took.Round(100*time.Microsecond))
		if missing := missingImport(compiled); missing != "" {
			fmt.Printf("not run         it imports %s, which this example doesn't provide\n", missing)
			return nil
		}
		_, err := r.InstantiateModule(ctx, compiled, wazero.NewModuleConfig().WithStdout(os.Stdout).WithStderr(os.Stderr))
		var exit *sys.ExitError
		if errors.As(err, &exit) {
			fmt.Printf("exit code       %d\n", exit.ExitCode())
			return nil
		}
		return err
	}
	if r.Key(module) == (modcache.Key{}) {
		fmt.Printf("first process   compiled in %v; nothing can be cached with this wazero on this platform\n", took.Round(time.Millisecond))
		return nil
	}
	artifact, ok, err := cache.Store().Get(ctx, r.Key(module))
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("the machine code is not in %s", dir)
	}
	defer artifact.Close()
	fmt.Printf("artifact        %v, %.1f MB, in %s\n", r.Key(module), float64(artifact.Size())/1e6, dir)
	fmt.Printf("first process   %s in %v\n", outcome(cache), took.Round(time.Millisecond))
	return nil
}

// missingImport names something that the module imports and that isn't WASI's, or "".
func missingImport(m wazero.CompiledModule) string {
	for _, f := range m.ImportedFunctions() {
		if module, name, _ := f.Import(); module != wasi_snapshot_preview1.ModuleName {
			return fmt.Sprintf("the function %s.%s", module, name)
		}
	}
	for _, f := range m.ImportedMemories() {
		module, name, _ := f.Import()
		return fmt.Sprintf("the memory %s.%s", module, name)
	}
	return ""
}

func outcome(cache *modcache.Cache) string {
	if m := cache.Metrics(); m.Hits > 0 {
		return fmt.Sprintf("hit, loaded (the compile took %v)", m.Saved.Round(time.Millisecond))
	}
	return "miss, compiled"
}
