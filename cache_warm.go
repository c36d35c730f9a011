package modcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero"
	"golang.org/x/sync/errgroup"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/contain"
)

// WarmResult is what became of one module that was to be in the store.
type WarmResult struct {
	Module   *Module
	Key      Key           // under which its code is looked up; zero where nothing can be cached
	Compiled bool          // it was compiled for this; else it was there, or somebody else did it
	Size     int64         // bytes of the artifact in the store; 0 if it isn't there
	Duration time.Duration // what this module took
	Err      error         // why its code isn't in the store; nil with Options.ReadOnly
}

// Warm makes sure that the machine code of the modules is in the store, for
// runtimes of the given configuration, compiling what isn't there: for build
// steps and program starts. As many modules as Options.MaxCompiles allows are
// compiled at once. The code stays loaded within Options.Retain.
//
// It returns the errors of all modules that don't compile, joined, and says so where a
// module could not be stored. In a [Layered], one layer that has it is enough, and the others don't get it. If memory stands in for a directory, it is stored there: a build step
// sets Options.MustStore. What a store evicts of that again, because it has no room for all, isn't told: a build step gives it
// no bound, and looks at Metrics().Store.Evictions. With Options.RequireHit it only checks; with Options.ReadOnly, it compiles
// and doesn't store. [Cache.WarmEach] tells of each module as it comes.
func (c *Cache) Warm(ctx context.Context, config wazero.RuntimeConfig, modules ...*Module) error {
	r, err := c.warmRuntime(ctx, config)
	if err != nil {
		return err
	}
	defer r.Close(ctx)
	var errs []error
	for result := range r.warmEach(ctx, modules) {
		errs = append(errs, result.Err)
	}
	return errors.Join(errs...)
}

// WarmEach is [Cache.Warm] with a result for each module, in the order in which they are
// finished. If the loop over them ends early, what is under way is cancelled, and waited for.
func (c *Cache) WarmEach(ctx context.Context, config wazero.RuntimeConfig, modules ...*Module) iter.Seq[WarmResult] {
	return func(yield func(WarmResult) bool) {
		r, err := c.warmRuntime(ctx, config)
		if err != nil {
			for _, m := range modules {
				if !yield(WarmResult{Module: m, Err: err}) {
					return
				}
			}
			return
		}
		defer r.Close(ctx)
		r.warmEach(ctx, modules)(yield)
	}
}

// warmRuntime returns a runtime whose modules can be cached.
func (c *Cache) warmRuntime(ctx context.Context, config wazero.RuntimeConfig) (*Runtime, error) {
	r, err := c.NewRuntime(ctx, config)
	if err != nil {
		return nil, err
	}
	if r.e == nil {
		_ = r.Close(ctx)
		return nil, &Error{Op: "warm", Err: fmt.Errorf("nothing can be cached for this configuration: %w", ErrUnsupportedWazero)}
	}
	return r, nil
}

func (r *Runtime) warmEach(ctx context.Context, modules []*Module) iter.Seq[WarmResult] {
	return func(yield func(WarmResult) bool) {
		var ended atomic.Bool // the loop
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		results := make(chan WarmResult, len(modules))
		go func() {
			defer close(results)
			var g errgroup.Group
			g.SetLimit(r.c.opts.MaxCompiles)
			for _, m := range modules {
				g.Go(func() error {
					if !ended.Load() {
						results <- r.warmOne(ctx, m)
					}
					return nil
				})
			}
			_ = g.Wait()
		}()
		for result := range results {
			if !ended.Load() && !yield(result) {
				ended.Store(true)
				cancel()
			}
		}
	}
}

func (r *Runtime) warmOne(ctx context.Context, m *Module) WarmResult {
	start := time.Now()
	if m == nil {
		return WarmResult{Err: errNoModule}
	}
	src := r.e.source(m)
	src.wanted = true
	w := WarmResult{Module: m, Key: src.key}
	// On this goroutine, nobody could catch a panic of wazero's.
	err := contain.Call(func() (err error) {
		w.Size, err = r.warm(ctx, src)
		return err
	})
	if err != nil {
		w.Err = &Error{Op: "warm module " + cmp.Or(src.name(), m.sum.String()), Name: src.name(), Err: err}
	}
	w.Compiled, w.Duration = src.compiled.Load(), time.Since(start)
	return w
}

// warm returns the size of the artifact in the store, if it is to be there.
func (r *Runtime) warm(ctx context.Context, src *source) (size int64, err error) {
	compiled, err := r.acquire(ctx, src)
	if err != nil {
		return 0, err
	}
	defer compiled.Close(ctx)
	look := src.lookup()
	size = r.e.proven(ctx, src, look)
	if size > 0 || !r.c.writes() {
		return size, nil
	}
	if src.compiled.Load() {
		return r.kept(ctx, src)
	}
	// It was in memory, which tells nothing about the store.
	if r.c.opts.RequireHit {
		look.miss(src.key)
		return 0, src.failed(fmt.Errorf("module %v is %w", src.sum, look.missing(src.sum)))
	}
	_, keep, err := r.e.compile(ctx, src, look)
	if err != nil {
		return 0, err
	}
	keep()
	return r.kept(ctx, src)
}

// keptWait is for how long whoever wants code to be stored waits for a store that may hang: once, until that has answered.
const keptWait = time.Minute

// kept returns the size of the artifact that was compiled, once the store has taken it.
func (r *Runtime) kept(ctx context.Context, src *source) (size int64, err error) {
	if err := r.c.added(ctx, src.added); ctx.Err() != nil {
		return 0, src.failed(context.Cause(ctx))
	} else if err != nil {
		return 0, err
	}
	if size = r.e.proven(ctx, src, src.lookup()); size == 0 {
		return 0, errors.New("the store did not keep it; see its events for the reason")
	}
	return size, nil
}

// added waits until an Add has ended, if one was made; see [Cache.put].
func (c *Cache) added(ctx context.Context, ended <-chan struct{}) error {
	if ended == nil {
		return nil
	}
	select {
	case <-ended:
		return nil
	default:
	}
	if c.adds.Hangs() {
		return errors.New("the store has not taken its code, nor that of one before")
	}
	_, err := bounded.Do(ctx, c.adds, keptWait, func(context.Context) (struct{}, error) { <-ended; return struct{}{}, nil }, nil)
	if err != nil {
		return fmt.Errorf("the store has not taken its code for %v more than a compile waits: %w", keptWait, err)
	}
	return nil
}

// Stored reports whether the store has code that this runtime can use for the module,
// undamaged as far as can be told without loading it. Nothing is compiled, and no hit or miss of the
// Cache's is counted; the store counts its own. It is an error if the store could not
// tell, or if nothing can be cached for this runtime.
func (r *Runtime) Stored(ctx context.Context, m *Module) (bool, error) {
	if m == nil {
		return false, errNoModule
	}
	failed := func(err error) error { return &Error{Op: "look up", Key: r.Key(m), Name: m.Name(), Err: err} }
	switch {
	case r.e == nil:
		return false, failed(ErrUnsupportedWazero)
	case r.c.Closed():
		return false, failed(errCacheClosed)
	}
	src := r.e.source(m)
	look := src.lookup()
	switch found := r.e.stored(ctx, src, look) > 0; {
	case found:
		return true, nil
	case look.why != nil && !isDamage(look.why):
		return false, failed(look.why)
	}
	return false, nil
}
