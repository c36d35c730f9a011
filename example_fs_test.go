//go:build amd64 || arm64

// Where wazero has no compiler, there would be no hits to show.

package modcache_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/modcache/modcache"
)

// A program that was warmed when it was built, and never compiles.
func ExampleOpenFS() {
	ctx := context.Background()
	dir, remove := exampleDir()
	defer remove()
	module := modcache.NewModule(answer)
	warm, err := modcache.Open(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := warm.Warm(ctx, nil, module); err != nil {
		log.Fatal(err)
	}
	if err := warm.Close(ctx); err != nil {
		log.Fatal(err)
	}

	// From here on, it might be an embed.FS below fs.Sub.
	shipped, err := modcache.OpenFS(os.DirFS(dir), nil)
	if err != nil {
		log.Fatal(err)
	}
	cache, err := modcache.New(shipped, &modcache.Options{RequireHit: true, ReadOnly: true})
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)
	r, err := cache.NewRuntime(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close(ctx)
	if _, err := r.Compile(ctx, module); err != nil {
		log.Fatal(err)
	}
	fmt.Println(cache.Metrics().Compiles, "compiled")
	// Output: 0 compiled
}

// A bundle beside the program, and a directory for what isn't in it.
func ExampleOpenBundle() {
	f, err := os.Open("plugins.bundle") // or strings.NewReader of what go:embed has put into a string
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		log.Fatal(err)
	}
	shipped, err := modcache.OpenBundle(f, fi.Size(), nil)
	if err != nil {
		log.Fatal(err)
	}
	disk, err := modcache.OpenDisk("/var/cache/app", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer disk.Close()
	layers := modcache.NewLayered(nil,
		modcache.Layer{Store: shipped, Write: modcache.WriteNever},
		modcache.Layer{Store: disk})
	defer layers.Close()
	cache, err := modcache.New(layers, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(context.Background())
}
