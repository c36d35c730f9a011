package modcache

import (
	"context"
	"sync/atomic"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache/internal/mapped"
	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wazerohook"
)

// guestMemory is the memory of one instance, outside of Go's heap, and the allocator that
// gives it to wazero. It stays mapped until the garbage collector has found the instance
// unreachable: a guest that is still running when its instance is closed, and a host that reads a closed
// instance, must not find somebody else's memory there.
type guestMemory struct {
	r      *Runtime
	mem    *mapped.Memory // nil if it is on the heap after all
	shared bool
	given  atomic.Bool
}

// mappingWeight is what a mapping that waits for the garbage collector counts for: the kernel
// allows 65,530 to a process, of which each memory takes up to three.
const mappingWeight = 16 << 10

// offHeap returns a context under which an instance has its memory outside of Go's heap. g is
// nil if it has none, or wazero's own or the caller's allocator is to provide it.
func (r *Runtime) offHeap(ctx context.Context, l wasmbin.Linkage) (_ context.Context, g *guestMemory) {
	if l.ImportsMemory {
		r.memoriesLinked.Store(true)
	}
	if !r.c.opts.OffHeapMemory || !l.Memory.Defined {
		return ctx, nil
	}
	caller, known := wazerohook.Allocator(ctx)
	_, nested := caller.(*guestMemory) // of the instance whose function instantiates this one
	if !known || caller != nil && !nested {
		return ctx, nil
	}
	g = &guestMemory{r: r, shared: l.Memory.Shared}
	if l.Mappable() {
		mem, err := mapped.New(l.Memory.Min, l.Memory.Max, nil)
		if g.mem = mem; err == nil {
			r.c.counters.offHeap.Add(1)
		} else {
			r.c.counters.offHeapFailed.Add(1)
			r.c.degrade("memory outside of Go's heap", err)
		}
	}
	if g.mem == nil && !nested {
		return ctx, nil
	}
	return experimental.WithMemoryAllocator(ctx, g), g
}

// linkage reads what a module imports and what memory it has. Where it can't tell,
// it expects the worst.
func linkage(image []byte) wasmbin.Linkage {
	l, err := wasmbin.ScanLinkage(image)
	if err != nil {
		return wasmbin.Linkage{ImportsMemory: true, ImportsTable: true}
	}
	return l
}

// Allocate implements experimental.MemoryAllocator. wazero calls it once for the instance;
// start functions may pass the context on to others.
func (g *guestMemory) Allocate(capacity, most uint64) experimental.LinearMemory {
	if g.mem != nil && !g.given.Swap(true) {
		return g
	}
	if g.shared {
		capacity = most // it must not move
	}
	return &heapMemory{make([]byte, 0, capacity)}
}

// Reallocate implements experimental.LinearMemory.
func (g *guestMemory) Reallocate(size uint64) []byte { return g.mem.Resize(size) }

// Free implements experimental.LinearMemory. Modules that import the memory go on with
// it; then it ends when they are collected as well.
func (g *guestMemory) Free() {
	if !g.r.memoriesLinked.Load() && g.mem.Discard() {
		g.r.c.loaded.Garbage.Add(mappingWeight)
	}
}

// belongsTo has the memory end with the instance, or now if there is none.
func (g *guestMemory) belongsTo(mod api.Module) {
	switch {
	case g == nil || g.mem == nil:
	case !g.given.Load():
		g.mem.Unmap()
	case mod == nil:
		g.Free()
	case !wazerohook.OnCollect(mod, (*mapped.Memory).Unmap, g.mem):
		g.mem.Leak()
	}
}

// heapMemory is what wazero would allocate itself.
type heapMemory struct{ b []byte }

// Reallocate implements experimental.LinearMemory.
func (m *heapMemory) Reallocate(size uint64) []byte {
	if grow := int(size) - len(m.b); grow > 0 {
		m.b = append(m.b, make([]byte, grow)...)
	}
	return m.b[:size]
}

// Free implements experimental.LinearMemory.
func (m *heapMemory) Free() {}
