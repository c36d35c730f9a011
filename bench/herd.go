package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/bench/internal/report"
)

var herd = part{
	name:  "herd",
	title: "64 goroutines, one new module",
	about: "64 goroutines (8 in a quick run) ask for the same module at once, in a new process with an empty cache; the time is\n" +
		"until the last has it. Each goroutine hashes the module, or all share a *Module. Each compile uses as many workers\n" +
		"as there are CPUs, on both sides, and modcache stores the result in a directory. \"compiles\" is counted by modcache;\n" +
		"for wazero it is the processor time in terms of that of one compile.",
	run: runHerd,
}

type herdKind struct {
	name   string
	role   report.Role
	alone  bool // one goroutine
	rounds int
	// compilers returns a function for each goroutine, and one that counts compiles, if
	// that is possible.
	compilers func(ctx context.Context, wasm []byte, dir string, n int) (compile []func() error, count func() uint64, err error)
}

var herdKinds = []herdKind{
	{"wazero, one compile", report.Yardstick, true, 7, wazeroHerd},
	{"modcache, one compile", report.Yardstick, true, 7, modcacheHerd(false, false)},
	{"modcache, one Runtime", report.Ours, false, 7, modcacheHerd(false, false)},
	{"modcache, one Runtime, *Module", report.Ours, false, 7, modcacheHerd(false, true)},
	{"modcache, a Runtime each", report.Ours, false, 7, modcacheHerd(true, false)},
	{"wazero, one CompilationCache", report.Peer, false, 3, wazeroHerd},
}

func wazeroHerd(ctx context.Context, wasm []byte, _ string, n int) (compile []func() error, _ func() uint64, _ error) {
	cc := wazero.NewCompilationCache()
	ctx = experimental.WithCompilationWorkers(ctx, runtime.NumCPU())
	for range n {
		r := wazero.NewRuntimeWithConfig(ctx, config().WithCompilationCache(cc))
		compile = append(compile, func() error { _, err := r.CompileModule(ctx, wasm); return err })
	}
	return compile, nil, nil
}

// modcacheHerd has a Runtime for each goroutine or one for all, which hash the module
// each or once.
func modcacheHerd(runtimes, hashOnce bool) func(context.Context, []byte, string, int) ([]func() error, func() uint64, error) {
	return func(ctx context.Context, wasm []byte, dir string, n int) (compile []func() error, count func() uint64, err error) {
		c, err := modcache.Open(modcacheDir(dir), &modcache.Options{Workers: runtime.NumCPU()})
		if err != nil {
			return nil, nil, err
		}
		module := sync.OnceValue(func() *modcache.Module { return modcache.NewModule(wasm) })
		var r *modcache.Runtime
		for range n {
			if r == nil || runtimes {
				if r, err = c.NewRuntime(ctx, config()); err != nil {
					return nil, nil, err
				}
			}
			mine := r
			compile = append(compile, func() (err error) {
				if hashOnce {
					_, err = mine.Compile(ctx, module())
				} else {
					_, err = mine.CompileModule(ctx, wasm)
				}
				return err
			})
		}
		return compile, func() uint64 { return c.Metrics().Compiles }, nil
	}
}

// stampede is what one process is asked to do.
type stampede struct {
	Kind       int
	Goroutines int
	File, Dir  string
}

type stampeded struct {
	Milliseconds, PeakMB float64
	Compiles             uint64 // 0 if not known
}

func herdOnce(ctx context.Context, s stampede) (result stampeded, err error) {
	wasm, err := os.ReadFile(s.File)
	if err != nil {
		return result, err
	}
	kind := herdKinds[s.Kind]
	compile, count, err := kind.compilers(ctx, wasm, s.Dir, s.Goroutines)
	if err != nil {
		return result, err
	}
	errs := make([]error, len(compile))
	gate := make(chan struct{})
	var wg sync.WaitGroup
	for i, f := range compile {
		wg.Go(func() { <-gate; errs[i] = f() })
	}
	begin := time.Now()
	close(gate)
	wg.Wait()
	result.Milliseconds = time.Since(begin).Seconds() * 1e3
	for _, err := range errs {
		if err != nil {
			return result, err
		}
	}
	if count != nil {
		result.Compiles = count()
	}
	result.PeakMB = peakMB()
	return result, nil
}

func runHerd(ctx context.Context, b *bench) ([]report.Case, error) {
	found, err := b.modules()
	if err != nil {
		return nil, err
	}
	m := found[min(1, len(found)-1)] // wazero compiles it 64 times: not one of the large ones
	c := report.Case{Name: m.String(), Unit: "ms", Reference: herdKinds[0].name, Chart: true, Headline: true}
	n := len(herdKinds)
	cpu, peak, compiles := make([][]float64, n), make([][]float64, n), make([]uint64, n)
	for _, k := range herdKinds {
		c.Rows = append(c.Rows, report.Row{Side: k.name, Role: k.role})
	}
	var failed error
	for round := range b.pick(2, 7) {
		for _, i := range turn(round, n) {
			kind := herdKinds[i]
			if round >= kind.rounds {
				continue
			}
			dir, err := b.dir()
			if err != nil {
				return nil, err
			}
			goroutines := b.pick(8, 64)
			if kind.alone {
				goroutines = 1
			}
			s, state, err := child[stampeded](ctx, "herd", stampede{i, goroutines, m.File, dir})
			os.RemoveAll(dir)
			if err != nil { // such as a crash, which shouldn't hide the others
				failed = errors.Join(failed, fmt.Errorf("%s: %w", kind.name, err))
				continue
			}
			c.Add(kind.name, kind.role, s.Milliseconds)
			cpu[i] = append(cpu[i], (state.UserTime() + state.SystemTime()).Seconds())
			peak[i] = append(peak[i], s.PeakMB)
			compiles[i] = max(compiles[i], s.Compiles)
		}
	}
	one := report.Quantile(cpu[0], 0.5)
	for i := range c.Rows {
		if len(c.Rows[i].Samples) == 0 {
			continue
		}
		seconds := report.Quantile(cpu[i], 0.5)
		times := float64(compiles[i])
		if times == 0 && one > 0 {
			times = math.Round(seconds / one)
		}
		c.Rows[i].Figures = []report.Figure{{Name: "compiles", Value: times}, {Name: "CPU, s", Value: seconds}}
		if mb := report.Quantile(peak[i], 0.5); mb > 0 {
			c.Rows[i].Figures = append(c.Rows[i].Figures, report.Figure{Name: "peak RSS, MB", Value: mb})
		}
	}
	return []report.Case{c}, failed
}
