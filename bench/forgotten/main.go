// Forgotten measures what runtimes that nobody closes cost a process: plain wazero's, and those of
// one Cache. Each runtime has WASI, a host module whose function leads to the runtime, and an
// instance of the module.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/modcache/modcache"
)

var (
	n      = flag.Int("n", 300, "how many runtimes")
	rounds = flag.Int("rounds", 5, "how many processes of each kind; medians are printed")
	child  = flag.String("child", "", "for the program itself: the kind of this process")
)

var kinds = []string{"plain", "modcache"}

func main() {
	log.SetFlags(0)
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: forgotten [flags] file.wasm")
	}
	if *child != "" {
		if err := run(*child, flag.Arg(0)); err != nil {
			log.Fatal(err)
		}
		return
	}
	type result struct {
		ms        float64
		rss, peak int
	}
	results := map[string][]result{}
	for range *rounds {
		for _, kind := range kinds { // they take turns
			out, err := exec.Command(os.Args[0], "-n", fmt.Sprint(*n), "-child", kind, flag.Arg(0)).Output()
			if err != nil {
				log.Fatal(kind, ": ", err)
			}
			var r result
			if _, err := fmt.Sscan(string(out), &r.ms, &r.rss, &r.peak); err != nil {
				log.Fatal(err)
			}
			results[kind] = append(results[kind], r)
		}
	}
	median := func(kind string, of func(result) float64) float64 {
		all := []float64{}
		for _, r := range results[kind] {
			all = append(all, of(r))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	fmt.Printf("%d runtimes, medians of %d processes\n", *n, *rounds)
	for _, kind := range kinds {
		fmt.Printf("%-9s %6.0f ms, resident %6.1f MB, at most %6.1f MB\n", kind,
			median(kind, func(r result) float64 { return r.ms }),
			median(kind, func(r result) float64 { return float64(r.rss) / 1024 }),
			median(kind, func(r result) float64 { return float64(r.peak) / 1024 }))
	}
}

func run(kind, file string) error {
	ctx := context.Background()
	wasm, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	open := func() (wazero.Runtime, error) { return wazero.NewRuntime(ctx), nil }
	if kind != "plain" {
		c, err := modcache.New(modcache.NewMemory(nil), nil)
		if err != nil {
			return err
		}
		open = func() (wazero.Runtime, error) { return c.NewRuntime(ctx, nil) }
	}
	start := time.Now()
	for range *n {
		r, err := open()
		if err != nil {
			return err
		}
		if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
			return err
		}
		host := r.NewHostModuleBuilder("host").NewFunctionBuilder().WithFunc(func() { _ = r.Module("host") }).Export("f")
		if _, err := host.Instantiate(ctx); err != nil {
			return err
		}
		if _, err := r.InstantiateWithConfig(ctx, wasm, wazero.NewModuleConfig().WithStartFunctions()); err != nil {
			return err
		}
	}
	took := time.Since(start)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	var rss, peak int
	for line := range strings.Lines(string(status)) {
		_, _ = fmt.Sscanf(line, "VmRSS: %d", &rss)
		_, _ = fmt.Sscanf(line, "VmHWM: %d", &peak)
	}
	fmt.Println(took.Seconds()*1e3, rss, peak)
	return nil
}
