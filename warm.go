package modcache

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tetratelabs/wazero"
)

// Warm makes sure that the machine code of the modules is in the store, for
// runtimes of the given configuration, compiling what isn't there: for build
// steps and program starts. As many modules as Options.MaxCompiles allows are
// compiled at once; progress shows in Options.OnEvent. The code stays loaded within
// Options.Retain.
//
// It returns the errors of all modules that don't compile, joined, and says so where a
// module could not be stored. With Options.RequireHit it only checks; with Options.ReadOnly, it compiles
// and doesn't store.
func (c *Cache) Warm(ctx context.Context, config wazero.RuntimeConfig, modules ...*Module) error {
	r, err := c.NewRuntime(ctx, config)
	if err != nil {
		return err
	}
	defer r.Close(ctx)
	if r.e == nil {
		return fmt.Errorf("modcache: warm: nothing can be cached for this configuration: %w", ErrUnsupportedWazero)
	}
	errs := make([]error, len(modules))
	var wg sync.WaitGroup
	width := c.opts.MaxCompiles
	if width < 0 {
		width = len(modules)
	}
	limit := make(chan struct{}, width)
	for i, m := range modules {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			// On this goroutine, nobody could catch a panic of wazero's.
			errs[i] = guard("warm", func() error { return c.warm(ctx, r, m) })
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *Cache) warm(ctx context.Context, r *Runtime, m *Module) error {
	compiled, err := r.Compile(ctx, m)
	if err != nil {
		return fmt.Errorf("modcache: warm module %v: %w", m.sum, err)
	}
	defer compiled.Close(ctx)
	if c.opts.ReadOnly {
		return nil
	}
	// Code that the engine had in memory tells nothing about the store.
	key := r.e.key(m.sum)
	if r.e.stored(ctx, key) {
		return nil
	}
	src := &source{sum: m.sum, wasm: m.wasm}
	if _, err := r.e.compile(ctx, key, src, r.e.canonical(src)); err != nil {
		return fmt.Errorf("modcache: warm module %v: %w", m.sum, err)
	}
	if !r.e.stored(ctx, key) {
		return fmt.Errorf("modcache: warm module %v: the store did not keep it; see its events for the reason", m.sum)
	}
	return nil
}

func (e *engine) stored(ctx context.Context, key Key) bool {
	a, _ := e.fetch(ctx, key, new(whyMissed))
	if a == nil {
		return false
	}
	return a.Close() == nil
}
