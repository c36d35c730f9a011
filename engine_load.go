package modcache

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/loaded"
	"github.com/modcache/modcache/internal/wazerocache"
	"github.com/modcache/modcache/internal/wazerohook"
)

// loading brings one module's machine code into the engine, by compiling something in
// a runtime: what stands for the code from the store if it is there, or else for new code.
type loading struct {
	r    *Runtime // the one that compiles
	e    *engine
	c    *Cache
	src  *source
	look *lookup
}

func newLoading(r *Runtime, src *source) *loading {
	return &loading{r: r, e: r.e, c: r.c, src: src, look: src.lookup()}
}

func (l *loading) run(ctx context.Context) (*loaded.Code, error) {
	defer l.c.loaded.Garbage.Pace(1)
	if l.small() && l.c.newcomers.unmet(l.src.key) {
		return l.once(ctx)
	}
	defer l.look.miss(l.src.key) // if it fails, or wazero panics, before that is known
	if !l.c.opts.RequireHit {
		ctx = WithCompileEstimate(ctx, l.src.estimate(ctx))
	}
	if code, err := l.find(ctx); code != nil || err != nil {
		return code, err
	}
	if err := l.e.prove(); err != nil {
		l.look.ended = true // the drop-in looks for itself
		return nil, err
	}
	if l.c.opts.RequireHit {
		return nil, l.src.failed(fmt.Errorf("module %v is %w", l.src.sum, l.look.missing(l.src.sum)))
	}
	return l.build(ctx)
}

// small reports whether the module may be compiled for one use, and not stored.
func (l *loading) small() bool {
	return !l.src.wanted && !l.c.opts.RequireHit && l.src.codeSize() <= smallCode
}

// find loads the module's code from the store. It returns nil if it isn't there or
// can't be used.
func (l *loading) find(ctx context.Context) (*loaded.Code, error) {
	for again := true; again; {
		a, at := l.e.fetch(ctx, l.src.key, l.look)
		if a == nil {
			break
		}
		var code *loaded.Code
		var err error
		if code, again, err = l.loadStored(ctx, a, at); code != nil || err != nil {
			return code, err
		}
	}
	if ctx.Err() != nil {
		return nil, nil // nobody waits for it any more
	}
	return l.findShared(ctx)
}

// build loads new code, unless another process has made some meanwhile.
func (l *loading) build(ctx context.Context) (*loaded.Code, error) {
	common := l.src.key
	if s := l.src.canonical(); s != nil {
		common = s.key
	}
	unlock, locked := l.c.lock(ctx, common, l.src.name())
	defer unlock()
	if locked {
		// Another process may have compiled it while we waited, and put it anywhere.
		l.look.places = nil
		if code, err := l.find(ctx); code != nil || err != nil {
			return code, err
		}
	}
	l.look.miss(l.src.key)
	if l.small() {
		l.c.newcomers.stored()
	}
	entry, keep, err := l.e.compile(ctx, l.src, l.look)
	if err != nil {
		return nil, err
	}
	var keeping sync.WaitGroup
	keeping.Go(keep)
	defer keeping.Wait() // before another process gets the lock
	if entry != nil {
		code, err := l.loadEntry(ctx, wazerocache.Ready(entry))
		if err == nil || errors.Is(err, loaded.ErrClosed) {
			return code, err
		}
		// Code that was compiled a moment ago doesn't load.
		l.c.degrade("loading of fresh code", err)
	}
	return l.direct(context.WithoutCancel(ctx), false)
}

// loadStored loads an artifact from the store, and closes it. It returns nil if it can't
// be used, and whether the store may have another.
func (l *loading) loadStored(ctx context.Context, a *Artifact, at Key) (code *loaded.Code, again bool, err error) {
	defer l.c.release(a)
	code, err = l.load(ctx, a, at)
	switch {
	case err == nil:
		l.src.found.Store(true)
		l.look.hit(l.src.key, a)
		return code, false, nil
	case errors.Is(err, loaded.ErrClosed), errors.Is(err, errModified):
		return nil, false, err
	case ctx.Err() != nil: // nobody waits for it any more
		return nil, false, nil
	}
	if l.src.lent {
		if _, changed := l.src.verified(); changed != nil {
			return nil, false, changed // the artifact may be right
		}
	}
	l.c.suspects.Store(at, nil)
	return nil, l.look.reject(at, err), nil
}

// entry returns the entry in an artifact for the module. When wazero finds that the checksum of the code is wrong,
// it never unmaps what it has mapped for it. That happens once for a key: after it, we look before wazero does.
func (e *engine) entry(ctx context.Context, a *Artifact, at Key, src *source) (*wazerohook.Entry, error) {
	entry, err := e.c.readEntry(ctx, a, e.wazero.Version, src.functions())
	if _, suspect := e.c.suspects.Load(at); err == nil && suspect {
		if err = entry.CheckCode(); err != nil {
			entry.Discard()
		}
	}
	return entry, err
}

// load has wazero load the code of an artifact into the engine. It is read while wazero decodes what stands for the
// module.
func (l *loading) load(ctx context.Context, a *Artifact, at Key) (*loaded.Code, error) {
	if a.InMemory() {
		entry, err := l.e.entry(ctx, a, at, l.src)
		if err != nil {
			return nil, err
		}
		return l.loadEntry(ctx, wazerocache.Ready(entry))
	}
	var (
		entry   *wazerohook.Entry
		err     error
		reading sync.WaitGroup
	)
	ctx, cancel := context.WithCancel(ctx)
	reading.Go(func() { entry, err = l.e.entry(ctx, a, at, l.src) })
	defer func() {
		cancel()
		reading.Wait()
		entry.Discard() // if wazero didn't want it
	}()
	return l.loadEntry(ctx, func() (*wazerohook.Entry, error) {
		reading.Wait()
		return entry, err
	})
}

// loadEntry has wazero load the code in the name of a stub, or of the module where there
// can't be one. wazero asks for the entry when it has decoded that.
func (l *loading) loadEntry(ctx context.Context, entry wazerocache.Source) (_ *loaded.Code, err error) {
	var codeLen int64
	_, end := l.c.begin(ctx, Step{Kind: StepLoad, Key: l.src.key, Name: l.src.name()})
	defer func() { end(StepEnd{Bytes: codeLen, Err: err}) }()
	e := l.e
	image, stubbed, err := l.src.image()
	if err != nil {
		return nil, err
	}
	// wazero decodes the image before it asks for the key, which is time enough to
	// predict it on another core, if it takes long.
	id := sync.OnceValue(func() [32]byte { return wazerohook.ModuleID(image, e.conf.CloseOnContextDone) })
	if len(image) >= predictFrom {
		var predicting sync.WaitGroup
		predicting.Go(func() { id() })
		defer predicting.Wait()
	}
	key := func() wazerohook.WazeroKey { return e.wazero.KeyOf(id()) }
	done := l.r.own.Announce(key, entry)
	defer done()
	cm, err := l.r.compileInner(context.Background(), image, nil)
	if err != nil {
		if readErr := done(); readErr != nil {
			err = readErr
		}
		return nil, err
	}
	got, err := entry()
	if err != nil { // wazero hasn't asked
		return nil, err
	}
	codeLen = got.CodeLen()
	if stubbed {
		l.c.counters.stubbed.Add(1)
	}
	code := loaded.Loaded{
		Linkage: linkage(image), CodeLen: codeLen, Heap: l.src.heap(image, stubbed) + got.Heap(), WasmSize: l.src.size(),
	}
	l.trace(&code, cm)
	if code.WasmSize > lightModule || l.c.opts.RequireHit {
		code.Image = image
		if code.Native, err = l.r.native(cm); err != nil {
			return nil, err
		}
	}
	return l.r.loaded.NewCode(l.src.key, code, cm), nil
}

// trace has the lines that wazero reads for stack traces forgotten while nobody uses the code. Where that can't be, it isn't
// retained.
func (l *loading) trace(code *loaded.Loaded, cm wazero.CompiledModule) {
	if !l.src.debugged() {
		return
	}
	code.Traced = true
	if !wazerohook.ForgetLines(wazerocache.Inner(cm)) {
		code.Once = true
	}
}

// predictFrom is the size of an image from which it pays to start another goroutine.
const predictFrom = 32 << 10

// lightModule is up to which size of a module its image is made again for other runtimes, and its code is
// looked for where it was loaded. It takes microseconds, and keeping them a quarter of what wazero
// has on the heap for such a module. It may come to a compile in full, which RequireHit rules out.
const lightModule = 4 << 10

// codeGrowth is about how many times its wasm machine code is, where that is all
// there is to go by.
const codeGrowth = 5

// once compiles the module as wazero would without us, for those who want it now.
func (l *loading) once(ctx context.Context) (*loaded.Code, error) {
	if err := l.e.prove(); err != nil {
		return nil, err
	}
	free, err := l.c.compileSlot(ctx)
	if err != nil {
		return nil, l.src.failed(err)
	}
	defer free()
	wasm, err := l.src.compilable()
	if err != nil {
		return nil, err
	}
	l.c.counters.direct.Add(1)
	var code *loaded.Code
	_, err = l.c.compileObserved(ctx, l.src, wasm, func() (n int, err error) {
		code, err = l.direct(ctx, true)
		return 0, err
	})
	if err != nil {
		return nil, err
	}
	return code, nil
}

// direct has wazero compile the module in the engine itself. It is also what remains when
// everything else has failed. If it is for one use, the code isn't retained.
func (l *loading) direct(ctx context.Context, once bool) (*loaded.Code, error) {
	image := l.src.own()
	cm, err := l.r.compileFull(l.c.withWorkers(ctx), image)
	if err != nil {
		return nil, err
	}
	code := loaded.Loaded{
		Linkage: linkage(image), CodeLen: codeGrowth * int64(len(image)), Heap: l.src.heap(image, false), WasmSize: len(image), Once: once,
	}
	l.trace(&code, cm)
	if !once {
		code.Image = image
		if code.Native, err = l.r.native(cm); err != nil {
			return nil, err
		}
	}
	return l.r.loaded.NewCode(l.src.key, code, cm), nil
}
