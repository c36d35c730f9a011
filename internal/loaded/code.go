package loaded

import (
	"container/list"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/wasmbin"
)

// Loaded is machine code that a runtime has loaded, and what stands for it.
type Loaded struct {
	// Image is what wazero was given: a stub, or the module itself. Whoever wants the code in
	// another runtime can make it again; it is nil where that takes less than keeping it.
	Image []byte
	// Native is the code, for the engines of other runtimes. It must not refer to a runtime. If it is
	// nil, [Engine.Share] gets it once another runtime asks for it, or this one is closed. Of a
	// runtime that is collected, it can't be had.
	Native   any
	Linkage  wasmbin.Linkage
	CodeLen  int64
	Heap     int64 // about what wazero takes beside the code and the image
	WasmSize int   // bytes of the module
	Traced   bool  // [Engine.Tidy] is to see it while nobody uses it
	Once     bool  // it isn't retained
}

// Code is machine code that is loaded. It outlives the runtime that it was loaded by.
type Code struct {
	image    []byte
	linkage  wasmbin.Linkage
	mapped   int64 // bytes that only the collector frees, and can't see
	heap     int64 // all others
	wasmSize int
	e        *Engine
	key      Key
	traced   bool
	once     bool

	// Guarded by Registry.mu.
	native any
	only   *use              // the use of one runtime, which has it to itself as a rule
	others map[*use]struct{} // those of all others; nil until there are any
	users  int               // handles and instances over all runtimes, and callers who wait for them
	unused *list.Element     // while users is 0
	tidied *list.Element     // while users is 0, if it is traced
	by     *Owner            // whose runtime compiled cm; nil once the code is in the books
	cm     wazero.CompiledModule
}

// NewCode returns the code that the owner's runtime has loaded, as cm.
func (o *Owner) NewCode(key Key, l Loaded, cm wazero.CompiledModule) *Code {
	return &Code{
		image: l.Image, native: l.Native, linkage: l.Linkage, mapped: Footprint(l.CodeLen), heap: int64(len(l.Image)) + l.Heap,
		wasmSize: l.WasmSize, traced: l.Traced, once: l.Once, e: o.e, key: key, by: o, cm: cm,
	}
}

// Footprint is what is mapped for code of that length: itself, and the entry points of its
// types, each in pages of their own.
func Footprint(codeLen int64) int64 {
	const page = 4 << 10
	return (codeLen+page-1)/page*page + page
}

// size is what c counts for while nobody uses it.
func (c *Code) size() int64 { return c.mapped + c.heap }

// grant enters code that was loaded, with a hold for each of n callers who waited.
func (e *Engine) grant(key Key, c *Code, n int) (after func()) {
	e.code[key] = c
	e.sizes[c.wasmSize]++
	var free []wazero.CompiledModule
	if c.by.closed {
		free = append(free, c.cm)
	} else {
		c.by.add(c, c.cm)
	}
	c.by, c.cm = nil, nil
	c.hold(n + 1)
	free = append(free, c.release(1)...)
	return func() { closeAll(free) }
}

// hold keeps c from being freed. The lock is held.
func (c *Code) hold(n int) {
	c.users += n
	if c.users > 0 && c.unused != nil {
		c.e.r.reuse(c)
	}
}

// release is the inverse of hold; it returns what is to be closed once the lock is free.
func (c *Code) release(n int) (free []wazero.CompiledModule) {
	c.users -= n
	if c.users > 0 || c.unused != nil {
		return nil
	}
	r := c.e.r
	if c.e.retired || c.once || c.lost() || c.size() > r.retain { // which would take the place of all others, and go with them
		return c.drop()
	}
	c.unused = r.unused.PushFront(c)
	r.retained++
	r.bytes += c.size()
	if c.traced {
		r.tidy(c)
	}
	return r.shrink()
}

// tidy tidies c, which nobody uses any more, and a few of those that were tidied before: an instance may be closed
// before its last call ends.
func (r *Registry) tidy(c *Code) {
	c.tidied = r.traced.PushFront(c)
	for range min(step, r.traced.Len()) {
		next := r.traced.Front()
		r.traced.MoveToBack(next)
		next.Value.(*Code).tidy()
	}
}

// tidy has wazero forget what it has gathered in c. Where several runtimes have c, they have the native code in common, and
// what is gathered is in that.
func (c *Code) tidy() {
	if c.e.Tidy != nil {
		c.e.Tidy(c.module(), c.native)
	}
}

// forget is drop if c is retained.
func (c *Code) forget() (free []wazero.CompiledModule) {
	if c.unused == nil {
		return nil
	}
	c.e.r.reuse(c)
	return c.drop()
}

// lost reports whether nobody can get at the native code any more.
func (c *Code) lost() bool { return c.native == nil && c.only == nil && len(c.others) == 0 }

// module returns wazero's module in some runtime that has one, or nil.
func (c *Code) module() wazero.CompiledModule {
	if c.only != nil {
		if cm := c.only.module(); cm != nil {
			return cm
		}
	}
	for u := range c.others {
		if cm := u.module(); cm != nil {
			return cm
		}
	}
	return nil
}

// drop takes c, which nobody uses, out of its engine and all runtimes, and returns what is
// to be closed.
func (c *Code) drop() (free []wazero.CompiledModule) {
	c.e.r.Garbage.Add(c.mapped)
	delete(c.e.code, c.key)
	if c.e.sizes[c.wasmSize]--; c.e.sizes[c.wasmSize] == 0 {
		delete(c.e.sizes, c.wasmSize)
	}
	if c.only != nil {
		free = c.only.drop()
	}
	for u := range c.others {
		free = append(free, u.drop()...)
	}
	return free
}

// enter notes a use.
func (c *Code) enter(u *use) {
	switch {
	case c.only == nil:
		c.only = u
		return
	case c.others == nil:
		c.others = make(map[*use]struct{})
	}
	c.others[u] = struct{}{}
}

// leave is the inverse of enter.
func (c *Code) leave(u *use) {
	if c.only == u {
		c.only = nil
	}
	delete(c.others, u)
}
