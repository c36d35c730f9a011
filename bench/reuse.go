package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/bench/internal/report"
)

var repeat = part{
	name:  "repeat",
	title: "The same module again in one runtime",
	about: "Compiling a module that the runtime has, and closing what was returned. With bytes, they have to be hashed: BLAKE3\n" +
		"alone is shown for comparison. A *modcache.Module was hashed before.",
	run: runReuse("repeat", blake3OfBytes),
}

var request = part{
	name:  "request",
	title: "A runtime for each request",
	about: "A new runtime, the compile of a module that was compiled before in this process, and closing the runtime. wazero's\n" +
		"directory rows: in one the cache stays and drops the module with its last user, in the other each request opens the\n" +
		"directory.",
	run: runReuse("request", inMemoryCache),
}

const (
	blake3OfBytes = "BLAKE3 of the bytes"
	inMemoryCache = "wazero, in-memory cache"
)

type reuseSide struct {
	name string
	role report.Role
	// prepare does what isn't measured and returns what is.
	prepare func(ctx context.Context, wasm []byte, dir string) (use func() error, err error)
}

// closer is what compiling returns.
type closer interface{ Close(context.Context) error }

// closing returns a function that compiles and closes what it got.
func closing[C closer](ctx context.Context, compile func() (C, error)) func() error {
	return func() error {
		m, err := compile()
		if err != nil {
			return err
		}
		return m.Close(ctx)
	}
}

func openRuntime(ctx context.Context, dir string) (*modcache.Cache, *modcache.Runtime, error) {
	c, err := modcache.Open(dir, nil)
	if err != nil {
		return nil, nil, err
	}
	r, err := c.NewRuntime(ctx, config())
	return c, r, err
}

var reuseSides = map[string][]reuseSide{
	"repeat": {
		{"modcache, *Module", report.Ours, func(ctx context.Context, wasm []byte, dir string) (func() error, error) {
			_, r, err := openRuntime(ctx, filepath.Join(dir, "module"))
			m := modcache.NewModule(wasm)
			return closing(ctx, func() (wazero.CompiledModule, error) { return r.Compile(ctx, m) }), err
		}},
		{"modcache, bytes", report.Ours, func(ctx context.Context, wasm []byte, dir string) (func() error, error) {
			_, r, err := openRuntime(ctx, filepath.Join(dir, "bytes"))
			return closing(ctx, func() (wazero.CompiledModule, error) { return r.CompileModule(ctx, wasm) }), err
		}},
		{blake3OfBytes, report.Yardstick, func(_ context.Context, wasm []byte, _ string) (func() error, error) {
			return func() error { _ = modcache.Sum(wasm); return nil }, nil
		}},
		{inMemoryCache, report.Peer, func(ctx context.Context, wasm []byte, _ string) (func() error, error) {
			r := wazero.NewRuntimeWithConfig(ctx, config().WithCompilationCache(wazero.NewCompilationCache()))
			_, err := r.CompileModule(ctx, wasm) // stays open, and keeps the code in memory
			return closing(ctx, func() (wazero.CompiledModule, error) { return r.CompileModule(ctx, wasm) }), err
		}},
	},
	"request": {
		{"modcache, *Module", report.Ours, func(ctx context.Context, wasm []byte, dir string) (func() error, error) {
			c, err := modcache.Open(filepath.Join(dir, "module"), nil)
			m := modcache.NewModule(wasm)
			return closing(ctx, func() (*modcache.Runtime, error) {
				r, err := c.NewRuntime(ctx, config())
				if err == nil {
					_, err = r.Compile(ctx, m)
				}
				return r, err
			}), err
		}},
		{"modcache, bytes", report.Ours, func(ctx context.Context, wasm []byte, dir string) (func() error, error) {
			c, err := modcache.Open(filepath.Join(dir, "bytes"), nil)
			return closing(ctx, func() (*modcache.Runtime, error) {
				r, err := c.NewRuntime(ctx, config())
				if err == nil {
					_, err = r.CompileModule(ctx, wasm)
				}
				return r, err
			}), err
		}},
		{inMemoryCache, report.Peer, func(ctx context.Context, wasm []byte, _ string) (func() error, error) {
			return wazeroRequest(ctx, wasm, wazero.NewCompilationCache(), false), nil
		}},
		{"wazero, one directory cache", report.Peer, func(ctx context.Context, wasm []byte, dir string) (func() error, error) {
			cc, err := wazeroDir(dir)
			return wazeroRequest(ctx, wasm, cc, true), err
		}},
		{"wazero, a directory cache each", report.Peer, func(ctx context.Context, wasm []byte, dir string) (func() error, error) {
			return func() error {
				cc, err := wazeroDir(filepath.Join(dir, "each"))
				if err != nil {
					return err
				}
				return errors.Join(wazeroRequest(ctx, wasm, cc, true)(), cc.Close(ctx))
			}, nil
		}},
	},
}

// wazeroRequest returns a request to plain wazero. If it closes the compiled
// module, the code leaves memory with it.
func wazeroRequest(ctx context.Context, wasm []byte, cc wazero.CompilationCache, closes bool) func() error {
	return closing(ctx, func() (wazero.Runtime, error) {
		r := wazero.NewRuntimeWithConfig(ctx, config().WithCompilationCache(cc))
		m, err := r.CompileModule(ctx, wasm)
		if err == nil && closes {
			err = m.Close(ctx)
		}
		return r, err
	})
}

// reuse is what one process is asked to do.
type reuse struct {
	Sides     string
	File, Dir string
	Rounds    int
}

// reuseRounds returns microseconds by side and round. A round of a side is as
// many uses as take some 20 ms, and at least one.
func reuseRounds(ctx context.Context, a reuse) ([][]float64, error) {
	const batch = 20 * time.Millisecond
	wasm, err := os.ReadFile(a.File)
	if err != nil {
		return nil, err
	}
	sides := reuseSides[a.Sides]
	uses := make([]func() error, len(sides))
	samples := make([][]float64, len(sides))
	for i, s := range sides {
		if uses[i], err = s.prepare(ctx, wasm, a.Dir); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		if err := uses[i](); err != nil { // compiles
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for round := range a.Rounds {
		for _, i := range turn(round, len(sides)) {
			runtime.GC()
			n := 0
			begin := time.Now()
			for time.Since(begin) < batch {
				for range n + 1 { // twice as many before each look at the clock
					if err := uses[i](); err != nil {
						return nil, fmt.Errorf("%s: %w", sides[i].name, err)
					}
				}
				n += n + 1
			}
			samples[i] = append(samples[i], time.Since(begin).Seconds()*1e6/float64(n))
		}
	}
	return samples, nil
}

func runReuse(name, reference string) func(context.Context, *bench) ([]report.Case, error) {
	return func(ctx context.Context, b *bench) (cases []report.Case, err error) {
		found, err := b.modules()
		if err != nil {
			return nil, err
		}
		found = found[:min(len(found), 3)]
		for i, m := range found {
			dir, err := b.dir()
			if err != nil {
				return cases, err
			}
			samples, _, err := child[[][]float64](ctx, "reuse", reuse{name, m.File, dir, b.pick(2, 25)})
			if err != nil {
				return cases, fmt.Errorf("%v: %w", m, err)
			}
			c := report.Case{Name: m.String(), Unit: "µs", Reference: reference, Chart: true, Headline: i == len(found)-1}
			for i, s := range reuseSides[name] {
				c.Rows = append(c.Rows, report.Row{Side: s.name, Role: s.role, Samples: samples[i]})
			}
			cases = append(cases, c)
		}
		return cases, nil
	}
}
