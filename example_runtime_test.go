//go:build amd64 || arm64

// Where wazero has no compiler, there would be no hits to show.

package modcache_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// answer is a WebAssembly module whose export f returns 42.
var answer = wasmtest.Const(42)

func exampleDir() (dir string, remove func()) {
	base, err := os.MkdirTemp("", "modcache")
	if err != nil {
		log.Fatal(err)
	}
	return base + "/cache", func() { _ = os.RemoveAll(base) }
}

// A Runtime takes the place of a wazero.Runtime. The second start of the program
// loads what the first compiled.
func ExampleCache_NewRuntime() {
	ctx := context.Background()
	dir, remove := exampleDir()
	defer remove()

	for range 2 { // two starts of a program
		cache, err := modcache.Open(dir, nil)
		if err != nil {
			log.Fatal(err)
		}
		runtime, err := cache.NewRuntime(ctx, wazero.NewRuntimeConfig())
		if err != nil {
			log.Fatal(err)
		}
		instance, err := runtime.Instantiate(ctx, answer)
		if err != nil {
			log.Fatal(err)
		}
		results, err := instance.ExportedFunction("f").Call(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(results[0], "compiles:", cache.Metrics().Compiles)

		_ = runtime.Close(ctx)
		_ = cache.Close(ctx)
	}
	// Output:
	// 42 compiles: 1
	// 42 compiles: 0
}

// load stands for a library that makes a runtime for each plugin that it loads, with a function
// that its users may replace.
func load(ctx context.Context, plugin []byte, newRuntime func(context.Context) (wazero.Runtime, error)) (uint64, error) {
	runtime, err := newRuntime(ctx)
	if err != nil {
		return 0, err
	}
	defer runtime.Close(ctx)
	instance, err := runtime.Instantiate(ctx, plugin)
	if err != nil {
		return 0, err
	}
	results, err := instance.ExportedFunction("f").Call(ctx)
	return results[0], err
}

// A library that takes a constructor of runtimes gets one whose runtimes have WASI.
func ExampleCache_RuntimeFunc() {
	ctx := context.Background()
	cache, err := modcache.New(modcache.NewMemory(nil), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)

	newRuntime := cache.RuntimeFunc(wazero.NewRuntimeConfig(), wasi_snapshot_preview1.Instantiate)
	for range 2 {
		result, err := load(ctx, answer, newRuntime)
		fmt.Println(result, err, "compiles:", cache.Metrics().Compiles)
	}
	// Output:
	// 42 <nil> compiles: 1
	// 42 <nil> compiles: 1
}

// A program that runs one module for many tenants keeps it as a Module, which is
// hashed once, and gives each a handle, which each may close.
func ExampleRuntime_Compile() {
	ctx := context.Background()
	dir, remove := exampleDir()
	defer remove()
	cache, err := modcache.Open(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)

	module := modcache.NewModule(answer)
	for range 3 { // three tenants, each with a runtime of its own
		runtime, err := cache.NewRuntime(ctx, nil)
		if err != nil {
			log.Fatal(err)
		}
		compiled, err := runtime.Compile(ctx, module)
		if err != nil {
			log.Fatal(err)
		}
		instance, err := runtime.InstantiateModule(ctx, compiled, wazero.NewModuleConfig())
		if err != nil {
			log.Fatal(err)
		}
		_ = compiled.Close(ctx) // the instance keeps what it needs
		results, err := instance.ExportedFunction("f").Call(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(results[0])
		_ = runtime.Close(ctx)
	}
	m := cache.Metrics()
	fmt.Println("lookups:", m.Lookups, "compiles:", m.Compiles)
	// Output:
	// 42
	// 42
	// 42
	// lookups: 1 compiles: 1
}

// A name makes events, logs, errors and listings readable. It changes nothing else.
func ExampleModule_Named() {
	ctx := context.Background()
	cache, err := modcache.New(modcache.NewMemory(nil), &modcache.Options{OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventCompileStarted {
			fmt.Println("compiling", e.Name)
		}
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)
	if err := cache.Warm(ctx, nil, modcache.NewModule(answer).Named("answer.wasm")); err != nil {
		log.Fatal(err)
	}
	// Output: compiling answer.wasm
}

// A build step compiles what the image will run. The program in the image then
// refuses to compile anything.
func ExampleCache_Warm() {
	ctx := context.Background()
	dir, remove := exampleDir()
	defer remove()
	config := wazero.NewRuntimeConfig().WithCloseOnContextDone(true) // the same in both

	build, err := modcache.Open(dir, &modcache.Options{OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventCompileStarted {
			fmt.Println("compiling", e.Bytes, "bytes")
		}
	}})
	if err != nil {
		log.Fatal(err)
	}
	if err := build.Warm(ctx, config, modcache.NewModule(answer)); err != nil {
		log.Fatal(err)
	}
	if err := build.Flush(ctx); err != nil { // what is reported as stored is on the disk
		log.Fatal(err)
	}
	_ = build.Close(ctx)

	cache, err := modcache.Open(dir, &modcache.Options{RequireHit: true, ReadOnly: true})
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)
	runtime, err := cache.NewRuntime(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer runtime.Close(ctx)
	_, err = runtime.CompileModule(ctx, answer)
	fmt.Println(err)
	// Output:
	// compiling 34 bytes
	// <nil>
}

// A program answers in some other way until the machine code of a module is there.
func ExampleCache_Prepare() {
	ctx := context.Background()
	cache, err := modcache.New(modcache.NewMemory(nil), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)

	module := modcache.NewModule(answer)
	ready := cache.Prepare(ctx, nil, module)
	// Here the program would do what doesn't need the module, or interpret it.
	result := <-ready
	fmt.Println("compiled:", result.Compiled, "error:", result.Err)

	runtime, err := cache.NewRuntime(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer runtime.Close(ctx)
	_, err = runtime.Compile(ctx, module) // loads it
	fmt.Println("compiles:", cache.Metrics().Compiles, "error:", err)
	// Output:
	// compiled: true error: <nil>
	// compiles: 1 error: <nil>
}

// A build step says what it does, module by module, and which of the modules a program
// would find.
func ExampleCache_WarmEach() {
	ctx := context.Background()
	cache, err := modcache.New(modcache.NewMemory(nil), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)
	runtime, err := cache.NewRuntime(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer runtime.Close(ctx)

	module, broken := modcache.NewModule(answer), modcache.NewModule([]byte("not a module"))
	for range 2 {
		for w := range cache.WarmEach(ctx, nil, module) {
			fmt.Println("compiled:", w.Compiled, "error:", w.Err)
		}
	}
	for _, m := range []*modcache.Module{module, broken} {
		stored, err := runtime.Stored(ctx, m)
		fmt.Println("stored:", stored, err)
	}
	// Output:
	// compiled: true error: <nil>
	// compiled: false error: <nil>
	// stored: true <nil>
	// stored: false <nil>
}

// Two builds of one program, of which one has names, notes and the wide integers that
// linkers leave, run the same machine code.
func ExampleRuntime_sharing() {
	ctx := context.Background()
	dir, remove := exampleDir()
	defer remove()

	for _, build := range []string{debugBuild, releaseBuild} { // two programs
		cache, err := modcache.Open(dir, nil)
		if err != nil {
			log.Fatal(err)
		}
		runtime, err := cache.NewRuntime(ctx, nil)
		if err != nil {
			log.Fatal(err)
		}
		instance, err := runtime.Instantiate(ctx, []byte(build))
		if err != nil {
			log.Fatal(err)
		}
		results, err := instance.ExportedFunction("answer").Call(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(results[0], "compiles:", cache.Metrics().Compiles)
		_ = runtime.Close(ctx)
		_ = cache.Close(ctx)
	}
	// Output:
	// 42 compiles: 1
	// 42 compiles: 0
}
