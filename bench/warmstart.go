package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/bench/internal/report"
	"github.com/modcache/modcache/bench/modules"
)

var warmStart = part{
	name:  "warmstart",
	title: "Warm start",
	about: "From nothing to a compiled module in a new process: opening the cache, fingerprinting and verification are\n" +
		"included, reading the module's file is not. Files are in the page cache. \"wazero in memory\" is the second compile\n" +
		"in one process, which no new process can have. A first start finds an empty cache and fills it.",
	run: runWarmStart,
}

// way is a way to a compiled module.
type way struct {
	name string
	role report.Role
	// prepare does what isn't measured and returns what is.
	prepare func(ctx context.Context, wasm []byte, dir string) (compile func() error, err error)
}

const (
	noCache  = iota // its place in ways
	inMemory        // likewise
)

const directory = "wazero, directory"

var ways = []way{
	noCache: {"no cache", report.Peer, func(ctx context.Context, wasm []byte, _ string) (func() error, error) {
		return func() error { return compileIn(ctx, nil, wasm) }, nil
	}},
	inMemory: {"wazero, in memory", report.Peer, func(ctx context.Context, wasm []byte, dir string) (func() error, error) {
		cc, err := wazeroDir(dir)
		if err != nil {
			return nil, err
		}
		if err := compileIn(ctx, cc, wasm); err != nil {
			return nil, err
		}
		runtime.GC()
		return func() error { return compileIn(ctx, cc, wasm) }, nil
	}},
	{directory, report.Peer, func(ctx context.Context, wasm []byte, dir string) (func() error, error) {
		return func() error {
			cc, err := wazeroDir(dir)
			if err != nil {
				return err
			}
			return compileIn(ctx, cc, wasm)
		}, nil
	}},
	{"wazy, directory", report.Peer, func(ctx context.Context, wasm []byte, dir string) (func() error, error) {
		return func() error { return compileInWazy(ctx, dir, wasm) }, nil
	}},
	{"modcache, drop-in", report.Ours, func(ctx context.Context, wasm []byte, dir string) (func() error, error) {
		return func() error {
			c, err := modcache.Open(modcacheDir(dir)+"-drop-in", nil)
			if err != nil {
				return err
			}
			return compileIn(ctx, c.CompilationCache(), wasm)
		}, nil
	}},
	{"modcache, Runtime", report.Ours, func(ctx context.Context, wasm []byte, dir string) (func() error, error) {
		return func() error {
			c, err := modcache.Open(modcacheDir(dir), nil)
			if err != nil {
				return err
			}
			r, err := c.NewRuntime(ctx, config())
			if err != nil {
				return err
			}
			_, err = r.CompileModule(ctx, wasm)
			return err
		}, nil
	}},
}

func compileIn(ctx context.Context, cc wazero.CompilationCache, wasm []byte) error {
	c := config()
	if cc != nil {
		c = c.WithCompilationCache(cc)
	}
	_, err := wazero.NewRuntimeWithConfig(ctx, c).CompileModule(ctx, wasm)
	return err
}

// start is what one process is asked to do.
type start struct {
	Way       int
	File, Dir string
	Rounds    int // where one process does several
}

// started is what it took.
type started struct {
	Milliseconds float64
	PeakMB       float64 // resident set, at most; 0 where the system doesn't tell
}

func startOnce(ctx context.Context, s start) (started, error) {
	wasm, err := os.ReadFile(s.File)
	if err != nil {
		return started{}, err
	}
	compile, err := ways[s.Way].prepare(ctx, wasm, s.Dir)
	if err != nil {
		return started{}, err
	}
	begin := time.Now()
	if err := compile(); err != nil {
		return started{}, err
	}
	return started{time.Since(begin).Seconds() * 1e3, peakMB()}, nil
}

// peakMB reads the high-water mark of the resident set, where Linux tells it.
func peakMB() float64 {
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kb, _ := strconv.ParseFloat(strings.TrimSpace(strings.SplitN(rest, "kB", 2)[0]), 64)
	return kb / 1024
}

func runWarmStart(ctx context.Context, b *bench) ([]report.Case, error) {
	found, err := b.modules()
	if err != nil {
		return nil, err
	}
	var warm, first []report.Case
	for _, m := range found {
		w, f, err := b.starts(ctx, m)
		if err != nil {
			return append(warm, first...), fmt.Errorf("%v: %w", m, err)
		}
		warm, first = append(warm, w), append(first, f)
	}
	return append(warm, first...), nil
}

// large is the size from which a module is started less often, because it takes
// seconds each time.
const large = 20e6

// starts measures one module.
func (b *bench) starts(ctx context.Context, m modules.Module) (warm, first report.Case, err error) {
	warm = report.Case{Name: m.String(), Unit: "ms", Reference: directory, Chart: true, Headline: true}
	first = report.Case{Name: m.String() + ", first start", Unit: "ms", Reference: ways[noCache].name}
	peaks := make([][]float64, len(ways))
	for i, w := range ways { // rows in the order of ways, whoever is measured first
		warm.Rows = append(warm.Rows, report.Row{Side: w.name, Role: w.role, Aside: i == noCache})
		if i != inMemory {
			first.Rows = append(first.Rows, report.Row{Side: w.name, Role: w.role})
		}
	}
	var dir string // full of what the last of the first starts left there
	defer func() { os.RemoveAll(dir) }()
	cold, warmed := b.pick(1, 5), b.pick(2, 15)
	if m.Size > large {
		cold, warmed = 1, b.pick(2, 9)
	}
	for round := range cold {
		os.RemoveAll(dir)
		if dir, err = b.dir(); err != nil {
			return warm, first, err
		}
		for _, i := range turn(round, len(ways)) {
			if i == inMemory {
				continue
			}
			s, _, err := child[started](ctx, "start", start{Way: i, File: m.File, Dir: dir})
			if err != nil {
				return warm, first, fmt.Errorf("first start, %s: %w", ways[i].name, err)
			}
			first.Add(ways[i].name, ways[i].role, s.Milliseconds)
			if i == noCache {
				warm.Add(ways[i].name, ways[i].role, s.Milliseconds)
				peaks[i] = append(peaks[i], s.PeakMB)
			}
		}
	}
	for round := range warmed {
		for _, i := range turn(round, len(ways)) {
			if i == noCache {
				continue
			}
			s, _, err := child[started](ctx, "start", start{Way: i, File: m.File, Dir: dir})
			if err != nil {
				return warm, first, fmt.Errorf("%s: %w", ways[i].name, err)
			}
			warm.Add(ways[i].name, ways[i].role, s.Milliseconds)
			peaks[i] = append(peaks[i], s.PeakMB)
		}
	}
	for i := range warm.Rows {
		if peak := report.Quantile(peaks[i], 0.5); peak > 0 {
			warm.Rows[i].Figures = []report.Figure{{Name: "peak RSS, MB", Value: peak}}
		}
	}
	return warm, first, nil
}
