package modcache

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/wazerocache"
	"github.com/modcache/modcache/internal/wazerohook"
)

// CompilationCache returns a wazero.CompilationCache over this Cache, for
// RuntimeConfig.WithCompilationCache. Each call returns a new one, which shares
// machine code in memory between the runtimes that are given it, and files with
// all of them; it needs no Close of its own, but may be closed when no runtime uses it any more.
//
// wazero up to v1.12 loads modules into a shared cache before they are complete:
// goroutines that compile one module at the same time, with one
// CompilationCache, may crash. A [Runtime] doesn't.
//
// wazero's name for a module tells neither debug info nor custom sections apart. If runtimes
// that differ in RuntimeConfig.WithDebugInfoEnabled share a store, stack
// traces have source lines or not as the runtime had that compiled the module.
// With a Runtime, each finds its own.
//
// wazero compiles by itself here: Metrics count the modules that it sets out to compile, but
// not what that took or whether it failed, and no event tells of it. None of
// Options.Workers, MaxCompiles and LockWait applies, so that processes which start at the
// same time each compile what they need.
//
// If modcache doesn't know this build of wazero, this is wazero's own in-memory cache.
//
// A whole program: examples/dropin.
func (c *Cache) CompilationCache() wazero.CompilationCache {
	if c.unsupported != nil {
		return wazero.NewCompilationCache() // as was reported when the Cache was made
	}
	// After Close too: modules are compiled then, unless a hit is required.
	cc, err := c.plugged()
	if err != nil {
		c.degrade(featureCache, err)
		return wazero.NewCompilationCache()
	}
	return cc
}

// plugged returns a cache of wazero's with our files, which wazero has been seen to take. The engine that
// shows it is the one that the first runtime would make.
func (c *Cache) plugged() (wazero.CompilationCache, error) {
	cc := wazero.NewCompilationCache()
	d := newDropIn(c, cc)
	if _, err := wazerohook.Plug(cc, d); err != nil {
		return nil, err
	}
	d.trial = true
	defer func() { d.trial = false }()
	return cc, wazerohook.Try(cc)
}

// Attach plugs this Cache into a wazero.CompilationCache that the program already has.
// It must come before the first runtime that is created with it, and nothing else may
// use cc meanwhile. If the wazero cache was created over a directory, that is no longer
// written, and read only with Options.TrustDirectory.
//
// Errors: [ErrUnsupportedWazero] if this build of wazero is unknown, [ErrClosed] after
// Close, and a plain one if cc isn't one of wazero's, if a runtime was created with it, or if a
// Cache is attached to it. cc is unchanged then.
func (c *Cache) Attach(cc wazero.CompilationCache) error {
	unsupported := func(err error) error {
		return &Error{Op: "attach", Err: fmt.Errorf("%w: %w", ErrUnsupportedWazero, err)}
	}
	switch {
	case c.Closed():
		return &Error{Op: "attach", Err: errCacheClosed}
	case c.unsupported != nil:
		return unsupported(c.unsupported)
	}
	if _, err := c.plugged(); err != nil { // cc can't be used again after that
		return unsupported(err)
	}
	d := newDropIn(c, cc)
	previous, err := wazerohook.Plug(cc, d)
	switch {
	case errors.Is(err, wazerohook.ErrInUse):
		return fmt.Errorf("modcache: attach before the first runtime is created with the cache: %w", err)
	case errors.Is(err, wazerohook.ErrForeign):
		return fmt.Errorf("modcache: attach to what wazero.NewCompilationCache or NewCompilationCacheWithDir returns: %w", err)
	case err != nil:
		return unsupported(err)
	}
	if other, ok := previous.(*dropIn); ok {
		// Put back what was there; this can't fail, it just worked.
		_, _ = wazerohook.Plug(cc, other)
		return errors.New("modcache: attach: a Cache is attached to this compilation cache already")
	}
	if c.opts.TrustDirectory {
		d.directory = previous
	}
	return nil
}

// dropIn is what wazero sees as the files of its cache. wazero fails a compile on any
// error it gets, so it gets none, but for the one that RequireHit asks for.
// No lock is held between a Get that misses and the Add that follows: a compile that fails
// never adds.
type dropIn struct {
	c         *Cache
	directory wazerohook.FileCache   // of wazero's own, if trusted
	version   func() (string, error) // of wazero, known once there is an engine
	trial     bool                   // nobody has the cache yet
}

var errTrial = errors.New("this is a trial")

func newDropIn(c *Cache, cc wazero.CompilationCache) *dropIn {
	return &dropIn{c: c, version: sync.OnceValues(func() (string, error) {
		version, err := wazerohook.Version(cc)
		if err != nil {
			c.degrade(featureCache, err)
		}
		return version, err
	})}
}

func (d *dropIn) Get(wk wazerohook.WazeroKey) (content io.ReadCloser, ok bool, err error) {
	c := d.c
	if d.trial {
		return nil, false, errTrial
	}
	if s := c.stubOf(wk); s != nil {
		return d.getStub(s)
	}
	key, err := d.key(wk)
	closed := c.Closed()
	look := &lookup{c: c} // of a module that wazero doesn't show
	if !closed && err == nil {
		get := func() (*Artifact, Key) { return look.get(c.ctx, key), key }
		if e := d.find(look, key, wazerohook.AnyFunctions, get); e != nil {
			return e.Open(nil), true, nil
		}
		if e := d.takeOver(key, wk); e != nil {
			return e.Open(nil), true, nil
		}
		look.miss(key)
		if !c.opts.RequireHit {
			c.counters.compiles.Add(1) // what wazero does next
		}
	}
	switch {
	case !c.opts.RequireHit:
		return nil, false, nil
	case closed:
		return nil, false, &Error{Op: "compile", Key: key, Err: fmt.Errorf("%w: %w", ErrMiss, errCacheClosed)}
	}
	return nil, false, &Error{Op: "compile", Key: key, Err: look.missing(Fingerprint{})}
}

// find returns what is in the first of the artifacts that get returns, and that can be used, or nil. It reads and verifies
// all of it, because wazero gives no second chance once it has begun to load one.
func (d *dropIn) find(look *lookup, key Key, functions int, get func() (a *Artifact, at Key)) *wazerohook.Entry {
	for again := true; again; {
		a, at := get()
		if a == nil {
			break
		}
		e, err := d.load(a, functions)
		d.c.release(a)
		if err == nil {
			look.name = cmp.Or(look.name, a.Info().Name)
			look.hit(key, a)
			return e
		}
		again = look.reject(at, err)
	}
	return nil
}

// load reads an artifact, so that nothing is asked of it any more.
func (d *dropIn) load(a *Artifact, functions int) (*wazerohook.Entry, error) {
	version, err := d.version()
	if err != nil {
		return nil, err
	}
	return d.c.readEntry(d.c.ctx, a, version, functions)
}

// takeOver looks the module up in the directory that the program gave to wazero,
// and keeps what it finds. What is damaged there stays, and is reported. A file system that hangs is
// left to itself, as that of a store is.
func (d *dropIn) takeOver(key Key, wk wazerohook.WazeroKey) *wazerohook.Entry {
	if d.directory == nil {
		return nil
	}
	c := d.c
	type found struct {
		code  []byte
		entry *wazerohook.Entry // nil: there is none
	}
	taken, err := bounded.Do(c.ctx, c.takeOvers, readWait(c.ctx), func(context.Context) (f found, err error) {
		r, ok, err := d.directory.Get(wk)
		if err != nil || !ok {
			return f, err
		}
		defer r.Close()
		if f.code, err = wazerocache.ReadAll(io.LimitReader(r, maxCode), sealSize); err != nil {
			return f, err
		}
		f.entry, err = d.checkEntry(f.code)
		return f, err
	}, nil)
	err = entryDamage(err)
	switch {
	case err == nil && taken.entry != nil:
		a, _, _ := c.put(key, taken.code, Info{})
		c.hit(key, a.Info().Name, a)
		return taken.entry
	case isDamage(err):
		c.corrupt(key, "", err)
	case err != nil:
		c.storeFailed("get", key, "", err)
	}
	return nil
}

// checkEntry checks code that nobody has sealed yet. Of what is stored, wazero compares the code with its
// checksum, and so did whoever stored it.
func (d *dropIn) checkEntry(code []byte) (*wazerohook.Entry, error) {
	version, err := d.version()
	if err != nil {
		return nil, err
	}
	e, err := wazerohook.ReadEntry(bytes.NewReader(code), int64(len(code)), version, wazerohook.AnyFunctions)
	if err != nil {
		return nil, err
	}
	return e, e.CheckCode()
}

func (d *dropIn) Add(wk wazerohook.WazeroKey, content io.Reader) error {
	if d.trial {
		return nil
	}
	if s := d.c.stubOf(wk); s != nil {
		return &Error{Op: "compile stub", Key: s.key, Err: errors.New("wazero compiled the stub instead of loading its code")}
	}
	key, err := d.key(wk)
	if err != nil || d.c.Closed() || !d.c.writes() {
		return nil
	}
	code, err := wazerocache.ReadAll(content, sealSize)
	if err != nil {
		return nil
	}
	small := len(code) <= codeGrowth*smallCode
	if small && !d.c.opts.RequireHit && d.c.newcomers.unmet(key) {
		d.c.counters.direct.Add(1)
		return nil
	}
	if _, err := d.checkEntry(code); err != nil {
		d.c.degrade(featureLayout, err)
		return nil
	}
	if small {
		d.c.newcomers.stored()
	}
	d.c.put(key, code, Info{})
	return nil
}

// Delete is called when wazero takes an entry for one of another version. Its key says which
// wazero wrote it, so that this means that Options.EngineID is stale. wazero compiles next.
func (d *dropIn) Delete(wk wazerohook.WazeroKey) error {
	if s := d.c.stubOf(wk); s != nil { // else wazero would go on to compile it
		return &Error{Op: "compile stub", Key: s.key, Err: errors.New("wazero does not accept the code")}
	}
	if key, err := d.key(wk); err == nil && !d.c.Closed() {
		(&lookup{c: d.c}).reject(key, fmt.Errorf("%w: wazero takes it for one of another version", ErrCorrupt))
	}
	return nil
}

// key binds wazero's own name for a module to the engine, which wazero leaves out of it.
func (d *dropIn) key(wk wazerohook.WazeroKey) (Key, error) {
	version, err := d.version()
	return d.c.dropInKey(wk, version), err
}

func (c *Cache) dropInKey(wk wazerohook.WazeroKey, version string) (key Key) {
	h := newHash()
	defer hashers.Put(h)
	_, _ = h.WriteString("modcache drop-in 1\x00" + platform + "\x00")
	h.Write(wk[:])
	_, _ = h.WriteString(version + "\x00" + c.engineID)
	h.Sum(key[:0])
	return key
}
