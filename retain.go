package modcache

import (
	"container/list"
	"context"
	"runtime"
	"sync/atomic"

	"github.com/tetratelabs/wazero"
)

// hot is machine code that is loaded in an engine. wazero keeps it for as long as
// any compiled module refers to it; a hot entry always owns at least one, its anchor, so
// that the code outlives the runtime that it was loaded for.
//
// All fields but the immutable first ones are guarded by Cache.mu.
type hot struct {
	e      *engine
	key    Key
	image  []byte // what wazero is given: a stub, or the module itself
	size   int64  // footprint
	anchor wazero.CompiledModule

	wasmSize int // bytes of the module

	modules map[*Runtime]*module
	users   int           // handles and instances over all runtimes, and loads under way
	idle    *list.Element // while users is 0
}

// newHot returns an entry for machine code of codeLen bytes, which its anchor keeps
// alive.
func newHot(e *engine, key Key, src *source, image []byte, codeLen int64, anchor wazero.CompiledModule) *hot {
	return &hot{
		e: e, key: key, image: image, size: footprint(codeLen, image), anchor: anchor,
		wasmSize: src.size(), modules: make(map[*Runtime]*module),
	}
}

// module is the compiled module of one runtime. Guarded by Cache.mu.
type module struct {
	h       *hot // nil if nobody else can use it, as it has listeners
	r       *Runtime
	cm      wazero.CompiledModule
	size    int64 // footprint, if h is nil
	handles int   // handles and instances
	gone    bool  // evicted, or closed with its runtime
}

// hold takes n more handles. Callers hold Cache.mu.
func (m *module) hold(n int) {
	m.handles += n
	if m.h != nil {
		m.h.hold(n)
	}
}

// release is the inverse of hold; it returns what is to be closed once Cache.mu is free.
func (m *module) release(n int) []wazero.CompiledModule {
	if m.gone || n == 0 {
		return nil
	}
	m.handles -= n
	switch {
	case m.h != nil:
		return m.h.release(n)
	case m.handles > 0:
		return nil
	}
	m.gone = true
	delete(m.r.private, m)
	m.r.c.idle.discard(m.size)
	return []wazero.CompiledModule{m.cm}
}

// hold keeps h from being freed. Callers hold Cache.mu.
func (h *hot) hold(n int) {
	h.users += n
	if h.users > 0 && h.idle != nil {
		h.e.c.idle.remove(h)
	}
}

// release is the inverse of hold; it returns what is to be closed once Cache.mu is free.
func (h *hot) release(n int) []wazero.CompiledModule {
	h.users -= n
	if h.users > 0 || h.idle != nil {
		return nil
	}
	c := h.e.c
	c.idle.add(h)
	limit := c.opts.Retain
	if c.closed {
		limit = 0
	}
	return c.idle.shrink(limit)
}

// detach takes h out of its engine and all runtimes, and returns all that it owns.
func (h *hot) detach() []wazero.CompiledModule {
	delete(h.e.hot, h.key)
	owned := []wazero.CompiledModule{h.anchor}
	for r, m := range h.modules {
		delete(r.modules, h.key)
		m.gone = true
		if m.cm != h.anchor {
			owned = append(owned, m.cm)
		}
	}
	h.modules = nil
	return owned
}

// footprint is what a loaded module counts for: its machine code and the entry
// points of its types, each in pages of their own, and the image. What wazero makes of the
// image, on the heap, isn't known.
func footprint(code int64, image []byte) int64 {
	const page = 4 << 10
	return (code+page-1)/page*page + page + int64(len(image))
}

// codeGrowth is about how many times its wasm machine code is, where that is all
// there is to go by.
const codeGrowth = 5

// retained is the machine code that nobody uses, in the order of last use.
type retained struct {
	order list.List // of *hot, most recently used in front
	bytes int64

	unfreed    atomic.Int64 // given back, but not collected yet
	collecting atomic.Bool
}

// slack is how much machine code may await the garbage collector, which alone
// unmaps it and can't see how much it is.
const slack = 64 << 20

func (l *retained) add(h *hot) {
	h.idle = l.order.PushFront(h)
	l.bytes += h.size
}

func (l *retained) remove(h *hot) {
	l.order.Remove(h.idle)
	h.idle = nil
	l.bytes -= h.size
}

// shrink gives up the least recently used code until at most limit bytes are
// retained.
func (l *retained) shrink(limit int64) (free []wazero.CompiledModule) {
	for l.bytes > limit || (limit == 0 && l.order.Len() > 0) {
		h := l.order.Back().Value.(*hot)
		l.remove(h)
		free = append(free, h.detach()...)
		l.discard(h.size)
	}
	return free
}

// discard counts machine code that only the collector can free from here on.
func (l *retained) discard(size int64) {
	l.unfreed.Add(size)
	runtime.AddCleanup(&tombstone{}, func(size int64) { l.unfreed.Add(-size) }, size)
}

// tombstone is garbage from the start: its cleanup tells that the collector has run.
type tombstone struct{ _ [16]byte }

// collect runs the garbage collector if too much machine code waits for it.
func (l *retained) collect() {
	if l.unfreed.Load() > slack && l.collecting.CompareAndSwap(false, true) {
		defer l.collecting.Store(false)
		runtime.GC()
	}
}

func closeAll(ctx context.Context, modules []wazero.CompiledModule) {
	for _, cm := range modules {
		_ = cm.Close(ctx) // never fails
	}
}
