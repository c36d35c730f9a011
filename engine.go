package modcache

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/zeebo/blake3"

	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wazerohook"
)

const platform = runtime.GOOS + "/" + runtime.GOARCH

// engine is what all runtimes of one configuration share: a wazero engine of
// their own, never shared with anybody else's, in which machine code is found by stub.
type engine struct {
	c         *Cache
	config    wazero.RuntimeConfig // with our private cache in it
	term      bool                 // closes on context done, a part of wazero's keys
	debugInfo bool                 // line numbers in stack traces, from DWARF
	base      [32]byte             // hash of everything in a key but the module
	stubs     bool
	expect    *expectations

	// Guarded by Cache.mu.
	hot      map[Key]*hot
	flights  map[Key]*flight[*hot]
	drafting map[int]bool // sizes of modules
}

// engineFor returns the engine for a configuration, or nil if it can't be
// handled: then the runtime is wazero's own.
func (c *Cache) engineFor(rc wazero.RuntimeConfig) (*engine, error) {
	conf, err := wazerohook.ReadConfig(rc)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	e := c.engines[conf.Fields]
	c.mu.Unlock()
	if e != nil {
		return e, nil
	}
	e = &engine{
		c: c, term: conf.CloseOnContextDone, debugInfo: conf.DebugInfo,
		expect:   &expectations{},
		hot:      make(map[Key]*hot),
		flights:  make(map[Key]*flight[*hot]),
		drafting: make(map[int]bool),
	}
	cc := wazero.NewCompilationCache()
	if _, err := wazerohook.Plug(cc, e.expect); err != nil {
		return nil, err
	}
	e.config = rc.WithCompilationCache(cc)
	if !c.opts.FullDecode {
		err := stubsWork()
		if e.stubs = err == nil; err != nil {
			c.degrade("stubs", err)
		}
	}

	h := blake3.New()
	_, _ = h.WriteString("modcache runtime 1\x00" + platform + "\x00")
	_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, c.wazero.CPU))
	for _, s := range []string{c.engine, c.wazero.Format.String(), conf.Fields} {
		_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
		_, _ = h.WriteString(s)
	}
	h.Sum(e.base[:0])

	c.mu.Lock()
	defer c.mu.Unlock()
	if first := c.engines[conf.Fields]; first != nil {
		return first, nil
	}
	c.engines[conf.Fields] = e
	return e, nil
}

// key names the artifact of a module: it covers the module, the engine, the
// platform, the CPU and every setting of the configuration.
func (e *engine) key(module Fingerprint) Key {
	var b [64]byte
	copy(b[:], e.base[:])
	copy(b[32:], module[:])
	return blake3.Sum256(b[:])
}

// errPanicked is what an observer is told of a compile that panicked in wazero.
var errPanicked = errors.New("modcache: wazero panicked")

// errModified means that a module's bytes are not those that were fingerprinted.
var errModified = errors.New("modcache: the bytes were changed while the module was in use")

// errLeaderClosed means that the runtime a load was done for was closed on the
// way. It says nothing about the others that wait for it.
var errLeaderClosed = errors.New("modcache: the runtime was closed")

// loading brings one module's machine code into the engine.
type loading struct {
	e     *engine
	r     *Runtime // the one that compiles what the code is loaded by
	key   Key
	src   *source
	spelt func() *spelling
}

// load brings a module's machine code into the engine by compiling something in
// r: the code from the store if it is there, or else new code.
func (e *engine) load(ctx context.Context, slow func(), r *Runtime, key Key, src *source) (*hot, error) {
	l := &loading{e: e, r: r, key: key, src: src}
	l.spelt = sync.OnceValue(func() *spelling { return e.canonical(src) })
	ctx = WithCompileEstimate(ctx, l.estimate(ctx))
	var why whyMissed
	if h, err := l.find(ctx, &why); h != nil || err != nil {
		return h, err
	}
	if e.c.opts.RequireHit {
		e.c.miss(key, why)
		return nil, fmt.Errorf("%w: module %v, key %v", ErrMiss, src.sum, key)
	}
	slow()
	return l.build(ctx, &why)
}

// compilePerByte is what wazero takes for a byte of the code section, on one core: from
// 290 to 540 ns for large modules on a free machine, from 360 to 1300 for all on a busy one.
const compilePerByte = 500 * time.Nanosecond

// estimate returns about how long compiling the module is going to take.
func (l *loading) estimate(ctx context.Context) time.Duration {
	var code int
	l.src.read(func(wasm []byte) {
		code = len(wasm)
		if outline, err := wasmbin.Scan(wasm); err == nil {
			code = outline.CodeSize()
		}
	})
	workers := experimental.GetCompilationWorkers(l.e.c.withWorkers(ctx))
	return max(1, time.Duration(code)*compilePerByte/time.Duration(max(1, workers)))
}

// find loads the module's code from the store. It returns nil if it isn't there or
// can't be used.
func (l *loading) find(ctx context.Context, why *whyMissed) (*hot, error) {
	a, at := l.e.fetch(ctx, l.key, why)
	if a != nil {
		if h, err := l.placeStored(a, at, why); h != nil || err != nil {
			return h, err
		}
	}
	return l.findShared(ctx, why)
}

// build loads new code, unless another process has made some meanwhile.
func (l *loading) build(ctx context.Context, why *whyMissed) (*hot, error) {
	e, c := l.e, l.e.c
	common := l.key
	if s := l.spelt(); s != nil {
		common = s.key
	}
	unlock, locked := c.lock(ctx, common)
	defer unlock()
	if locked {
		// Another process may have compiled it while we waited.
		if h, err := l.find(ctx, why); h != nil || err != nil {
			return h, err
		}
	}
	c.miss(l.key, *why)
	a, err := e.compile(ctx, l.key, l.src, l.spelt())
	if err != nil {
		return nil, err
	}
	if a != nil {
		h, err := e.place(l.r, l.key, l.src, a)
		if err == nil || errors.Is(err, errLeaderClosed) {
			return h, err
		}
		// Code that was compiled a moment ago doesn't load.
		c.degrade("loading of fresh code", err)
	}
	return e.direct(l.r, l.key, l.src)
}

// placeStored places an artifact from the store, and closes it.
func (l *loading) placeStored(a *Artifact, at Key, why *whyMissed) (*hot, error) {
	defer discard(a)
	h, err := l.e.place(l.r, l.key, l.src, a)
	switch {
	case err == nil:
		l.e.c.hit(l.key, a)
		return h, nil
	case errors.Is(err, errLeaderClosed):
		return nil, err
	}
	l.e.c.reject(at, err, why)
	return nil, nil
}

// place has wazero load the code of an artifact into the engine, in the name of
// a stub, or of the module where there can't be one.
func (e *engine) place(r *Runtime, key Key, src *source, a *Artifact) (*hot, error) {
	image, functions, stubbed := e.image(key, src)
	entry, err := wazerohook.ReadEntry(guardedReader{a}, a.Size()-sealSize, e.c.wazero.Format, functions)
	if err != nil {
		return nil, err
	}
	// wazero decodes the image before it asks for the key, which is time enough to
	// predict it on another core.
	predicted := sync.OnceValue(func() wazerohook.WazeroKey { return e.c.wazero.Key(image, e.term) })
	var predicting sync.WaitGroup
	predicting.Go(func() { predicted() })
	defer predicting.Wait()
	done := e.expect.announce(predicted, entry)
	defer done()
	cm, err := r.compileImage(image)
	if err != nil {
		if readErr := done(); readErr != nil {
			err = readErr
		}
		return nil, err
	}
	if stubbed {
		e.c.counters.stubbed.Add(1)
	}
	return newHot(e, key, src, image, entry.CodeLen(), cm), nil
}

// image returns what stands for the module in the engine, and how many functions
// the module defines. The image is a copy: callers may change the module's bytes as soon as
// the compile has returned.
func (e *engine) image(key Key, src *source) (image []byte, functions int, stubbed bool) {
	d := src.drafted(e)
	if d.stub != nil {
		return d.stub.Stub(append(key[:], e.c.secret[:]...)), d.functions, true
	}
	src.read(func(wasm []byte) { image = bytes.Clone(wasm) })
	return image, d.functions, false
}

// compile compiles the module in an engine of its own, and stores the code. It returns
// no artifact if wazero never offered the code, as its interpreter doesn't.
func (e *engine) compile(ctx context.Context, key Key, src *source, s *spelling) (*Artifact, error) {
	c := e.c
	free, err := c.compileSlot(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	wasm, err := src.sound()
	if err != nil {
		return nil, err
	}
	code, took, shared, err := e.compileSpelling(ctx, key, src, s)
	if err != nil || code == nil {
		return nil, err
	}
	c.idle.discard(footprint(int64(len(code)), nil)) // wazero's copy of it
	// It is worth keeping even if everybody has left by now.
	a := c.put(c.ctx, key, code, Info{Module: src.sum, WasmSize: int64(len(wasm)), CompileTime: took})
	if shared {
		c.putAlias(s.key, src.sum)
	}
	return a, nil
}

// compileSlot waits until another module may be compiled.
func (c *Cache) compileSlot(ctx context.Context) (free func(), err error) {
	if c.compiles == nil {
		return func() {}, context.Cause(ctx)
	}
	select {
	case c.compiles <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	free = func() { <-c.compiles }
	if ctx.Err() != nil { // both were possible
		free()
		return nil, context.Cause(ctx)
	}
	return free, nil
}

// compileObserved is compileAlone, counted and reported.
func (e *engine) compileObserved(ctx context.Context, key Key, wasm []byte) (code []byte, took time.Duration, err error) {
	c := e.c
	c.emit(Event{Kind: EventCompileStarted, Key: key, Bytes: int64(len(wasm))})
	c.counters.compiles.Add(1)
	start := time.Now()
	err = errPanicked // unless it returns
	defer func() {
		took = time.Since(start)
		c.counters.compileTime.Add(int64(took))
		if err != nil {
			c.counters.compileErrors.Add(1)
		}
		c.emit(Event{Kind: EventCompileFinished, Key: key, Bytes: int64(len(code)), Duration: took, Err: err})
	}()
	code, err = e.compileAlone(ctx, wasm)
	return code, took, err
}

// compileAlone returns the code that wazero compiles wasm to.
func (e *engine) compileAlone(ctx context.Context, wasm []byte) ([]byte, error) {
	seen := &capture{}
	r, err := pluggedRuntime(ctx, e.config, seen)
	if err != nil {
		return nil, err
	}
	defer r.Close(ctx)
	cm, err := r.CompileModule(e.c.withWorkers(ctx), wasm)
	if err != nil {
		return nil, err
	}
	return seen.code, cm.Close(ctx)
}

// withWorkers sets Options.Workers, unless the caller has set something.
func (c *Cache) withWorkers(ctx context.Context) context.Context {
	if experimental.GetCompilationWorkers(ctx) > 1 {
		return ctx
	}
	return experimental.WithCompilationWorkers(ctx, c.opts.Workers)
}

// direct compiles the module in r as wazero would without us. It is what remains
// when everything else has failed.
func (e *engine) direct(r *Runtime, key Key, src *source) (*hot, error) {
	image := src.own()
	wk := e.c.wazero.Key(image, e.term)
	done := e.expect.announce(func() wazerohook.WazeroKey { return wk }, nil)
	defer done()
	cm, err := r.compileImage(image)
	if err != nil {
		return nil, err
	}
	return newHot(e, key, src, image, codeGrowth*int64(len(image)), cm), nil
}

// lock takes the store's lock on key, if it has any. locked says that somebody
// else may have been there before.
func (c *Cache) lock(ctx context.Context, key Key) (unlock func(), locked bool) {
	locker, ok := c.store.(Locker)
	if !ok || c.opts.LockWait < 0 || c.opts.ReadOnly {
		return func() {}, false
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.LockWait)
	defer cancel()
	var release func()
	err := guard("lock", func() (err error) {
		if release, err = locker.Lock(ctx, key); err == nil && release == nil {
			err = errors.New("no way to unlock")
		}
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			c.storeFailed("lock", key, err)
		}
		return func() {}, true
	}
	return func() {
		if err := guard("unlock", func() error { release(); return nil }); err != nil {
			c.storeFailed("unlock", key, err)
		}
	}, true
}
