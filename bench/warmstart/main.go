// Command warmstart measures what it takes to have a real module ready in a new
// process: plain wazero without a cache, wazero's in-memory and directory caches,
// and modcache's two ways in. Each start is a process of its own; the ways take turns, so that
// a noisy machine is noisy for all of them.
//
//	go run ./warmstart            # from the bench directory
//	go run ./warmstart -n 20 a.wasm b.wasm
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache"
)

// ways are the ways to a compiled module, in the order of the table. The first
// is only run a few times, because it takes so long.
var ways = []struct {
	name string
	make func(ctx context.Context, s start) (compile func() error, err error)
}{
	{"no cache", noCache},
	{"wazero in memory", inMemory},
	{"wazero directory", directory},
	{"modcache drop-in", dropIn},
	{"modcache Runtime", withRuntime},
}

const reference = "wazero directory"

// start is what one process is asked to do.
type start struct {
	wasm []byte
	dir  string
}

// result is what it took.
type result struct {
	Seconds float64 // from the first line of the cache's set-up to a compiled module
	PeakMB  float64 // resident set, at most; 0 where the system doesn't tell
}

func config() wazero.RuntimeConfig {
	return wazero.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV2 | experimental.CoreFeaturesThreads)
}

func compileIn(ctx context.Context, cc wazero.CompilationCache, wasm []byte) error {
	c := config()
	if cc != nil {
		c = c.WithCompilationCache(cc)
	}
	_, err := wazero.NewRuntimeWithConfig(ctx, c).CompileModule(ctx, wasm)
	return err
}

func noCache(ctx context.Context, s start) (func() error, error) {
	return func() error { return compileIn(ctx, nil, s.wasm) }, nil
}

// inMemory times the second compile in a process that has done one.
func inMemory(ctx context.Context, s start) (func() error, error) {
	cc, err := wazero.NewCompilationCacheWithDir(filepath.Join(s.dir, "wazero"))
	if err != nil {
		return nil, err
	}
	if err := compileIn(ctx, cc, s.wasm); err != nil {
		return nil, err
	}
	runtime.GC()
	return func() error { return compileIn(ctx, cc, s.wasm) }, nil
}

func directory(ctx context.Context, s start) (func() error, error) {
	return func() error {
		cc, err := wazero.NewCompilationCacheWithDir(filepath.Join(s.dir, "wazero"))
		if err != nil {
			return err
		}
		return compileIn(ctx, cc, s.wasm)
	}, nil
}

func dropIn(ctx context.Context, s start) (func() error, error) {
	return func() error {
		c, err := modcache.Open(filepath.Join(s.dir, "modcache"), nil)
		if err != nil {
			return err
		}
		return compileIn(ctx, c.CompilationCache(), s.wasm)
	}, nil
}

func withRuntime(ctx context.Context, s start) (func() error, error) {
	return func() error {
		c, err := modcache.Open(filepath.Join(s.dir, "modcache"), nil)
		if err != nil {
			return err
		}
		r, err := c.NewRuntime(ctx, config())
		if err != nil {
			return err
		}
		_, err = r.CompileModule(ctx, s.wasm)
		return err
	}, nil
}

var (
	rounds = flag.Int("n", 11, "starts of each way")
	asJSON = flag.String("json", "", "write the figures to this file as well")
	way    = flag.Int("way", -1, "be one start: what the command runs itself with")
	dir    = flag.String("dir", "", "cache directory of that start")
)

func main() {
	flag.Parse()
	var err error
	if *way >= 0 {
		err = one(*way, *dir, flag.Arg(0))
	} else {
		err = all(flag.Args())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "warmstart:", err)
		os.Exit(1)
	}
}

// one is the life of a process that starts once.
func one(way int, dir, file string) error {
	wasm, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	compile, err := ways[way].make(context.Background(), start{wasm, dir})
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := compile(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result{time.Since(begin).Seconds(), peakMB()})
}

// peakMB reads the high-water mark of the resident set, where Linux tells it.
func peakMB() float64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kb, _ := strconv.ParseFloat(strings.TrimSpace(strings.SplitN(rest, "kB", 2)[0]), 64)
	return kb / 1024
}

// row is one line of the table.
type row struct {
	Module   string
	WasmMB   float64
	Way      string
	Median   float64 // milliseconds
	Min, Max float64
	PeakMB   float64 // median
	Ratio    float64 // of medians, to wazero's directory cache
}

func all(files []string) error {
	tmp, err := os.MkdirTemp("", "warmstart")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if len(files) == 0 {
		if files, err = realModules(tmp); err != nil {
			return err
		}
	}
	fmt.Printf("%s, %s/%s, %d CPUs, wazero %s; medians of %d starts, each a process of its own\n\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), wazeroVersion(), *rounds)
	fmt.Println("| module | way | ms | min … max | vs directory | peak MB |")
	fmt.Println("|---|---|---:|---:|---:|---:|")
	var rows []row
	for _, file := range files {
		measured, err := measure(file, filepath.Join(tmp, filepath.Base(file)+".cache"))
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, r := range measured {
			fmt.Printf("| %s (%.1f MB) | %s | %.1f | %.1f … %.1f | %.2f | %.0f |\n",
				r.Module, r.WasmMB, r.Way, r.Median, r.Min, r.Max, r.Ratio, r.PeakMB)
		}
		rows = append(rows, measured...)
	}
	if *asJSON == "" {
		return nil
	}
	b, err := json.MarshalIndent(rows, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(*asJSON, b, 0o644)
}

func measure(file, dir string) ([]row, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	const first = 1 // the first start of a way fills its cache
	results := make([][]result, len(ways))
	for round := range *rounds + first {
		for i := range ways {
			const coldRounds = 2
			if i == 0 && round >= first+coldRounds {
				continue
			}
			r, err := startProcess(i, dir, file)
			if err != nil {
				return nil, err
			}
			if round >= first {
				results[i] = append(results[i], r)
			}
		}
	}
	rows := make([]row, len(ways))
	base := 0.0
	for i, rs := range results {
		var ms, mb []float64
		for _, r := range rs {
			ms, mb = append(ms, r.Seconds*1e3), append(mb, r.PeakMB)
		}
		rows[i] = row{
			Module: strings.TrimSuffix(filepath.Base(file), ".wasm"), WasmMB: float64(info.Size()) / 1e6, Way: ways[i].name,
			Median: median(ms), Min: slices.Min(ms), Max: slices.Max(ms), PeakMB: median(mb),
		}
		if ways[i].name == reference {
			base = rows[i].Median
		}
	}
	for i := range rows {
		rows[i].Ratio = rows[i].Median / base
	}
	return rows, nil
}

func startProcess(way int, dir, file string) (r result, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	cmd := exec.Command(self, "-way", strconv.Itoa(way), "-dir", dir, file)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(out, &r)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// realModules finds modules that other people ship inside Go modules, pinned by
// go.sum, and builds two programs with the Go toolchain at hand.
func realModules(tmp string) ([]string, error) {
	var files []string
	for _, m := range []struct{ module, path string }{
		{"github.com/ncruces/go-sqlite3", "embed/sqlite3.wasm"},
		{"github.com/wasilibs/go-re2", "internal/wasm/libcre2.wasm"},
		{"github.com/1password/onepassword-sdk-go", "internal/wasm/core.wasm"},
	} {
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", m.module).Output()
		if err != nil {
			return nil, fmt.Errorf("find %s (run this in the bench directory): %w", m.module, err)
		}
		files = append(files, filepath.Join(strings.TrimSpace(string(out)), m.path))
	}
	for _, pkg := range []string{"cmd/gofmt", "cmd/compile"} {
		file := filepath.Join(tmp, filepath.Base(pkg)+".wasm")
		build := exec.Command("go", "build", "-trimpath", "-o", file, pkg)
		build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s for WASI: %w\n%s", pkg, err, out)
		}
		files = append(files, file)
	}
	for _, f := range files {
		if _, err := os.Stat(f); errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return files, nil
}

func wazeroVersion() string {
	info, _ := debug.ReadBuildInfo()
	if info != nil {
		for _, dep := range info.Deps {
			if dep.Path == "github.com/tetratelabs/wazero" {
				return dep.Version
			}
		}
	}
	return "unknown"
}
