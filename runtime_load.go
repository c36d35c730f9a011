package modcache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/flight"
	"github.com/modcache/modcache/internal/loaded"
	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wazerocache"
	"github.com/modcache/modcache/internal/wazerohook"
)

// acquire returns a handle on the module. Its machine code comes from memory, from a
// flight, or from the store or a compile in a flight of this caller's.
func (r *Runtime) acquire(ctx context.Context, src *source) (cm wazero.CompiledModule, err error) {
	if m := r.loaded.Find(src.key); m != nil {
		return r.newHandle(m, src)
	}
	ctx, end := r.c.begin(ctx, Step{Kind: StepModule, Key: src.key, Name: src.name(), Module: src.sum, Bytes: int64(src.size())})
	err = errPanicked // unless it returns
	defer func() { end(StepEnd{Err: err}) }()
	cm, err = r.obtain(ctx, src)
	return cm, err
}

// obtain is acquire for a module that isn't in memory.
func (r *Runtime) obtain(ctx context.Context, src *source) (wazero.CompiledModule, error) {
	if r.c.stubOf(src.sum) != nil {
		return nil, src.failed(errStubInRuntime)
	}
	if ctx.Err() != nil {
		if err := r.expectStored(ctx, src); err != nil {
			return nil, err
		}
		var cancel func()
		ctx, cancel = context.WithTimeoutCause(context.WithoutCancel(ctx), patience, context.Cause(ctx))
		defer cancel()
	}
	workers := experimental.GetCompilationWorkers(ctx)
	for {
		if r.e.unproven.Load() {
			r.own.Otherwise(newDropIn(r.c, r.own.Cache))
			return r.inner.CompileModule(ctx, src.own())
		}
		m, load, started, err := r.loaded.Load(experimental.WithCompilationWorkers(r.c.ctx, workers), src.key,
			func(flight context.Context) (*loaded.Code, error) {
				return newLoading(r, src).run(r.c.inStepOf(flight, ctx))
			})
		if load != nil {
			m, err = r.wait(ctx, src, load, started)
		}
		switch {
		case err == nil:
			return r.newHandle(m, src)
		case !errors.Is(err, errAgain):
			return nil, r.closedError(src.key, err)
		}
	}
}

// errAgain means that the load a caller joined came to an end that says nothing
// about the module, and that the caller should ask again.
var errAgain = errors.New("abandoned")

// wait returns the module with a hold on it when its code is loaded.
func (r *Runtime) wait(ctx context.Context, src *source, load *loaded.Flight, started bool) (_ *loaded.Module, err error) {
	if !started {
		r.c.counters.coalesced.Add(1)
		_, end := r.c.begin(ctx, Step{Kind: StepWait, Key: src.key, Name: src.name()})
		defer func() { end(StepEnd{Err: err}) }()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.c.ctx, func() { cancel(errCacheClosed) })()
	code, err := load.Wait(ctx)
	switch {
	case err == nil:
		return r.loaded.Take(code)
	case ctx.Err() != nil:
		if started {
			src.own() // the flight may go on
		}
		return nil, src.failed(context.Cause(ctx))
	case errors.Is(err, flight.ErrAbandoned),
		errors.Is(err, errUnproven),
		errors.Is(err, errModified) && !started,
		errors.Is(err, loaded.ErrClosed) && !r.loaded.Closed(): // of the one who started it
		return nil, errAgain
	case errors.Is(err, context.Canceled) && r.c.Closed():
		return nil, src.failed(errCacheClosed)
	case errors.Is(err, contain.ErrExited):
		return nil, src.failed(errors.New("a store or an observer ended the goroutine that compiles"))
	}
	return nil, err
}

// patience is how long a caller whose context has ended waits for code that is stored: it
// may be on the far side of a network.
const patience = time.Second

// expectStored returns nil if a caller whose context has ended may hope for the code,
// or else why not. wazero serves what it has whatever the context says, but for nobody,
// nothing is compiled.
func (r *Runtime) expectStored(ctx context.Context, src *source) error {
	if r.c.opts.RequireHit {
		return nil // nothing will be compiled
	}
	check, err := r.e.loaded.Check(r.c.inStepOf(r.c.ctx, ctx), src.key, func(ctx context.Context) (bool, error) {
		look := src.lookup()
		found := r.e.stored(ctx, src, look) > 0
		if !found {
			look.miss(src.key)
		}
		return found, nil
	})
	if err != nil {
		return r.closedError(src.key, err)
	}
	cause := context.Cause(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if found, err := check.Wait(ctx); err != nil || !found {
		src.own() // the flight may go on
		return src.failed(cause)
	}
	src.wanted = true
	return nil
}

// closedError says what the errors of package loaded mean to a caller.
func (r *Runtime) closedError(key Key, err error) error {
	switch {
	case errors.Is(err, loaded.ErrClosed):
		return r.failIfClosed()
	case errors.Is(err, loaded.ErrRegistryClosed):
		return &Error{Op: "compile", Key: key, Err: errCacheClosed}
	}
	return err
}

// decoder makes modules of a Runtime, for [loaded.Decoder]: that of source, which has been loaded by another. A
// runtime that is closed meanwhile may fail in any way, and panic.
type decoder struct {
	r   *Runtime
	src *source
}

func (d decoder) Decode(image []byte, native any) (wazero.CompiledModule, error) {
	if code, ok := native.(*wazerohook.Code); ok {
		if image = d.image(image, code); image != nil {
			return d.r.compileInner(context.Background(), image, code)
		}
	}
	wasm, err := d.src.compilable()
	if err != nil {
		return nil, err
	}
	return d.r.compileFull(context.Background(), wasm)
}

// image returns what wazero was given for the code, or nil if that can't be told. kept is that, if
// it was kept.
func (d decoder) image(kept []byte, code *wazerohook.Code) []byte {
	is := func(image []byte) bool {
		return wazerohook.ModuleID(image, d.r.e.conf.CloseOnContextDone) == code.ID()
	}
	if kept != nil {
		return kept
	}
	if stub, stubbed, err := d.src.image(); err == nil && stubbed && is(stub) {
		return stub
	}
	if own := d.src.own(); is(own) {
		return own // it was compiled for one use
	}
	return nil
}

// native returns the code of a module that this runtime has loaded, for others to decode, or nil if
// that can't be had. If the runtime was closed meanwhile, the error is loaded.ErrClosed.
func (r *Runtime) native(cm wazero.CompiledModule) (any, error) {
	if code := wazerocache.CodeOf(cm); code != nil {
		return code, nil
	}
	if r.loaded.Closed() {
		return nil, loaded.ErrClosed
	}
	return nil, nil
}

// compileInner has wazero compile, or take code if it is not nil. If the runtime was closed, the error is loaded.ErrClosed.
func (r *Runtime) compileInner(ctx context.Context, wasm []byte, code *wazerohook.Code) (cm wazero.CompiledModule, err error) {
	returned := false
	defer func() {
		if !returned && code == nil {
			r.own.Forget(wazerohook.ModuleID(wasm, r.e.conf.CloseOnContextDone))
		}
		if cm == nil && r.loaded.Closed() {
			_ = recover()
			err = loaded.ErrClosed
		}
	}()
	cm, err = r.own.Compile(ctx, r.inner, wasm, code)
	returned = true
	return cm, err
}

// compileFull has wazero compile in this runtime's engine.
func (r *Runtime) compileFull(ctx context.Context, wasm []byte) (wazero.CompiledModule, error) {
	return r.compileAs(ctx, wasm, sync.OnceValue(func() wazerohook.WazeroKey { return r.e.wazero.Key(wasm, r.e.conf.CloseOnContextDone) }))
}

// compileAs is compileFull under the key that wazero is expected to ask for, or else whatever it asks for.
func (r *Runtime) compileAs(ctx context.Context, wasm []byte, key func() wazerohook.WazeroKey) (wazero.CompiledModule, error) {
	compile := func(done func() error) (wazero.CompiledModule, error) {
		defer done()
		return r.compileInner(ctx, wasm, nil)
	}
	refused := r.own.Refused()
	cm, err := compile(r.own.Announce(key, nil))
	if err != nil && r.own.Refused() != refused {
		cm, err = compile(r.own.AnnounceAny())
	}
	return cm, err
}

// compileListening compiles a module with the listeners that its context asks
// for. An engine would serve the listeners of the first compile to all later ones
// of the same bytes, whosever they are, so these bytes are like nobody else's.
func (r *Runtime) compileListening(ctx context.Context, factory experimental.FunctionListenerFactory, m *Module) (wazero.CompiledModule, error) {
	failed := r.e.source(m).failed
	switch {
	case r.c.Closed():
		return nil, failed(errCacheClosed)
	case r.c.stubOf(m.sum) != nil:
		return nil, failed(errStubInRuntime)
	case r.c.opts.RequireHit:
		return nil, failed(fmt.Errorf("with listeners, which are never cached: %w", ErrMiss))
	}
	if absurd := wasmbin.CheckCounts(m.wasm, wazerohook.ByteTables); absurd != nil {
		return nil, failed(absurd)
	}
	// It takes no slot of Options.MaxCompiles: wazero calls the factory, which may compile another module.
	if err := context.Cause(ctx); err != nil {
		return nil, failed(err)
	}
	wasm := wazerocache.WithNonce(m.wasm)
	listeners := &wazerohook.ListenerKey{FunctionListenerFactory: factory}
	ctx = experimental.WithFunctionListenerFactory(r.c.withWorkers(ctx), listeners)
	cm, err := r.compileAs(ctx, wasm, func() wazerohook.WazeroKey {
		// Which functions have a listener is known by the time that wazero asks.
		return listeners.Key(r.e.wazero, wasm, r.e.conf.CloseOnContextDone)
	})
	if err != nil {
		return nil, r.closedError(r.e.key(m.sum), err)
	}
	compiled, ok := r.loaded.AddPrivate(cm, loaded.Footprint(codeGrowth*int64(len(wasm))))
	if !ok {
		_ = cm.Close(ctx)
		return nil, r.failIfClosed()
	}
	l := linkage(wasm)
	return &compiledHandle{CompiledModule: wazerocache.HideNonce(cm), m: compiled, alone: &l}, nil
}
