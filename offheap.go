package modcache

import (
	"context"
	"sync/atomic"

	"github.com/tetratelabs/wazero"
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
	mem    *mapped.Memory // nil if it is on the heap after all, or the caller's
	image  *mapped.Image  // what it begins with, if mem is nil; nil for zeros
	caller experimental.MemoryAllocator
	shared bool
	given  atomic.Bool
	since  int64  // in Runtime.links, when it was made
	name   string // of the instance, once it is complete
	named  atomic.Bool
	ends   bool // with what endsWith returned
}

// mappingWeight is what a mapping that waits for the garbage collector counts for: the kernel
// allows 65,530 to a process, of which each memory takes up to three.
const mappingWeight = 16 << 10

// offHeap returns a context under which an instance has its memory outside of Go's heap, if
// that is wanted. g is nil if wazero's own or the caller's allocator is to provide it.
func (r *Runtime) offHeap(ctx context.Context, l wasmbin.Linkage) (_ context.Context, g *guestMemory) {
	if !r.c.opts.OffHeapMemory || !l.Memory.Defined {
		return ctx, nil
	}
	if caller, known := wazerohook.Allocator(ctx); !known || caller != nil {
		return ctx, nil
	}
	if g = r.newMemory(l, nil); g.mem == nil {
		return ctx, nil
	}
	return g.within(ctx), g
}

// imageMemory returns a context under which an instance has a memory that begins as the image:
// outside of Go's heap, if the caller has no allocator of his own. g is nil if it has none.
func (r *Runtime) imageMemory(ctx context.Context, l wasmbin.Linkage, image *mapped.Image) (_ context.Context, g *guestMemory) {
	if image == nil {
		return ctx, nil
	}
	if caller, _ := wazerohook.Allocator(ctx); caller != nil {
		g = &guestMemory{r: r, image: image, caller: caller}
	} else {
		g = r.newMemory(l, image)
	}
	return g.within(ctx), g
}

// within returns a context that carries the allocator until the instance has its memory. wazero hands it
// on to start functions, and host functions to instantiations of their own, in whatever runtime: those
// find what the caller's context carries, as without us.
func (g *guestMemory) within(ctx context.Context) context.Context {
	return &instanceContext{ctx, experimental.WithMemoryAllocator(ctx, g), g}
}

// instanceContext is what guestMemory.within returns.
type instanceContext struct {
	context.Context                 // the caller's
	until           context.Context // the same with the allocator, until memory is given
	memory          *guestMemory
}

// Value implements context.Context.
func (c *instanceContext) Value(key any) any {
	if c.memory.given.Load() {
		return c.Context.Value(key)
	}
	return c.until.Value(key)
}

// newMemory maps a memory, or leaves it to the heap.
func (r *Runtime) newMemory(l wasmbin.Linkage, image *mapped.Image) *guestMemory {
	g := &guestMemory{r: r, image: image, shared: l.Memory.Shared, since: r.links.now()}
	if !l.Mappable() {
		return g
	}
	r.c.loaded.Memories.Pace(3) // mappings alone, of which there are only so many, never come to that
	// wazero lets go of an allocator when the instance is closed. From then on, memories move as they
	// grow, but those that are shared, which have to find room where they are.
	mem, err := mapped.New(l.Memory.Min, l.Memory.Max, image, l.Memory.Shared)
	if err != nil {
		r.c.counters.offHeapFailed.Add(1)
		if !r.c.loaded.Memories.Lags() { // else closed ones take the room, until the collector comes by
			r.c.degrade("memory outside of Go's heap", err)
		}
		return g
	}
	r.c.counters.offHeap.Add(1)
	g.mem, g.image = mem, nil // an instance that nobody closes must not keep the image's file open
	return g
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

// Allocate implements experimental.MemoryAllocator. wazero calls it once, before any code of the instance runs.
func (g *guestMemory) Allocate(capacity, most uint64) experimental.LinearMemory {
	again := g.given.Swap(true) // for another memory, should wazero's instances have several
	if !again && g.mem != nil {
		return g
	}
	var m experimental.LinearMemory
	if g.caller != nil {
		m = g.caller.Allocate(capacity, most)
	} else {
		if g.shared {
			capacity = most // it must not move
		}
		m = &heapMemory{make([]byte, 0, capacity)}
	}
	if again {
		return m
	}
	return &copiedMemory{m, g.image}
}

// copiedMemory is a memory that begins as a copy of an image.
type copiedMemory struct {
	experimental.LinearMemory
	image *mapped.Image // nil once it was copied
}

// Reallocate implements experimental.LinearMemory.
func (m *copiedMemory) Reallocate(size uint64) []byte {
	b := m.LinearMemory.Reallocate(size)
	if m.image != nil {
		if err := m.image.CopyTo(b); err != nil {
			panic(err) // as wazero does without memory
		}
		m.image = nil
	}
	return b
}

// Reallocate implements experimental.LinearMemory.
func (g *guestMemory) Reallocate(size uint64) []byte { return g.mem.Resize(size) }

// Free implements experimental.LinearMemory. Modules that import the memory go on with
// it; then it ends when they are collected as well. wazero refers to g no more, and maybe hasn't
// returned the instance yet, nor ever will: only belongsTo and endsWith know when the addresses can go.
func (g *guestMemory) Free() {
	g.discard()
	g.mem.Leak()
}

// imported reports whether another module may have imported the memory, or a table with functions that use it.
func (g *guestMemory) imported() bool {
	if !g.named.Load() {
		return g.r.links.any(g.since)
	}
	return g.r.links.imported(g.name, g.since)
}

func (g *guestMemory) discard() {
	garbage := g.r.c.loaded.Memories
	switch {
	case g.imported(): // somebody else may use it, until the collector finds that nobody does
		garbage.Add(int64(g.mem.Size()))
	case g.mem.Discard():
		garbage.Add(mappingWeight)
	}
	garbage.Collect()
}

// mapped reports whether the memory is outside of Go's heap.
func (g *guestMemory) mapped() bool { return g != nil && g.mem != nil }

// endsWith returns what the instance is to be made of, with which the memory ends then, although others may have it before
// wazero returns it, or without that.
func (g *guestMemory) endsWith(cm wazero.CompiledModule, isMarked bool) wazero.CompiledModule {
	if !isMarked {
		marked, _, ok := wazerohook.Mark(cm)
		if !ok {
			return cm
		}
		cm = marked
	}
	wazerohook.OnCollectOf(cm, (*mapped.Memory).Unmap, g.mem)
	g.ends = true
	return cm
}

// belongsTo has the memory end with the instance, or now if wazero returned without one. If it didn't return, there may
// be one that nobody else knows.
func (g *guestMemory) belongsTo(mod api.Module, returned bool) {
	switch {
	case !g.mapped():
	case !g.given.Load() || mod == nil && returned:
		g.mem.Unmap()
	case mod != nil:
		g.name = mod.Name()
		g.named.Store(true)
		if !g.ends && !wazerohook.OnCollect(mod, (*mapped.Memory).Unmap, g.mem) {
			g.mem.Leak()
		}
	}
}

// heapMemory is what wazero would allocate itself.
type heapMemory struct{ b []byte }

// Reallocate implements experimental.LinearMemory.
func (m *heapMemory) Reallocate(size uint64) []byte {
	if int(size) <= cap(m.b) { // zeros, which the system may not have had to write yet
		m.b = m.b[:max(len(m.b), int(size))]
	} else {
		m.b = append(m.b, make([]byte, int(size)-len(m.b))...)
	}
	return m.b[:size]
}

// Free implements experimental.LinearMemory.
func (m *heapMemory) Free() {}
