package modcache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/wazerohook"
)

// inner is what a Runtime embeds: all methods of wazero's, and whatever it may add.
type inner = wazero.Runtime

// Runtime is a wazero.Runtime whose modules come from a [Cache]. Hand it to
// whatever takes a wazero.Runtime: WASI, host module builders, code that you
// already have. Its methods may be called from several goroutines at once.
//
// A module that this Runtime has seen is compiled, decoded and loaded once for as
// long as it is in use or retained (Options.Retain). Callers that want the same
// module at the same time share one compile, across goroutines, the runtimes of a Cache
// and, over a [Disk], processes. A compile belongs to nobody: when one caller's context ends the
// others still get it, and it is cancelled when all have left.
//
// Modules compiled under a context with a listener factory are neither cached
// nor shared.
type Runtime struct {
	inner
	c *Cache
	e *engine // nil if this is a plain wazero.Runtime

	// exit is held while an instance learns that it pins its module, and taken
	// before the runtime closes all instances.
	exit sync.RWMutex

	// Guarded by Cache.mu.
	closed  bool
	modules map[Key]*module
	flights map[Key]*flight[*module]
}

var _ wazero.Runtime = (*Runtime)(nil)

// NewRuntime returns a runtime with the given configuration; nil means
// wazero.NewRuntimeConfig. A compilation cache in it is not used. The runtime is the
// caller's to close, before or after the Cache.
//
// Where nothing can be cached (wazero's interpreter, a build of wazero that
// modcache doesn't know), this is a plain wazero runtime, which is reported once.
func (c *Cache) NewRuntime(ctx context.Context, config wazero.RuntimeConfig) (*Runtime, error) {
	if err := c.checkOpen(); err != nil {
		return nil, fmt.Errorf("modcache: new runtime: %w", err)
	}
	if config == nil {
		config = wazero.NewRuntimeConfig()
	}
	r := &Runtime{c: c, modules: make(map[Key]*module), flights: make(map[Key]*flight[*module])}
	switch e, err := c.pickEngine(config); {
	case err == nil:
		r.e = e
		config = e.config
	case errors.Is(err, errDropInOnly):
		c.degrade("runtime", err)
		config = config.WithCompilationCache(c.CompilationCache())
	default:
		c.degrade("runtime", err)
	}
	r.inner = wazero.NewRuntimeWithConfig(ctx, config)
	return r, nil
}

// errDropInOnly means that wazero's keys aren't understood well enough for more
// than the drop-in.
var errDropInOnly = errors.New("the keys of this wazero are unknown")

func (c *Cache) pickEngine(config wazero.RuntimeConfig) (*engine, error) {
	switch {
	case c.wazero == nil:
		return nil, ErrUnsupportedWazero
	case wazerohook.Interpreted(config):
		return nil, wazerohook.ErrInterpreter
	case !c.wazero.KeysKnown:
		return nil, errDropInOnly
	}
	e, err := c.engineFor(config)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDropInOnly, err)
	}
	return e, nil
}

// Key returns the key under which the module's machine code is stored for this
// runtime. It is zero for a plain wazero runtime.
func (r *Runtime) Key(m *Module) Key {
	if r.e == nil {
		return Key{}
	}
	return r.e.key(m.sum)
}

// CompileModule implements wazero.Runtime. The returned module is a handle of its own:
// closing it, even twice, releases nothing of anybody else's. The bytes may be reused
// afterwards.
func (r *Runtime) CompileModule(ctx context.Context, wasm []byte) (wazero.CompiledModule, error) {
	if r.e == nil {
		return r.inner.CompileModule(ctx, wasm)
	}
	return r.Compile(ctx, NewModule(wasm))
}

// Compile is CompileModule for a module whose fingerprint is known: compiling it
// again costs next to nothing.
func (r *Runtime) Compile(ctx context.Context, m *Module) (wazero.CompiledModule, error) {
	if r.e == nil {
		return r.inner.CompileModule(ctx, m.wasm)
	}
	if factory := r.c.wazero.Listeners(ctx); factory != nil {
		return r.compileListening(ctx, factory, m)
	}
	key := r.e.key(m.sum)
	for {
		compiled, err := r.acquire(ctx, key, m)
		if err == nil {
			return &handle{CompiledModule: compiled.cm, r: r, m: compiled}, nil
		}
		if !errors.Is(err, errAbandoned) {
			return nil, err
		}
	}
}

// Instantiate implements wazero.Runtime.
func (r *Runtime) Instantiate(ctx context.Context, wasm []byte) (api.Module, error) {
	return r.InstantiateWithConfig(ctx, wasm, wazero.NewModuleConfig())
}

// InstantiateWithConfig implements wazero.Runtime. The compiled module is
// released when the instance closes.
func (r *Runtime) InstantiateWithConfig(ctx context.Context, wasm []byte, config wazero.ModuleConfig) (api.Module, error) {
	if r.e == nil {
		return r.inner.InstantiateWithConfig(ctx, wasm, config)
	}
	compiled, err := r.CompileModule(ctx, wasm)
	if err != nil {
		return nil, err
	}
	defer compiled.Close(ctx) // the instance has a hold of its own
	return r.InstantiateModule(ctx, compiled, config)
}

// InstantiateModule implements wazero.Runtime. It takes modules compiled by this
// Runtime and those of its host module builders, and refuses those of another Runtime.
// An instance keeps its module loaded until it is closed.
func (r *Runtime) InstantiateModule(ctx context.Context, compiled wazero.CompiledModule, config wazero.ModuleConfig) (api.Module, error) {
	h, ok := compiled.(*handle)
	if !ok {
		return r.inner.InstantiateModule(ctx, compiled, config)
	}
	if h.r != r {
		return nil, errors.New("modcache: instantiate: the module was compiled by another Runtime; compile it with this one, which is cheap")
	}
	unpin, err := h.pin()
	if err != nil {
		return nil, fmt.Errorf("modcache: instantiate: %w", err)
	}
	pinned := false
	defer func() {
		if !pinned {
			unpin()
		}
	}()
	mod, err := r.inner.InstantiateModule(ctx, h.CompiledModule, config)
	if err != nil || mod == nil {
		return mod, err
	}
	r.exit.RLock()
	defer r.exit.RUnlock()
	// An instance that can't tell when it closes pins its module until the
	// runtime closes; one that closed already, pins nothing.
	pinned = wazerohook.OnClose(mod, unpin) || !mod.IsClosed()
	return mod, nil
}

// Close implements wazero.Runtime.
func (r *Runtime) Close(ctx context.Context) error { return r.CloseWithExitCode(ctx, 0) }

// CloseWithExitCode implements wazero.Runtime. Machine code that nobody else uses
// stays with the Cache, for the next runtime, within Options.Retain.
func (r *Runtime) CloseWithExitCode(ctx context.Context, code uint32) error {
	r.exit.Lock()
	r.exit.Unlock() //nolint:staticcheck // waits for instances that are being pinned
	err := r.inner.CloseWithExitCode(ctx, code)
	r.c.mu.Lock()
	r.closed = true
	var free []wazero.CompiledModule
	for key, m := range r.modules {
		m.gone = true
		delete(r.modules, key)
		delete(m.h.modules, r)
		if m.cm != m.h.anchor {
			free = append(free, m.cm)
		}
		free = append(free, m.h.release(m.handles)...)
	}
	r.c.mu.Unlock()
	closeAll(ctx, free)
	r.c.idle.collect()
	return err
}

func (r *Runtime) isClosed() bool {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	return r.closed
}

// errAbandoned means that the work a caller joined was already winding down.
var errAbandoned = errors.New("modcache: compile abandoned")

// acquire returns the compiled module of this runtime with a handle on it.
func (r *Runtime) acquire(ctx context.Context, key Key, m *Module) (*module, error) {
	c := r.c
	c.mu.Lock()
	if compiled := r.modules[key]; compiled != nil {
		compiled.handles++
		compiled.h.hold(1)
		c.mu.Unlock()
		return compiled, nil
	}
	if c.closed || r.closed {
		c.mu.Unlock()
		return nil, fmt.Errorf("modcache: compile module %v: %w", m.sum, ErrClosed)
	}
	f, _ := join(c, r.flights, key,
		func(ctx context.Context, slow func()) (*module, error) { return r.load(ctx, slow, key, m) },
		func(compiled *module, n int) []wazero.CompiledModule {
			compiled.handles += n
			compiled.h.hold(n)
			return compiled.h.release(1) // the load's own
		})
	c.mu.Unlock()
	if ctx.Err() != nil {
		// wazero serves what it has whatever the context says.
		f.quick()
	}
	compiled, err := f.wait(ctx)
	switch {
	case err == nil:
		return compiled, nil
	case f.abandoned() && ctx.Err() == nil:
		return nil, errAbandoned
	case c.checkOpen() != nil && errors.Is(err, context.Canceled) && ctx.Err() == nil:
		return nil, fmt.Errorf("modcache: compile module %v: %w", m.sum, ErrClosed)
	}
	return nil, err
}

// load makes the compiled module of this runtime. It returns with a hold on the
// machine code.
func (r *Runtime) load(ctx context.Context, slow func(), key Key, m *Module) (*module, error) {
	h, leader, err := r.loadHot(ctx, slow, key, m)
	if err != nil {
		return nil, err
	}
	cm := h.anchor
	if !leader {
		// The engine has the code in memory; this decodes the stub for this runtime.
		if cm, err = r.inner.CompileModule(context.Background(), h.image); err != nil {
			r.drop(h, nil)
			return nil, err
		}
	}
	r.c.mu.Lock()
	if r.closed {
		r.c.mu.Unlock()
		if leader {
			cm = nil // stays the anchor
		}
		r.drop(h, cm)
		return nil, fmt.Errorf("modcache: compile module %v: runtime: %w", m.sum, ErrClosed)
	}
	compiled := &module{h: h, r: r, cm: cm}
	r.modules[key] = compiled
	h.modules[r] = compiled
	r.c.mu.Unlock()
	r.c.idle.collect()
	return compiled, nil
}

// drop gives up a hold on h, and cm if that isn't needed either.
func (r *Runtime) drop(h *hot, cm wazero.CompiledModule) {
	r.c.mu.Lock()
	free := h.release(1)
	r.c.mu.Unlock()
	if cm != nil {
		free = append(free, cm)
	}
	closeAll(context.Background(), free)
}

// loadHot returns the machine code with a hold on it. leader says that its anchor
// was compiled by this runtime, in this call.
func (r *Runtime) loadHot(ctx context.Context, slow func(), key Key, m *Module) (h *hot, leader bool, err error) {
	c, e := r.c, r.e
	for {
		c.mu.Lock()
		if h := e.hot[key]; h != nil {
			h.hold(1)
			c.mu.Unlock()
			return h, false, nil
		}
		f, leader := join(c, e.flights, key,
			func(ctx context.Context, slow func()) (*hot, error) { return e.load(ctx, slow, r, key, m) },
			func(h *hot, n int) []wazero.CompiledModule {
				e.hot[key] = h
				h.hold(n + 1)
				return h.release(1)
			})
		c.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
		case <-f.slow:
			slow()
		}
		h, err := f.wait(ctx)
		switch {
		case err == nil:
			return h, leader, nil
		case errors.Is(err, errLeaderClosed) && !r.isClosed(),
			f.abandoned() && ctx.Err() == nil:
			continue
		case errors.Is(err, errLeaderClosed):
			err = fmt.Errorf("modcache: compile module %v: runtime: %w", m.sum, ErrClosed)
		}
		return nil, false, err
	}
}

// handle is one caller's hold on a compiled module.
type handle struct {
	wazero.CompiledModule
	r      *Runtime
	m      *module // nil if compiled with listeners
	closed atomic.Bool
}

// Close implements wazero.CompiledModule. It releases this handle, once.
func (h *handle) Close(ctx context.Context) error {
	if h.closed.Swap(true) {
		return nil
	}
	if h.m == nil {
		return h.CompiledModule.Close(ctx)
	}
	h.m.release(ctx)
	return nil
}

// pin takes another hold on the module, for an instance.
func (h *handle) pin() (unpin func(), err error) {
	if h.m == nil {
		return func() {}, nil
	}
	c := h.r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.closed.Load() {
		return nil, fmt.Errorf("compiled module: %w", ErrClosed)
	}
	if h.m.gone {
		return nil, fmt.Errorf("runtime: %w", ErrClosed)
	}
	h.m.handles++
	h.m.h.hold(1)
	var once sync.Once
	return func() { once.Do(func() { h.m.release(context.Background()) }) }, nil
}

// release gives up one handle on the module.
func (m *module) release(ctx context.Context) {
	c := m.r.c
	c.mu.Lock()
	var free []wazero.CompiledModule
	if !m.gone {
		m.handles--
		free = m.h.release(1)
	}
	c.mu.Unlock()
	closeAll(ctx, free)
	c.idle.collect()
}
