package modcache

import (
	"context"
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
)

// errAgain means that the work a caller joined came to an end that says nothing
// about the module, and that the caller should ask again.
var errAgain = errors.New("modcache: compile abandoned")

// acquire returns the compiled module of this runtime with a handle on it. It uses
// up the draft, if there is one.
func (r *Runtime) acquire(ctx context.Context, key Key, m *Module, d *draft) (*module, error) {
	c := r.c
	c.mu.Lock()
	if compiled := r.modules[key]; compiled != nil {
		compiled.hold(1)
		c.mu.Unlock()
		return compiled, nil
	}
	if c.closed || r.closed {
		c.mu.Unlock()
		return nil, fmt.Errorf("modcache: compile module %v: %w", m.sum, ErrClosed)
	}
	src := &source{sum: m.sum, wasm: m.wasm, draft: d}
	workers := experimental.GetCompilationWorkers(ctx)
	f, started := join(c, r.flights, key,
		func(ctx context.Context, slow func()) (*module, error) {
			return r.load(experimental.WithCompilationWorkers(ctx, workers), slow, key, src)
		},
		(*module).grant)
	c.mu.Unlock()
	if ctx.Err() != nil {
		// wazero serves what it has whatever the context says.
		f.quick()
	}
	compiled, err := f.wait(ctx)
	if err == nil {
		return compiled, nil
	}
	if started {
		src.own() // the flight may go on
	}
	switch {
	case ctx.Err() != nil:
		return nil, err
	case f.abandoned(), errors.Is(err, errModified) && !started:
		return nil, errAgain
	case c.checkOpen() != nil && errors.Is(err, context.Canceled):
		return nil, fmt.Errorf("modcache: compile module %v: %w", m.sum, ErrClosed)
	}
	return nil, err
}

// load makes the compiled module of this runtime. It returns with a hold on the
// machine code.
func (r *Runtime) load(ctx context.Context, slow func(), key Key, src *source) (compiled *module, err error) {
	c := r.c
	defer c.idle.collect()
	h, leader, err := r.loadHot(ctx, slow, key, src)
	if err != nil {
		return nil, err
	}
	var own wazero.CompiledModule
	defer func() {
		if compiled == nil {
			r.drop(h, own)
		}
	}()
	cm := h.anchor
	if !leader {
		// The engine has the code in memory; this decodes the stub for this runtime.
		if own, err = r.compileImage(h.image); err != nil {
			return nil, r.closedError(src.sum, err)
		}
		cm = own
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.closed {
		return nil, r.closedError(src.sum, errLeaderClosed)
	}
	compiled = &module{h: h, r: r, cm: cm}
	r.modules[key] = compiled
	h.modules[r] = compiled
	return compiled, nil
}

// grant gives n callers who waited for the load a handle each, and ends the load's
// own hold. If the runtime was closed a moment ago, the handles are of no use and hold nothing.
func (m *module) grant(n int) []wazero.CompiledModule {
	if !m.gone {
		m.hold(n)
	}
	return m.h.release(1)
}

// compileImage has wazero compile what the engine was told to expect, or has in
// memory.
func (r *Runtime) compileImage(image []byte) (wazero.CompiledModule, error) {
	return r.compileInner(context.Background(), image)
}

// compileInner has wazero compile. A runtime that is closed meanwhile may fail in any
// way, and panic; all of it is errLeaderClosed.
func (r *Runtime) compileInner(ctx context.Context, wasm []byte) (cm wazero.CompiledModule, err error) {
	defer func() {
		if cm == nil && r.isClosed() {
			_ = recover()
			err = errLeaderClosed
		}
	}()
	return r.inner.CompileModule(ctx, wasm)
}

// closedError says what errLeaderClosed means to a caller of r.
func (r *Runtime) closedError(sum Fingerprint, err error) error {
	if errors.Is(err, errLeaderClosed) {
		return fmt.Errorf("modcache: compile module %v: runtime: %w", sum, ErrClosed)
	}
	return err
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
func (r *Runtime) loadHot(ctx context.Context, slow func(), key Key, src *source) (h *hot, leader bool, err error) {
	c, e := r.c, r.e
	workers := experimental.GetCompilationWorkers(ctx)
	for {
		c.mu.Lock()
		if h := e.hot[key]; h != nil {
			h.hold(1)
			c.mu.Unlock()
			return h, false, nil
		}
		f, leader := join(c, e.flights, key,
			func(ctx context.Context, slow func()) (*hot, error) {
				return e.load(experimental.WithCompilationWorkers(ctx, workers), slow, r, key, src)
			},
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
		case ctx.Err() != nil:
			return nil, false, err
		case errors.Is(err, errLeaderClosed) && !r.isClosed(),
			errors.Is(err, errModified) && !leader,
			f.abandoned():
			continue
		}
		return nil, false, r.closedError(src.sum, err)
	}
}
