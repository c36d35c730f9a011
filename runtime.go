package modcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/loaded"
	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wazerocache"
	"github.com/modcache/modcache/internal/wazerohook"
)

// inner is what a Runtime embeds: all methods of wazero's, and whatever it may add.
type inner = wazero.Runtime

// Runtime is a wazero.Runtime whose modules come from a [Cache]. Hand it to
// whatever takes a wazero.Runtime: WASI, host module builders, code that you
// already have. Its methods may be called from several goroutines at once.
//
// A module that this Runtime has seen is compiled, decoded and loaded once for as
// long as it is in use or retained (Options.Retain). Callers that want the same
// module at the same time share one compile, across goroutines, the runtimes of a Cache
// and, over a [Disk], processes. A compile belongs to nobody: when one caller's context ends the
// others still get it, and when all have left it is cancelled. wazero stops between
// two functions then, but only with more than one worker (Options.Workers); else it finishes, and
// the code is kept. A call whose context ends before the code is there fails, where wazero's own goes
// on: what is compiled once for all requests needs a context that no request ends. Small modules of a program that makes up many of them are not shared
// with other processes (Options.SmallModules).
//
// Modules compiled under a context with a listener factory are neither cached
// nor shared.
//
// Close a Runtime as you would one of wazero's. One that the program forgets is collected with
// its modules, instances and host modules, as wazero's is, although its Cache is in use. A compiled module
// that is forgotten is released when it is collected, if it has no listeners.
//
// The modules that it returns are handles, for methods of this Runtime only. Another Runtime refuses
// them, and wazero's own runtimes panic: they expect what they made themselves.
//
// After Close, the errors have wazero's text, "runtime closed with exit_code(0)", and are ErrClosed.
type Runtime struct {
	inner
	c *Cache

	// Nil if this is a plain wazero.Runtime.
	e      *engine
	own    *wazerocache.Engine // wazero's, of this runtime
	loaded *loaded.Owner

	links *links

	ended atomic.Uint64 // 1 + the exit code << 32, once it is closed
}

var _ wazero.Runtime = (*Runtime)(nil)

// NewRuntime returns a runtime with the given configuration; nil means
// wazero.NewRuntimeConfig. A compilation cache in it is not used. The runtime is the
// caller's to close, before or after the Cache.
//
// If there is an error, the *Runtime is nil. A variable of type wazero.Runtime that it is assigned to
// is then not nil: test the error, not the variable.
//
// Where nothing can be cached (wazero's interpreter, a build of wazero that
// modcache doesn't know), this is a plain wazero runtime, which is reported once. With
// Options.RequireHit, it is an error that wraps [ErrMiss] and [ErrUnsupportedWazero]. Where wazero itself would panic, as
// it does before v1.12 if the process may not make memory executable, it is an error that wraps ErrUnsupportedWazero.
//
// A whole program: examples/wasi.
func (c *Cache) NewRuntime(ctx context.Context, config wazero.RuntimeConfig) (*Runtime, error) {
	if c.Closed() {
		return nil, &Error{Op: "make runtime", Err: errCacheClosed}
	}
	if config == nil {
		config = wazero.NewRuntimeConfig()
	}
	r := &Runtime{c: c, links: &links{}}
	switch err := r.open(ctx, config); {
	case err == nil:
		return r, nil
	case errors.Is(err, errDropInOnly):
		config = config.WithCompilationCache(c.CompilationCache()) // which reports it if even that doesn't work
		c.degrade("runtime", err)
	case c.opts.RequireHit:
		return nil, &Error{Op: "make runtime", Err: fmt.Errorf("nothing can be a hit in it, as Options.RequireHit asks: %w: %w: %w", ErrMiss, ErrUnsupportedWazero, err)}
	default:
		c.degrade("runtime", err)
	}
	var err error
	if r.inner, err = wazerohook.NewRuntime(ctx, config); err != nil {
		return nil, &Error{Op: "make runtime", Err: fmt.Errorf("%w: %w", ErrUnsupportedWazero, err)}
	}
	return r, nil
}

// RuntimeFunc returns [Cache.NewRuntime] in the form that libraries take which make a runtime for
// each module that they load. Every runtime that it makes has the given configuration, and gets
// the host modules; pass the Instantiate functions of wazero's imports, such as
// wasi_snapshot_preview1.Instantiate. If one of them fails, the runtime is closed again, and the error
// is returned as it is. The function may be called from several goroutines at once, and returns
// a nil interface along with each error. What it makes is a [*Runtime], and the library's to close.
func (c *Cache) RuntimeFunc(config wazero.RuntimeConfig, hosts ...func(context.Context, wazero.Runtime) (api.Closer, error)) func(context.Context) (wazero.Runtime, error) {
	return func(ctx context.Context) (wazero.Runtime, error) {
		r, err := c.NewRuntime(ctx, config)
		if err != nil {
			return nil, err // not r, which would be an interface that isn't nil
		}
		for _, host := range hosts {
			if _, err := host(ctx, r); err != nil {
				_ = r.Close(ctx)
				return nil, err
			}
		}
		return r, nil
	}
}

// open makes r a runtime with an engine that its Cache can use.
func (r *Runtime) open(ctx context.Context, config wazero.RuntimeConfig) error {
	e, err := r.c.pickEngine(ctx, config, r)
	if err != nil {
		return err
	}
	if r.own == nil {
		if r.inner, r.own, err = e.engines.Open(ctx); err != nil {
			return fmt.Errorf("%w: %w", errDropInOnly, err)
		}
	}
	r.e, r.loaded = e, e.loaded.NewOwner()
	return nil
}

// errDropInOnly means that wazero's keys aren't understood well enough for more
// than the drop-in.
var errDropInOnly = errors.New("the keys of this wazero are unknown")

// pickEngine returns the engine for the configuration of r, which it may open.
func (c *Cache) pickEngine(ctx context.Context, config wazero.RuntimeConfig, r *Runtime) (*engine, error) {
	switch {
	case c.unsupported != nil:
		return nil, ErrUnsupportedWazero
	case wazerohook.Interpreted(config):
		return nil, wazerohook.ErrInterpreter
	}
	e, err := c.engineFor(ctx, config, r)
	if err != nil && !errors.Is(err, wazerohook.ErrInterpreter) {
		err = fmt.Errorf("%w: %w", errDropInOnly, err)
	}
	return e, err
}

// Key returns the key under which the module's machine code is stored for this
// runtime. It is zero for a plain wazero runtime, and for no module.
func (r *Runtime) Key(m *Module) Key {
	if r.e == nil || m == nil {
		return Key{}
	}
	return r.e.key(m.sum)
}

// CompileModule implements wazero.Runtime. The returned module is a handle of its own:
// closing it, even twice, releases nothing of anybody else's. The bytes may be reused
// afterwards. If they change before, as in a memory that another thread of a guest writes to, it is
// an error, or the module is what they were at a time.
func (r *Runtime) CompileModule(ctx context.Context, wasm []byte) (wazero.CompiledModule, error) {
	if r.e == nil {
		return r.inner.CompileModule(ctx, wasm)
	}
	if err := r.failIfClosed(); err != nil {
		return nil, err
	}
	// wazero sees at once what isn't a module, however long it is. It gets no bytes that may change.
	var head [8]byte
	if n := copy(head[:], wasm); !wasmbin.HasHeader(head[:n]) {
		_, err := r.compileInner(ctx, bytes.Clone(head[:n]), nil)
		return nil, r.closedError(Key{}, err)
	}
	if r.e.wazero.Listeners(ctx) != nil {
		return r.Compile(ctx, NewModule(bytes.Clone(wasm)))
	}
	src, done := r.e.prepare(wasm)
	defer done()
	return r.acquire(ctx, src)
}

// Compile is CompileModule for a module whose fingerprint is known: compiling it
// again costs next to nothing.
func (r *Runtime) Compile(ctx context.Context, m *Module) (wazero.CompiledModule, error) {
	if m == nil {
		return nil, errNoModule
	}
	if r.e == nil {
		return r.inner.CompileModule(ctx, m.wasm)
	}
	if err := r.failIfClosed(); err != nil {
		return nil, err
	}
	if factory := r.e.wazero.Listeners(ctx); factory != nil {
		return r.compileListening(ctx, factory, m)
	}
	key := r.e.key(m.sum)
	if found := r.loaded.Find(key); found != nil {
		if found.Undecoded() {
			return r.newHandle(found, r.e.source(m))
		}
		cm, err := found.Compiled(nil)
		if err != nil {
			return nil, r.closedError(key, err)
		}
		return handleOf(cm, found), nil
	}
	return r.acquire(ctx, r.e.source(m))
}

// Close implements wazero.Runtime.
func (r *Runtime) Close(ctx context.Context) error { return r.CloseWithExitCode(ctx, 0) }

// CloseWithExitCode implements wazero.Runtime. Machine code that nobody else uses
// stays with the Cache, for the next runtime, within Options.Retain.
func (r *Runtime) CloseWithExitCode(ctx context.Context, code uint32) error {
	if r.e == nil {
		return r.inner.CloseWithExitCode(ctx, code)
	}
	r.ended.CompareAndSwap(0, 1+uint64(code)<<32)
	return r.loaded.Close(func() error {
		defer r.own.Close()
		return r.inner.CloseWithExitCode(ctx, code)
	})
}

// failIfClosed returns the error that a closed runtime has for everything.
func (r *Runtime) failIfClosed() error {
	if ended := r.ended.Load(); ended != 0 {
		return runtimeClosedError(ended >> 32)
	}
	return nil
}

// runtimeClosedError has the exit code, and wazero's own text. It is an ErrClosed as well.
type runtimeClosedError uint32

func (e runtimeClosedError) Error() string {
	return fmt.Sprintf("runtime closed with exit_code(%d)", uint32(e))
}

func (runtimeClosedError) Is(target error) bool { return target == ErrClosed }
