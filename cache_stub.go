package modcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/contain"
)

// Stub returns bytes that stand for m in runtimes that a [Runtime] can't take the place of, because a
// library makes them: it takes a wazero.RuntimeConfig and a module's bytes. Where config has this Cache's
// CompilationCache, from [Cache.CompilationCache] or [Cache.Attach], wazero compiles a stub to the machine code of m,
// and decodes much less than m. Everything but function bodies is as in m.
//
// This is a door for experts. A stub has no code of its own: each function of it traps. So it
// must never reach a runtime without that CompilationCache, one that interprets, or another process, and
// must not be stored: there it compiles, and its first call fails with "unreachable". What can be
// noticed fails the compile instead: a configuration that closes on context done where config doesn't, or
// the reverse; listeners for all functions; code that is no longer in the store or is
// damaged; a closed Cache; and a stub that a [Runtime] is given. Other differences of the configuration go
// unnoticed, and a module that it forbids may then be accepted. Library code may change a configuration: extism
// does if its manifest sets limits.
//
// If the store doesn't have the code, Stub compiles it, as [Cache.Warm] does. Where a stub can't work, the
// module's own bytes come back: with the interpreter, Options.FullDecode, a wazero that isn't supported, a
// module without functions or one that doesn't compile, and a store that doesn't keep the code. Errors: [ErrClosed],
// [ErrMiss] with Options.RequireHit, and the cause of ctx. Stub may be called from several goroutines at
// once. The Cache remembers each stub in some 1,200 bytes, and each configuration of them in 1,000 to 3,500, until it is dropped.
//
// Whole programs: examples/sqlite and examples/extism.
func (c *Cache) Stub(ctx context.Context, config wazero.RuntimeConfig, m *Module) ([]byte, error) {
	if m == nil {
		return nil, errNoModule
	}
	r, err := c.NewRuntime(ctx, config)
	if err != nil {
		return nil, err
	}
	defer r.Close(ctx)
	if r.e == nil {
		return m.wasm, nil
	}
	src := r.e.source(m)
	if stored, err := r.keep(ctx, src); !stored || err != nil {
		return m.wasm, err
	}
	image, stubbed, err := src.image()
	if err != nil || !stubbed {
		return m.wasm, err
	}
	s := &standIn{e: r.e, key: src.key, sum: src.sum, name: src.name(), functions: src.functions(), most: mostCode(src.size())}
	right, wrong := r.e.wazero.KeysOfStub(image, s.functions, r.e.conf.CloseOnContextDone)
	mistake := &standIn{key: s.key}
	for _, key := range wrong {
		c.stubs.Store(key, mistake)
	}
	c.stubs.Store(right, s)
	c.stubs.Store(Sum(image), s)
	return slices.Clip(image), nil
}

// keep reports whether the module's code is under its key, where a start finds it, having compiled it
// or checked that another spelling's will do if need be.
func (r *Runtime) keep(ctx context.Context, src *source) (bool, error) {
	there := func() bool {
		look := src.lookup()
		look.whole = true
		a, _ := r.e.fetch(ctx, src.key, look)
		r.c.release(a)
		return a != nil
	}
	if there() {
		return true, nil
	}
	size, err := contain.Value(func() (int64, error) { return r.warm(ctx, src) })
	switch {
	case ctx.Err() != nil:
		return false, src.failed(context.Cause(ctx))
	case errors.Is(err, ErrMiss), errors.Is(err, ErrClosed):
		return false, err
	}
	return err == nil && size > 0 && (src.compiled.Load() || there()), nil
}

// standIn is what a key of wazero's stands for that it asks for when it compiles a stub of [Cache.Stub].
type standIn struct {
	e         *engine // nil if that is a mistake
	key       Key
	sum       Fingerprint
	name      string
	functions int
	most      int64
}

var errStubConfig = errors.New("this stub was made for a runtime of another configuration, or for one without listeners")

// errStubInRuntime is for those who give a stub to a [Runtime], which makes its own.
var errStubInRuntime = errors.New("these are the bytes of a stub, for runtimes with the Cache's CompilationCache; a Runtime needs the module itself")

// getStub returns the code for a stub, or an error: after a miss, wazero would compile the stub.
func (d *dropIn) getStub(s *standIn) (io.ReadCloser, bool, error) {
	c := d.c
	failed := func(err error) (io.ReadCloser, bool, error) {
		return nil, false, &Error{Op: "compile stub", Key: s.key, Name: s.name, Err: err}
	}
	switch {
	case c.Closed():
		return failed(errCacheClosed)
	case s.e == nil:
		return failed(errStubConfig)
	}
	look := &lookup{c: c, name: s.name, most: s.most}
	e := d.find(look, s.key, s.functions, func() (*Artifact, Key) { return s.e.fetch(c.ctx, s.key, look) })
	if e == nil {
		look.miss(s.key)
		return failed(fmt.Errorf("its code is gone: %w; make the stub again", look.missing(s.sum)))
	}
	c.counters.stubbed.Add(1)
	return e.Open(nil), true, nil
}

// stubOf returns what a key of wazero's or a fingerprint stands for, or nil.
func (c *Cache) stubOf(key any) *standIn {
	s, _ := c.stubs.Load(key)
	found, _ := s.(*standIn)
	return found
}
