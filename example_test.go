//go:build amd64 || arm64

// Where wazero has no compiler, there would be no hits to show.

package modcache_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
)

// exampleWasm is (module (func (export "f") (result i32) i32.const 42)).
var exampleWasm = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x05\x01\x60\x00\x01\x7f" + "\x03\x02\x01\x00" + "\x07\x05\x01\x01f\x00\x00" + "\x0a\x06\x01\x04\x00\x41\x2a\x0b")

// temporary returns the name of a directory, for examples to run in.
func temporary() (dir string, remove func()) {
	dir, err := os.MkdirTemp("", "modcache")
	if err != nil {
		log.Fatal(err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }
}

// The second process that runs this, and the second Cache here, need not compile.
func ExampleOpen() {
	ctx := context.Background()
	dir, remove := temporary() // "" is a directory in the user's cache
	defer remove()

	for range 2 {
		cache, err := modcache.Open(dir, nil)
		if err != nil {
			log.Fatal(err)
		}
		r, err := cache.NewRuntime(ctx, nil)
		if err != nil {
			log.Fatal(err)
		}
		mod, err := r.Instantiate(ctx, exampleWasm)
		if err != nil {
			log.Fatal(err)
		}
		res, err := mod.ExportedFunction("f").Call(ctx)
		fmt.Println(res, err, "hits:", cache.Metrics().Hits)
		_ = r.Close(ctx)
		_ = cache.Close(ctx)
	}
	// Output:
	// [42] <nil> hits: 0
	// [42] <nil> hits: 1
}

// A health page shows whether the cache does what it is for. Here, no directory can be had.
func ExampleCache_Status() {
	ctx := context.Background()
	dir, remove := temporary()
	defer remove()
	_ = os.WriteFile(dir+"/file", nil, 0o600) // stands in the way

	cache, err := modcache.Open(dir+"/file/cache", nil) // works all the same
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)
	status := cache.Status()
	fmt.Println("storing:", status.Storing, "in memory:", status.InMemory)
	fmt.Println("known why:", status.Why != "")
	// Output:
	// storing: false in memory: true
	// known why: true
}

// Nothing else in the program changes.
func ExampleCache_CompilationCache() {
	ctx := context.Background()
	dir, remove := temporary()
	defer remove()
	cache, err := modcache.Open(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)

	config := wazero.NewRuntimeConfig().WithCompilationCache(cache.CompilationCache())
	r := wazero.NewRuntimeWithConfig(ctx, config)
	defer r.Close(ctx)
	_, err = r.CompileModule(ctx, exampleWasm)
	fmt.Println(err, cache.Metrics().Store.Adds)
	// Output: <nil> 1
}

// A program that hands a wazero cache around keeps doing so.
func ExampleCache_Attach() {
	ctx := context.Background()
	dir, remove := temporary()
	defer remove()
	theirs := wazero.NewCompilationCache()

	cache, err := modcache.Open(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)
	fmt.Println(cache.Attach(theirs))

	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCompilationCache(theirs))
	defer r.Close(ctx)
	fmt.Println(cache.Attach(theirs)) // too late for this one, and attached already
	// Output:
	// <nil>
	// modcache: attach before the first runtime is created with the cache: the compilation cache already served a runtime
}

// Any Store will do: this one is a Disk that belongs to the program.
func ExampleNew() {
	ctx := context.Background()
	dir, remove := temporary()
	defer remove()
	store, err := modcache.OpenDisk(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	cache, err := modcache.New(store, &modcache.Options{Workers: 2})
	if err != nil {
		log.Fatal(err)
	}
	err = cache.Warm(ctx, nil, modcache.NewModule(exampleWasm))
	fmt.Println(err, store.Metrics().Entries)
	fmt.Println(cache.Close(ctx))
	// Output:
	// <nil> 1
	// <nil>
}

// An image that was warmed when it was built must never compile in production.
func ExampleOptions_requireHit() {
	ctx := context.Background()
	dir, remove := temporary()
	defer remove()
	cache, err := modcache.Open(dir, &modcache.Options{ReadOnly: true, RequireHit: true})
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)
	r, err := cache.NewRuntime(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close(ctx)
	_, err = r.CompileModule(ctx, exampleWasm)
	fmt.Println(errors.Is(err, modcache.ErrMiss))
	// Output: true
}

func ExampleSum() {
	fmt.Println(modcache.Sum([]byte("\x00asm\x01\x00\x00\x00")))
	// Output: 0d66d411a21e80d93afa1487b002a1867432c04ba1d08dc790d259639f6a69c4
}

func ExampleNewModule() {
	m := modcache.NewModule(exampleWasm)
	fmt.Println(len(m.Bytes()), m.Fingerprint() == modcache.Sum(exampleWasm))
	// Output: 34 true
}

func ExampleParseKey() {
	key, err := modcache.ParseKey("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F")
	fmt.Println(key, err)
	_, err = modcache.ParseKey("0001")
	fmt.Println(err)
	// Output:
	// 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f <nil>
	// modcache: key "0001" has 4 characters, want 64 hexadecimal digits
}

func ExampleParseFingerprint() {
	sum := modcache.Sum(exampleWasm)
	again, err := modcache.ParseFingerprint(sum.String())
	fmt.Println(again == sum, err)
	// Output: true <nil>
}

func ExampleNewArtifact() {
	a := modcache.NewArtifact([]byte("machine code"), modcache.Info{Engine: "wazero v1.12.0"})
	b, err := a.Bytes()
	fmt.Println(a.Size(), a.Info().Engine, string(b), err)
	// Output: 12 wazero v1.12.0 machine code <nil>
}

// A store that keeps artifacts in files hands them out without reading them.
func ExampleNewArtifactFrom() {
	dir, remove := temporary()
	defer remove()
	name := dir + "/artifact"
	if err := os.WriteFile(name, []byte("machine code"), 0o600); err != nil {
		log.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		log.Fatal(err)
	}
	a := modcache.NewArtifactFrom(f, 12, modcache.Info{})
	p := make([]byte, 4)
	_, err = a.ReadAt(p, 8)
	fmt.Println(string(p), err)
	fmt.Println(a.Close()) // closes the file
	// Output:
	// code <nil>
	// <nil>
}
