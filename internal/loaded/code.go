package loaded

import (
	"container/list"

	"github.com/tetratelabs/wazero"
)

// Code is machine code that is loaded. It outlives the runtime that it was loaded by.
type Code struct {
	image    []byte // what wazero is given: a stub, or the module itself
	native   any    // the code, for the engines of other runtimes
	mapped   int64  // bytes that only the collector frees, and can't see
	heap     int64  // all others
	wasmSize int    // bytes of the module
	e        *Engine
	key      Key
	once     bool // not retained

	// Guarded by Registry.mu.
	only   *use              // the use of one runtime, which has it to itself as a rule
	others map[*use]struct{} // those of all others; nil until there are any
	users  int               // handles and instances over all runtimes, and callers who wait for them
	unused *list.Element     // while users is 0
	by     *Owner            // whose runtime compiled cm; nil once the code is in the books
	cm     wazero.CompiledModule
}

// NewCode returns the code, of codeLen bytes, that the owner's runtime has loaded by
// compiling image to cm, which takes about heap bytes beside both. It stands for a module of
// wasmSize bytes. native is what the engines of other runtimes take, and must not refer to a
// runtime.
func (o *Owner) NewCode(key Key, image []byte, native any, codeLen, heap int64, wasmSize int, cm wazero.CompiledModule) *Code {
	return &Code{
		image: image, native: native, mapped: Footprint(codeLen), heap: int64(len(image)) + heap, wasmSize: wasmSize,
		e: o.e, key: key, by: o, cm: cm,
	}
}

// Transient keeps the code from being retained. It comes before anybody else knows of it.
func (c *Code) Transient() { c.once = true }

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
	if c.e.retired || c.once {
		return c.drop()
	}
	r := c.e.r
	c.unused = r.unused.PushFront(c)
	r.bytes += c.size()
	return r.shrink()
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
