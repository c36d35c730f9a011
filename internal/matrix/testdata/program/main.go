// Command program uses modcache in all its ways, as somebody else's program would,
// and prints what it saw as JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log"
	"os"
	"runtime/debug"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
)

var (
	dir        = flag.String("dir", "", "cache directory")
	requireHit = flag.Bool("require-hit", false, "compile nothing")
	closing    = flag.Bool("close", false, "close instances with their contexts")
	exceptions = flag.Bool("exceptions", false, "let modules throw")
)

// report is what a run of the program saw.
type report struct {
	Wazero  string // version, as linked
	Engine  string // identity
	Attach  string // error, if it failed
	Unknown bool   // it was ErrUnsupportedWazero
	DropIn  way
	Runtime way
}

// way is what one way into the cache did with all modules.
type way struct {
	Results  []uint64 // of the modules that ran
	Errors   []string
	Missed   int // of the errors, those that are ErrMiss
	Metrics  modcache.CacheMetrics
	Degraded []string // events
}

func main() {
	flag.Parse()
	config := wazero.NewRuntimeConfig().WithCloseOnContextDone(*closing)
	if *exceptions {
		config = config.WithCoreFeatures(api.CoreFeaturesV2 | api.CoreFeatureSIMD<<4) // which old versions have no name for
	}
	var r report
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == "github.com/tetratelabs/wazero" {
				r.Wazero = dep.Version
			}
		}
	}
	r.DropIn = r.run(func(ctx context.Context, c *modcache.Cache) (wazero.Runtime, error) {
		r.Engine = c.EngineID()
		cc := wazero.NewCompilationCache()
		if err := c.Attach(cc); err != nil {
			r.Attach, r.Unknown = err.Error(), errors.Is(err, modcache.ErrUnsupportedWazero)
			cc = c.CompilationCache()
		}
		return wazero.NewRuntimeWithConfig(ctx, config.WithCompilationCache(cc)), nil
	})
	r.Runtime = r.run(func(ctx context.Context, c *modcache.Cache) (wazero.Runtime, error) {
		return c.NewRuntime(ctx, config)
	})
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		log.Fatal(err)
	}
}

// run compiles and calls all modules, twice, in one of the ways.
func (r *report) run(newRuntime func(context.Context, *modcache.Cache) (wazero.Runtime, error)) (w way) {
	ctx := context.Background()
	o := &modcache.Options{RequireHit: *requireHit, OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventDegraded {
			w.Degraded = append(w.Degraded, e.Err.Error())
		}
	}}
	c, err := modcache.Open(*dir, o)
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		rt, err := newRuntime(ctx, c)
		if err != nil {
			log.Fatal(err)
		}
		for _, name := range flag.Args() {
			switch result, err := call(ctx, rt, name); {
			case err != nil:
				w.Errors = append(w.Errors, err.Error())
				if errors.Is(err, modcache.ErrMiss) {
					w.Missed++
				}
			default:
				w.Results = append(w.Results, result)
			}
		}
		if err := rt.Close(ctx); err != nil {
			log.Fatal(err)
		}
	}
	w.Metrics = c.Metrics()
	if err := c.Close(ctx); err != nil {
		log.Fatal(err)
	}
	return w
}

func call(ctx context.Context, r wazero.Runtime, name string) (uint64, error) {
	wasm, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	compiled, err := r.CompileModule(ctx, wasm)
	if err != nil {
		return 0, err
	}
	defer compiled.Close(ctx)
	mod, err := r.InstantiateModule(ctx, compiled, wazero.NewModuleConfig().WithName(""))
	if err != nil {
		return 0, err
	}
	defer mod.Close(ctx)
	results, err := mod.ExportedFunction("f").Call(ctx)
	if err != nil {
		return 0, err
	}
	return results[0], nil
}
