package modcache

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/breaker"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/loaded"
	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wazerocache"
	"github.com/modcache/modcache/internal/wazerohook"
)

// compile compiles the module in an engine of its own. The entry is nil if wazero never offered the
// code, as its interpreter doesn't. keep stores the code, and must be called; it does nothing if the code can't be
// checked. look hasn't found any.
func (e *engine) compile(ctx context.Context, src *source, look *lookup) (_ *wazerohook.Entry, keep func(), err error) {
	c, keep := e.c, func() {}
	if err := e.prove(); err != nil { // Warm comes here directly
		return nil, keep, err
	}
	free, err := c.compileSlot(ctx)
	if err != nil {
		return nil, keep, src.failed(err)
	}
	defer free()
	wasm, err := src.compilable()
	if err != nil {
		return nil, keep, err
	}
	code, took, shared, err := e.compileSource(ctx, src)
	if err != nil {
		return nil, keep, err
	}
	src.compiled.Store(true)
	if code == nil {
		c.degrade("storing of code", errors.New("wazero does not offer it"))
		return nil, keep, nil
	}
	c.loaded.Garbage.Add(loaded.Footprint(int64(len(code)))) // wazero's copy of it
	loaded.Reclaim(int64(len(code)))                         // before there is another
	entry, err := wazerohook.ReadEntry(bytes.NewReader(code), int64(len(code)), e.wazero.Version, src.functions())
	if err != nil {
		c.degrade(featureLayout, err)
		return wazerohook.Unchecked(code), keep, nil
	}
	return entry, func() {
		home, aliases := src.sum, []Key(nil)
		switch {
		case shared:
			home, aliases = e.home(src, look), slices.Compact([]Key{src.key, src.canonical().key})
		case look.place(src.key).leads != Fingerprint{}:
			look.delete(src.key, look.place(src.key).alias) // its alias, which leads nowhere, or to code that isn't to be shared
		}
		at := e.key(home)
		// It is worth keeping even if everybody has left by now.
		var fits bool
		_, src.added, fits = c.put(at, code, Info{Module: home, Name: src.name(), WasmSize: int64(len(wasm)), CompileTime: took})
		for _, key := range aliases {
			if key != at && fits {
				c.putAlias(key, home, src.name())
			}
		}
	}, nil
}

// compileSlot waits until another module may be compiled.
func (c *Cache) compileSlot(ctx context.Context) (free func(), err error) {
	if c.compiles == nil {
		return func() {}, context.Cause(ctx)
	}
	if c.compiles.Acquire(ctx, 1) != nil {
		return nil, context.Cause(ctx)
	}
	return func() { c.compiles.Release(1) }, nil
}

// compileSource compiles the canonical encoding where other spellings may share
// the code, which shared says, and else the module itself.
func (e *engine) compileSource(ctx context.Context, src *source) (code []byte, took time.Duration, shared bool, err error) {
	s := src.canonical()
	if s == nil || s.key == src.key {
		code, took, err = e.compileScratch(ctx, src, src.own())
		return code, took, s != nil, err
	}
	// By default, compiling leaves a core free.
	refused := errPanicked
	var validating sync.WaitGroup
	if wasmbin.SameCode(src.own(), s.wasm) {
		refused = nil // what a stub hides is validated below, and the rest when the stub is loaded
	} else {
		validating.Go(func() {
			// Should it panic, the compile below does too, where the caller can catch it.
			_ = contain.Call(func() error { refused = wazerocache.Validate(ctx, e.config, src.own()); return nil })
		})
	}
	defer validating.Wait()
	code, took, err = e.compileScratch(ctx, src, s.wasm)
	validating.Wait()
	switch {
	case refused != nil && !errors.Is(refused, errPanicked):
		return nil, took, false, refused // the error of the module as it is
	case err == nil && refused == nil:
		return code, took, true, nil
	case ctx.Err() != nil:
		return nil, took, false, err
	}
	if code, took, err = e.compileScratch(ctx, src, src.own()); err == nil {
		e.c.degrade("sharing of a module's spellings", errors.New("its canonical encoding does not compile"))
	}
	return code, took, false, err
}

// errPanicked is what an event says of a compile that panicked in wazero.
var errPanicked = errors.New("wazero panicked")

// compileScratch compiles wasm, which is src or stands for it, in an engine that is thrown away.
func (e *engine) compileScratch(ctx context.Context, src *source, wasm []byte) (code []byte, took time.Duration, err error) {
	took, err = e.c.compileObserved(ctx, src, wasm, func() (n int, err error) {
		code, err = wazerocache.Compile(e.c.withWorkers(ctx), e.config, wasm, sealSize)
		return len(code), err
	})
	return code, took, err
}

// compileObserved has compile compile wasm, to so many bytes, counted and reported.
func (c *Cache) compileObserved(ctx context.Context, src *source, wasm []byte, compile func() (size int, err error)) (took time.Duration, err error) {
	c.emit(Event{Kind: EventCompileStarted, Key: src.key, Name: src.name(), Bytes: int64(len(wasm))})
	_, end := c.begin(ctx, Step{Kind: StepCompile, Key: src.key, Name: src.name(), Bytes: int64(len(wasm))})
	c.counters.compiles.Add(1)
	start := time.Now()
	size := 0
	err = errPanicked // unless it returns
	defer func() {
		took = time.Since(start)
		c.counters.compileTime.Add(int64(took))
		if err != nil {
			c.counters.compileErrors.Add(1)
		}
		end(StepEnd{Bytes: int64(size), Err: err})
		c.emit(Event{Kind: EventCompileFinished, Key: src.key, Name: src.name(), Bytes: int64(size), Duration: took, Err: err})
	}()
	size, err = compile()
	return took, err
}

// withWorkers sets Options.Workers, unless the caller has set something.
func (c *Cache) withWorkers(ctx context.Context) context.Context {
	if experimental.GetCompilationWorkers(ctx) > 1 {
		return ctx
	}
	return experimental.WithCompilationWorkers(ctx, c.opts.Workers)
}

// lock takes the store's lock on key, for the module of that name, if it has any. locked says that somebody
// else may have been there before.
func (c *Cache) lock(ctx context.Context, key Key, name string) (unlock func(), locked bool) {
	locker, ok := c.Store().(Locker)
	if !ok || c.opts.LockWait < 0 || c.readOnly() {
		return func() {}, false
	}
	type answer struct {
		release func()
		err     error // of somebody's who may hold it, which isn't that the store hangs
	}
	lock := func(ctx context.Context, _ Store) (got answer, _ error) {
		got.err = contain.Call(func() (err error) { got.release, err = locker.Lock(withName(ctx, name), key); return err })
		return got, nil
	}
	unlock = func() {}
	free := func(release func()) {
		if release == nil {
			return
		}
		if err := c.locks.GiveBack(storeWait, func() error { release(); return nil }); err != nil {
			c.storeFailed("unlock", key, name, err)
		}
	}
	wait := c.opts.LockWait
	verdict := c.held.Ask()
	if verdict == breaker.No {
		wait = min(wait, heldWait)
	}
	_, end := c.begin(ctx, Step{Kind: StepWait, Key: key, Name: name})
	start := time.Now()
	got, err := ask(ctx, c, c.locks, max(wait, wait+bounded.Grace), lock, func(late answer) { free(late.release) })
	err = cmp.Or(err, got.err)
	end(StepEnd{Err: err})
	switch {
	case err == nil && got.release != nil:
		c.health.worked("lock")
		unlock = func() { free(got.release) }
		if time.Since(start) > heldWait { // whoever had it let it go
			c.held.Succeed()
		}
	case err == nil:
		c.storeFailed("lock", key, name, errors.New("no way to unlock"))
	case ctx.Err() == nil && errors.Is(got.err, context.DeadlineExceeded) && !errors.Is(got.err, bounded.ErrNoAnswer):
		c.held.Fail(breaker.Hard, 0)
	case ctx.Err() == nil:
		c.storeFailed("lock", key, name, err)
	}
	if verdict == breaker.Probe {
		c.held.Abstain() // unless that said something
	}
	return unlock, true
}
