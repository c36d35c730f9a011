// Command deploy stands for the programs of docs/deploy.md. It loads the modules that it is
// given, and says whether they had to be compiled.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"

	"github.com/modcache/modcache"
)

func main() {
	log.SetFlags(0)
	group := flag.Bool("group", false, "set DiskOptions.Group")
	flag.Parse()
	ctx := context.Background()
	cache, err := modcache.Open("", &modcache.Options{Disk: modcache.DiskOptions{Group: *group}})
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close(ctx)
	r, err := cache.NewRuntime(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close(ctx)
	for _, name := range flag.Args() {
		wasm, err := os.ReadFile(name)
		if err != nil {
			log.Fatal(err)
		}
		if _, err := r.CompileModule(ctx, wasm); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Printf("app: %d compiled, %v\n", cache.Metrics().Compiles, cache.Status())
}
