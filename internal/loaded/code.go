package loaded

import (
	"container/list"

	"github.com/tetratelabs/wazero"
)

// Code is machine code that is loaded in an engine. wazero keeps it for as long as
// any compiled module refers to it; Code always owns at least one, its anchor, so
// that it outlives the runtime that it was loaded by.
type Code struct {
	image    []byte // what wazero is given: a stub, or the module itself
	size     int64  // footprint
	wasmSize int    // bytes of the module
	anchor   wazero.CompiledModule
	by       *Owner // whose runtime compiled the anchor
	e        *Engine
	key      Key
	once     bool // not retained

	// Guarded by Registry.mu.
	modules map[*Owner]*Module
	users   int           // handles and instances over all runtimes, and callers who wait for them
	unused  *list.Element // while users is 0
}

// NewCode returns the code, of codeLen bytes, that the owner's runtime has loaded by
// compiling image to anchor. It stands for a module of wasmSize bytes.
func (o *Owner) NewCode(key Key, image []byte, codeLen int64, wasmSize int, anchor wazero.CompiledModule) *Code {
	return &Code{
		image: image, size: Footprint(codeLen, image), wasmSize: wasmSize, anchor: anchor,
		by: o, e: o.e, key: key, modules: make(map[*Owner]*Module),
	}
}

// Transient keeps the code from being retained. It comes before anybody else knows of it.
func (c *Code) Transient() { c.once = true }

// Footprint is what a loaded module counts for: its machine code and the entry
// points of its types, each in pages of their own, and the image. What wazero makes of the
// image, on the heap, isn't known.
func Footprint(codeLen int64, image []byte) int64 {
	const page = 4 << 10
	return (codeLen+page-1)/page*page + page + int64(len(image))
}

// grant enters code that was loaded, with a hold for each of n callers who waited.
func (e *Engine) grant(key Key, c *Code, n int) (after func()) {
	e.code[key] = c
	e.sizes[c.wasmSize]++
	if !c.by.closed {
		c.by.add(c, c.anchor)
	}
	c.hold(n + 1)
	free := c.release(1)
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
	if c.e.retired || c.once {
		return c.drop()
	}
	r := c.e.r
	c.unused = r.unused.PushFront(c)
	r.bytes += c.size
	return r.shrink()
}

// drop takes c, which nobody uses, out of its engine and all runtimes, and returns all that
// it owns.
func (c *Code) drop() []wazero.CompiledModule {
	c.e.r.Garbage.Add(c.size)
	delete(c.e.code, c.key)
	if c.e.sizes[c.wasmSize]--; c.e.sizes[c.wasmSize] == 0 {
		delete(c.e.sizes, c.wasmSize)
	}
	owned := []wazero.CompiledModule{c.anchor}
	for _, m := range c.modules {
		owned = append(owned, m.remove()...)
	}
	return owned
}
