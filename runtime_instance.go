package modcache

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/loaded"
	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wazerocache"
	"github.com/modcache/modcache/internal/wazerohook"
)

// compiledHandle is one caller's hold on a compiled module.
type compiledHandle struct {
	wazero.CompiledModule
	m      *loaded.Module
	alone  *wasmbin.Linkage // if nobody else can use the module
	unused runtime.Cleanup  // releases the hold if the program forgets the handle
	closed atomic.Bool
}

// newHandle returns the handle for a hold on the module that src is the source of.
func (r *Runtime) newHandle(m *loaded.Module, src *source) (wazero.CompiledModule, error) {
	cm, err := m.Compiled(decoder{r, src})
	if err != nil {
		return nil, r.closedError(src.key, err)
	}
	return handleOf(cm, m), nil
}

func handleOf(cm wazero.CompiledModule, m *loaded.Module) *compiledHandle {
	h := &compiledHandle{CompiledModule: cm, m: m}
	h.unused = loaded.EndWith(h, m)
	return h
}

// linkage returns what the module imports and what memory it has.
func (h *compiledHandle) linkage() wasmbin.Linkage {
	if h.alone != nil {
		return *h.alone
	}
	l, _ := h.m.Linkage()
	return l
}

// inner returns wazero's own module.
func (h *compiledHandle) inner() wazero.CompiledModule {
	cm, _ := h.m.Compiled(nil) // there is a handle, so that it was compiled
	return wazerocache.Inner(cm)
}

// markedHandle is a handle that is instantiated by a copy of wazero's module; see wazerohook.Mark.
type markedHandle struct {
	*compiledHandle
	marked wazero.CompiledModule
}

// Close implements wazero.CompiledModule. It releases this handle, once.
func (h *compiledHandle) Close(context.Context) error {
	if !h.closed.Swap(true) {
		h.unused.Stop()
		h.m.Release()
		h.m.Sweep()
	}
	return nil
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
// As wazero's does, it panics on a CompiledModule that is somebody else's implementation.
// An instance keeps its module loaded until it is closed, which the next uses of the Runtime
// notice, and [Cache.Metrics], and the garbage collector.
func (r *Runtime) InstantiateModule(ctx context.Context, compiled wazero.CompiledModule, config wazero.ModuleConfig) (api.Module, error) {
	h, ok := compiled.(*compiledHandle)
	marked, isMarked := compiled.(markedHandle)
	if isMarked {
		h, ok = marked.compiledHandle, true
	}
	switch {
	case ok && !h.m.Belongs(r.loaded):
		return nil, errors.New("modcache: instantiate: the module was compiled by another Runtime; compile it with this one, which is cheap")
	case r.e == nil:
		if from := wazerohook.ImportedFrom(compiled); len(from) > 0 {
			defer r.links.begin(ctx, from)()
		}
		return r.inner.InstantiateModule(ctx, compiled, config)
	case !ok:
		// The only others that this runtime's engine knows are those of host module builders.
		return r.inner.InstantiateModule(ctx, compiled, config)
	}
	if err := r.failIfClosed(); err != nil {
		return nil, err
	}
	if h.closed.Load() {
		return nil, errModuleClosed
	}
	err := h.m.Hold()
	runtime.KeepAlive(h)
	switch {
	case errors.Is(err, loaded.ErrClosed):
		return nil, r.failIfClosed()
	case err != nil: // the handle is being closed
		return nil, errModuleClosed
	}
	cm := marked.marked
	if !isMarked {
		cm = h.inner()
	}
	l := h.linkage()
	ctx, memory := r.offHeap(ctx, l)
	if memory.mapped() && !wazerohook.Unseen(cm, config) {
		cm = memory.endsWith(cm, isMarked)
	}
	return r.instantiate(ctx, cm, l, config, memory, h.m.Release)
}

var errModuleClosed = &Error{Op: "instantiate", Err: fmt.Errorf("the compiled module was %w", ErrClosed)}

// instantiate has wazero instantiate cm, and release called once: when the instance
// is found closed, or now if there is none. The memory ends with it. A host function that a start function calls may
// end the goroutine.
func (r *Runtime) instantiate(ctx context.Context, cm wazero.CompiledModule, l wasmbin.Linkage, config wazero.ModuleConfig, memory *guestMemory, release func()) (mod api.Module, err error) {
	returned, pinned := false, false
	defer func() {
		if !pinned {
			release()
		}
		memory.belongsTo(mod, returned)
	}()
	if l.Imports() {
		defer r.links.begin(ctx, l.From)()
	}
	mod, err = r.inner.InstantiateModule(ctx, cm, config)
	returned = true
	if err != nil || mod == nil || mod.IsClosed() {
		return mod, err
	}
	// Others may have the instance by its name already, so nothing is written into it.
	r.loaded.Pin(release, func(collected func()) func() bool { return wazerohook.Watch(mod, collected) })
	pinned = true
	return mod, nil
}
