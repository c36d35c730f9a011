package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
)

// side is what makes the runtimes of a library. Each has a directory of its own.
type side struct {
	name string
	// open opens the cache, and returns what makes runtimes with it.
	open func(dir string) (maker, error)
}

type maker struct {
	runtime func(ctx context.Context, config wazero.RuntimeConfig) (wazero.Runtime, error)
	cache   *modcache.Cache // if it is one of ours
}

const (
	uncached  = "no cache"
	directory = "directory"
)

var sides = []side{
	{uncached, func(string) (maker, error) {
		return withCache(nil), nil
	}},
	{directory, func(dir string) (maker, error) {
		cc, err := wazero.NewCompilationCacheWithDir(dir)
		return withCache(cc), err
	}},
	{"drop-in", func(dir string) (maker, error) {
		c, err := modcache.Open(dir, nil)
		if err != nil {
			return maker{}, err
		}
		m := withCache(c.CompilationCache())
		m.cache = c
		return m, nil
	}},
	{"Stub", func(dir string) (maker, error) {
		c, err := modcache.Open(dir, nil)
		return maker{func(ctx context.Context, config wazero.RuntimeConfig) (wazero.Runtime, error) {
			config = config.WithCompilationCache(c.CompilationCache())
			return stubbing{wazero.NewRuntimeWithConfig(ctx, config), c, config}, nil
		}, c}, err
	}},
	{"Runtime", runtimeSide(nil)},
	{"Runtime, off heap", runtimeSide(&modcache.Options{OffHeapMemory: true})},
}

func withCache(cc wazero.CompilationCache) maker {
	return maker{runtime: func(ctx context.Context, config wazero.RuntimeConfig) (wazero.Runtime, error) {
		return wazero.NewRuntimeWithConfig(ctx, config.WithCompilationCache(cc)), nil
	}}
}

func runtimeSide(o *modcache.Options) func(string) (maker, error) {
	return func(dir string) (maker, error) {
		c, err := modcache.Open(dir, o)
		if err != nil {
			return maker{}, err
		}
		return maker{func(ctx context.Context, config wazero.RuntimeConfig) (wazero.Runtime, error) {
			return c.NewRuntime(ctx, config)
		}, c}, nil
	}
}

// stubbing is a runtime that is given stubs, as by a program that has a module's bytes in its hands.
type stubbing struct {
	wazero.Runtime
	c      *modcache.Cache
	config wazero.RuntimeConfig
}

func (s stubbing) CompileModule(ctx context.Context, wasm []byte) (wazero.CompiledModule, error) {
	stub, err := s.c.Stub(ctx, s.config, modcache.NewModule(wasm))
	if err != nil {
		return nil, err
	}
	return s.Runtime.CompileModule(ctx, stub)
}

// clock is what a start has spent where. Runtimes may be used by several goroutines.
type clock struct {
	dir  string
	side side
	open func() (maker, error)

	mu                         sync.Mutex
	opened, compiled, instance time.Duration
}

func newClock(s side, dir string) *clock {
	c := &clock{side: s, dir: dir}
	c.open = sync.OnceValues(func() (maker, error) {
		defer c.spend(&c.opened)()
		return s.open(filepath.Join(dir, s.name))
	})
	return c
}

func (c *clock) spend(on *time.Duration) (stop func()) {
	begin := time.Now()
	return func() {
		took := time.Since(begin)
		c.mu.Lock()
		*on += took
		c.mu.Unlock()
	}
}

// make stands in for wazero.NewRuntimeWithConfig, and so can only panic.
func (c *clock) make(ctx context.Context, config wazero.RuntimeConfig) wazero.Runtime {
	m, err := c.open() // the first time; later it is free
	if err != nil {
		panic(fmt.Errorf("open the cache: %w", err))
	}
	defer c.spend(&c.opened)()
	r, err := m.runtime(ctx, config)
	if err != nil {
		panic(fmt.Errorf("make a runtime: %w", err))
	}
	return timed{r, c}
}

// timed is a runtime whose work shows on the clock.
type timed struct {
	wazero.Runtime
	c *clock
}

func (t timed) CompileModule(ctx context.Context, wasm []byte) (wazero.CompiledModule, error) {
	defer t.c.spend(&t.c.compiled)()
	return t.Runtime.CompileModule(ctx, wasm)
}

func (t timed) InstantiateModule(ctx context.Context, m wazero.CompiledModule, config wazero.ModuleConfig) (api.Module, error) {
	defer t.c.spend(&t.c.instance)()
	return t.Runtime.InstantiateModule(ctx, m, config)
}

func (t timed) Instantiate(ctx context.Context, wasm []byte) (api.Module, error) {
	return t.InstantiateWithConfig(ctx, wasm, wazero.NewModuleConfig())
}

// InstantiateWithConfig doesn't release the compiled module with the instance. No start lives that long.
func (t timed) InstantiateWithConfig(ctx context.Context, wasm []byte, config wazero.ModuleConfig) (api.Module, error) {
	m, err := t.CompileModule(ctx, wasm)
	if err != nil {
		return nil, err
	}
	return t.InstantiateModule(ctx, m, config)
}
