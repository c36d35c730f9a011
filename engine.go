package modcache

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/loaded"
	"github.com/modcache/modcache/internal/wazerocache"
	"github.com/modcache/modcache/internal/wazerohook"
)

const platform = runtime.GOOS + "/" + runtime.GOARCH

// engine is what all runtimes of one configuration share: keys, and the machine code that any of
// them has loaded. Each has an engine of wazero's of its own.
type engine struct {
	c       *Cache
	conf    wazerohook.Config
	config  wazero.RuntimeConfig
	engines *wazerocache.Engines
	wazero  *wazerohook.Wazero // what showed when the first runtime was made
	base    [32]byte           // hash of everything in a key but the module
	stubs   bool
	loaded  *loaded.Engine

	proving  sync.Once
	unproven atomic.Bool // wazero doesn't do what it should: this is a drop-in
}

// engineFor returns the engine for a configuration, or an error if that can't be handled. If r is the first runtime
// of that configuration, it is opened: what wazero does is looked at in it.
func (c *Cache) engineFor(ctx context.Context, rc wazero.RuntimeConfig, r *Runtime) (*engine, error) {
	conf, err := wazerohook.ReadConfig(rc)
	if err != nil {
		return nil, err
	}
	alone := false
	if found, ok := c.engines.Load(conf.Fields); ok {
		err := wazerocache.SharingWorks()
		if err == nil {
			return found.(*engine), nil
		}
		c.degrade("sharing of code between runtimes", err)
		alone = true
	}
	rc = rc.WithCompilationCache(nil)
	e := &engine{
		c: c, conf: conf, config: rc, engines: &wazerocache.Engines{Config: rc},
		stubs: !c.opts.FullDecode, loaded: c.loaded.NewEngine(),
	}
	e.loaded.Tidy = wazerocache.ForgetLines
	inner, own, err := e.engines.Open(ctx)
	if err != nil {
		return nil, err
	}
	drop := func() {
		_ = inner.Close(ctx)
		own.Close()
	}
	if e.wazero, err = wazerohook.Look(inner, own.Cache, conf, own.Asked, wazerocache.ErrUnexpected); err != nil {
		drop()
		return nil, err
	}
	e.base = e.keyBase()
	e.engines.Config = wazerohook.Compiled(rc) // as this one does
	if alone {
		r.inner, r.own = inner, own
		return e, nil
	}
	e.loaded.Share = func(cm wazero.CompiledModule) any {
		if code := wazerocache.CodeOf(cm); code != nil {
			return code
		}
		return nil
	}
	e.loaded.OnRetire = func() { c.engines.CompareAndDelete(conf.Fields, e) }
	first, found := c.engines.LoadOrStore(conf.Fields, e)
	if found {
		drop()
	} else {
		r.inner, r.own = inner, own
	}
	return first.(*engine), nil
}

// prove checks what wazero does by compiling and running tiny modules, before the first module
// is compiled. It takes about a millisecond, and nothing that is found in a store needs it: who
// stored that under a key of this engine's proved the same wazero before. If wazero fails, all
// runtimes of the configuration are those of a drop-in from here on; if it failed for what may pass, those
// that exist.
func (e *engine) prove() error {
	e.proving.Do(func() { e.judge(e.check()) })
	if e.unproven.Load() {
		return errUnproven
	}
	return nil
}

func (e *engine) judge(err error) {
	if err == nil {
		return
	}
	e.c.degrade("runtime", fmt.Errorf("%w: %w", errDropInOnly, err))
	e.unproven.Store(true)
	if wazerohook.Passes(err) {
		e.c.engines.CompareAndDelete(e.conf.Fields, e)
	}
}

// errUnproven means that nothing can be cached for runtimes of a configuration, as was reported.
var errUnproven = fmt.Errorf("nothing can be cached for this configuration: %w", ErrUnsupportedWazero)

func (e *engine) check() error {
	w, err := wazerohook.Probe()
	switch {
	case err != nil:
		return err
	case !w.KeysKnown:
		return wazerohook.ErrShape
	}
	if e.conf.Fields != defaultFields() { // which were probed with the process
		layout, err := w.Prove(e.config, e.conf)
		if err != nil {
			return err
		}
		if layout != nil {
			e.c.degrade(featureLayout, layout)
		}
	}
	return wazerocache.StubsWork()
}

// defaultFields are the settings of a default configuration.
var defaultFields = sync.OnceValue(func() string {
	conf, _ := wazerohook.ReadConfig(wazero.NewRuntimeConfig())
	return conf.Fields
})

// featureLayout is off where code can't be checked before it is loaded: it isn't stored.
const featureLayout = "caching of modules whose code has an unknown layout"

// keyBase hashes what keys of one configuration have in common.
func (e *engine) keyBase() (base [32]byte) {
	h := newHash()
	defer hashers.Put(h)
	_, _ = h.WriteString("modcache runtime 1\x00" + platform + "\x00")
	_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, e.wazero.CPU))
	for _, s := range []string{e.c.engineID, e.wazero.Version, e.conf.Fields} {
		_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
		_, _ = h.WriteString(s)
	}
	h.Sum(base[:0])
	return base
}

// key names the artifact of a module: it covers the module, the engine, the
// platform, the CPU and every setting of the configuration.
func (e *engine) key(module Fingerprint) Key {
	return hashed(e.base[:], module[:])
}
