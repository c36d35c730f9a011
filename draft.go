package modcache

import (
	"runtime"

	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wazerohook"
)

// draft is what wazero is going to see of a module, short of the key in it.
type draft struct {
	stub      *wasmbin.Draft // nil if there can't be one
	functions int            // that the module defines, or AnyFunctions
}

func (e *engine) draft(wasm []byte) *draft {
	d := &draft{functions: wazerohook.AnyFunctions}
	if outline, err := wasmbin.Scan(wasm); err == nil {
		d.functions = int(outline.DefinedFuncs)
	}
	if e.stubs {
		if stub, err := wasmbin.NewDraft(wasm, len(Key{})+len(e.c.secret)); err == nil {
			d.stub = &stub
		}
	}
	return d
}

// draftFrom is the size of a module from which it pays to start another goroutine.
const draftFrom = 256 << 10

// prepare is NewModule. If the module looks like one that has to be loaded, it comes
// with a draft, which is made on another core while this one takes the fingerprint.
// done is called once the module is loaded.
func (e *engine) prepare(wasm []byte) (m *Module, d *draft, done func()) {
	size := len(wasm)
	if !e.stubs || size < draftFrom || runtime.GOMAXPROCS(0) == 1 || !e.claim(size) {
		return NewModule(wasm), nil, func() {}
	}
	made := make(chan struct{})
	go func() {
		defer close(made)
		defer func() { _ = recover() }() // it will happen again, where it can be told to the caller
		d = e.draft(wasm)
	}()
	m = NewModule(wasm)
	<-made
	return m, d, func() { e.unclaim(size) }
}

// claim takes it upon the caller to make a draft, until unclaim. It reports false if there
// is machine code for a module of that size, or somebody else is loading one: of a herd, a
// single member makes a draft.
func (e *engine) claim(size int) bool {
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	if e.drafting[size] {
		return false
	}
	for _, h := range e.hot {
		if h.wasmSize == size {
			return false
		}
	}
	e.drafting[size] = true
	return true
}

func (e *engine) unclaim(size int) {
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	delete(e.drafting, size)
}

// drafted returns the draft, which is the caller's to use up.
func (s *source) drafted(e *engine) *draft {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.draft
	s.draft = nil
	if d == nil {
		d = e.draft(s.wasm)
	}
	return d
}
