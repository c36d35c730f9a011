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

// handle is one caller's hold on a compiled module.
type handle struct {
	wazero.CompiledModule
	m      *module
	closed atomic.Bool
}

// Close implements wazero.CompiledModule. It releases this handle, once.
func (h *handle) Close(ctx context.Context) error {
	if !h.closed.Swap(true) {
		h.m.drop(ctx)
	}
	return nil
}

// pin takes another hold on the module, for an instance.
func (h *handle) pin() (unpin func(), err error) {
	c := h.m.r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.closed.Load() {
		return nil, fmt.Errorf("compiled module: %w", ErrClosed)
	}
	if h.m.gone || h.m.r.closed {
		return nil, fmt.Errorf("runtime: %w", ErrClosed)
	}
	h.m.hold(1)
	return func() { h.m.drop(context.Background()) }, nil
}

// drop gives up one handle on the module.
func (m *module) drop(ctx context.Context) {
	c := m.r.c
	c.mu.Lock()
	free := m.release(1)
	c.mu.Unlock()
	closeAll(ctx, free)
	c.idle.collect()
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
		return r.instantiateHost(ctx, compiled, config)
	}
	if h.m.r != r {
		return nil, errors.New("modcache: instantiate: the module was compiled by another Runtime; compile it with this one, which is cheap")
	}
	unpin, err := h.pin()
	if err != nil {
		return nil, fmt.Errorf("modcache: instantiate: %w", err)
	}
	return r.instantiate(ctx, h.m.cm, config, unpin)
}

// instantiateHost instantiates a module that isn't ours. The only ones that this
// runtime's engine knows are those of host module builders. wazero drops
// them with its runtime where that has an engine of its own; ours outlives it.
func (r *Runtime) instantiateHost(ctx context.Context, compiled wazero.CompiledModule, config wazero.ModuleConfig) (api.Module, error) {
	if r.e == nil {
		return r.inner.InstantiateModule(ctx, compiled, config)
	}
	c := r.c
	c.mu.Lock()
	r.hosts[compiled]++
	c.mu.Unlock()
	return r.instantiate(ctx, compiled, config, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if r.closed {
			return // Close does it
		}
		if r.hosts[compiled]--; r.hosts[compiled] == 0 {
			delete(r.hosts, compiled)
		}
	})
}

// instantiate has wazero instantiate cm, and unpin called once: when the instance
// closes, or now if there is none.
func (r *Runtime) instantiate(ctx context.Context, cm wazero.CompiledModule, config wazero.ModuleConfig, unpin func()) (api.Module, error) {
	unpin = sync.OnceFunc(unpin)
	pinned := false
	defer func() {
		if !pinned {
			unpin()
		}
	}()
	mod, err := r.inner.InstantiateModule(ctx, cm, config)
	if err != nil || mod == nil {
		return mod, err
	}
	r.c.mu.Lock()
	// Close comes after this, or closes mod and lets go of all pins. An instance
	// that can't tell when it closes pins its module until then.
	if !r.closed {
		wazerohook.OnClose(mod, unpin)
	}
	r.c.mu.Unlock()
	pinned = !mod.IsClosed()
	return mod, nil
}
