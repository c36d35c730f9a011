package wazerocache

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/wazerohook"
)

// Engines makes runtimes of one configuration, each with an engine of its own. Making one takes
// wazero longer than all else about a runtime, so that engines are used again, unless the garbage
// collector comes first.
type Engines struct {
	Config wazero.RuntimeConfig

	spare sync.Pool // of *engine
}

// engine is one of wazero's. It has what is announced to it, and what is entered in its memory.
type engine struct {
	Announced
	Cache wazero.CompilationCache
	code  func() *wazerohook.Engine // looked at when it is needed; nil if wazero's is of an unknown shape
}

// Engine is an engine in the hands of one runtime, until Close.
type Engine struct {
	*engine
	from *Engines

	using sync.RWMutex // read-locked while the runtime uses the engine
	ended bool         // guarded by using
}

// Open returns a runtime, and its engine.
func (x *Engines) Open(ctx context.Context) (wazero.Runtime, *Engine, error) {
	e, ok := x.spare.Get().(*engine)
	if !ok {
		e = &engine{Cache: wazero.NewCompilationCache()}
		e.code = sync.OnceValue(func() *wazerohook.Engine {
			code, _ := wazerohook.OpenEngine(e.Cache)
			return code
		})
		if _, err := wazerohook.Plug(e.Cache, e); err != nil {
			return nil, nil, err
		}
	}
	r, err := wazerohook.NewRuntime(ctx, x.Config.WithCompilationCache(e.Cache))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: making a runtime: %w", wazerohook.ErrShape, err)
	}
	return r, &Engine{engine: e, from: x}, nil
}

// Close has wazero forget all code, as it does with the engine of a runtime that has no cache. It is
// called when the runtime is closed, which may still be compiling, and may be called again at any time.
func (e *Engine) Close() {
	own := e.engine.code()
	if own == nil {
		return
	}
	if !e.using.TryLock() {
		e.using.RLock() // waits for nobody who compiles
		defer e.using.RUnlock()
		if !e.ended { // else it may be another runtime's by now
			own.Clear() // what is compiled now goes with the runtime
		}
		return
	}
	defer e.using.Unlock()
	if !e.ended && own.Clear() && !e.Replaced() {
		e.from.spare.Put(e.engine)
	}
	e.ended = true
}

// ErrEnded means that the engine isn't the runtime's any more.
var ErrEnded = errors.New("the engine was closed")

// Compile has a runtime compile wasm. If code isn't nil, its engine finds that in memory.
func (e *Engine) Compile(ctx context.Context, r wazero.Runtime, wasm []byte, code *wazerohook.Code) (wazero.CompiledModule, error) {
	e.using.RLock()
	defer e.using.RUnlock()
	if e.ended {
		return nil, ErrEnded
	}
	if code != nil {
		defer e.engine.code().Enter(code)()
	}
	cm, err := r.CompileModule(ctx, wasm)
	if err != nil {
		return nil, err
	}
	return compiled{cm, e}, nil
}

// Forget has the engine forget the module that it names id, as a compile of it that panicked may have left it incomplete.
func (e *Engine) Forget(id [32]byte) {
	e.using.RLock()
	defer e.using.RUnlock()
	if own := e.code(); own != nil && !e.ended {
		own.Forget(id)
	}
}

// compiled is a module that its engine forgets when it is closed, if it still has it.
type compiled struct {
	wazero.CompiledModule
	e *Engine
}

func (c compiled) Close(ctx context.Context) error {
	c.e.using.RLock()
	defer c.e.using.RUnlock()
	if c.e.ended {
		return nil
	}
	err := c.CompiledModule.Close(ctx)
	if own := c.e.code(); own != nil {
		own.ClearTail()
	}
	return err
}

// Inner returns wazero's own module of one that Compile has returned.
func Inner(cm wazero.CompiledModule) wazero.CompiledModule { return cm.(compiled).CompiledModule }

// CodeOf returns the code of a module that Compile has returned, or nil if it can't be had.
func CodeOf(cm wazero.CompiledModule) *wazerohook.Code {
	c := cm.(compiled)
	id, ok := wazerohook.ID(c.CompiledModule)
	if !ok {
		return nil
	}
	return c.e.Code(id)
}

// ForgetLines is [wazerohook.ForgetLines] for a module that Compile has returned, and for the code of one. Either may be nil.
func ForgetLines(cm wazero.CompiledModule, code any) {
	if c, ok := cm.(compiled); ok {
		wazerohook.ForgetLines(c.CompiledModule)
	}
	if c, ok := code.(*wazerohook.Code); ok {
		c.ForgetLines()
	}
}

// Code returns the code that the engine has loaded under id, or nil if it can't be had.
func (e *Engine) Code(id [32]byte) *wazerohook.Code {
	e.using.RLock()
	defer e.using.RUnlock()
	if e.ended {
		return nil
	}
	own := e.code()
	if own == nil {
		return nil
	}
	c, _ := own.Code(id)
	return c
}

// SharingWorks finds out, once per process, whether code that one engine of this wazero has loaded
// runs in another.
func SharingWorks() error { return works(&sharing, checkSharing) }

func checkSharing() error {
	ctx, engines := context.Background(), &Engines{Config: wazero.NewRuntimeConfig()}
	code, err := canaryCode(ctx, engines)
	if err != nil {
		return fmt.Errorf("sharing: %w", err)
	}
	r, e, err := engines.Open(ctx)
	if err != nil {
		return fmt.Errorf("sharing: %w", err)
	}
	defer r.Close(ctx)
	if _, err := e.Compile(ctx, r, wazerohook.Canary(), code); err != nil {
		return fmt.Errorf("sharing: %w", err)
	}
	got, err := runCanary(ctx, r, wazerohook.Canary())
	switch {
	case err != nil:
		return fmt.Errorf("sharing: %w", err)
	case got != wazerohook.CanaryResult:
		return fmt.Errorf("sharing: shared code returned %d, not %d", got, wazerohook.CanaryResult)
	}
	return nil
}

// canaryCode returns the canary's code out of an engine that has ended since.
func canaryCode(ctx context.Context, engines *Engines) (*wazerohook.Code, error) {
	r, e, err := engines.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer r.Close(ctx)
	done := e.AnnounceAny()
	defer done()
	if _, err := e.Compile(ctx, r, wazerohook.Canary(), nil); err != nil {
		return nil, err
	}
	code := e.Code(wazerohook.ModuleID(wazerohook.Canary(), false))
	if code == nil {
		return nil, fmt.Errorf("%w: an engine", wazerohook.ErrShape)
	}
	return code, nil
}
