package modcache

import (
	"encoding/binary"
	"runtime"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/zeebo/blake3"

	"github.com/modcache/modcache/internal/loaded"
	"github.com/modcache/modcache/internal/wazerocache"
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
	announced *wazerocache.Announced
	loaded    *loaded.Engine
}

// engineFor returns the engine for a configuration, or an error if it can't be
// handled: then the runtime is wazero's own.
func (c *Cache) engineFor(rc wazero.RuntimeConfig) (*engine, error) {
	conf, err := wazerohook.ReadConfig(rc)
	if err != nil {
		return nil, err
	}
	if e, ok := c.engines.Load(conf.Fields); ok {
		return e.(*engine), nil
	}
	if conf.Fields != defaultFields() { // which were probed with the process
		layout, err := c.wazero.Prove(rc, conf)
		if err != nil {
			return nil, err
		}
		if layout != nil {
			c.degrade(featureLayout, layout)
		}
	}
	e := &engine{
		c: c, term: conf.CloseOnContextDone, debugInfo: conf.DebugInfo, base: c.keyBase(conf),
		announced: &wazerocache.Announced{}, loaded: c.loaded.NewEngine(),
	}
	cc := wazero.NewCompilationCache()
	if _, err := wazerohook.Plug(cc, e.announced); err != nil {
		return nil, err
	}
	e.config = rc.WithCompilationCache(cc)
	if !c.opts.FullDecode {
		err := wazerocache.StubsWork()
		if e.stubs = err == nil; err != nil {
			c.degrade("stubs", err)
		}
	}
	e.loaded.OnRetire = func() { c.engines.CompareAndDelete(conf.Fields, e) }
	first, _ := c.engines.LoadOrStore(conf.Fields, e)
	return first.(*engine), nil
}

// defaultFields are the settings of a default configuration.
var defaultFields = sync.OnceValue(func() string {
	conf, _ := wazerohook.ReadConfig(wazero.NewRuntimeConfig())
	return conf.Fields
})

// featureLayout is off where code can't be checked before it is loaded: it isn't stored.
const featureLayout = "caching of modules whose code has an unknown layout"

// keyBase hashes what keys of one configuration have in common.
func (c *Cache) keyBase(conf wazerohook.Config) (base [32]byte) {
	h := blake3.New()
	_, _ = h.WriteString("modcache runtime 1\x00" + platform + "\x00")
	_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, c.wazero.CPU))
	for _, s := range []string{c.engineID, c.wazero.Format.String(), conf.Fields} {
		_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
		_, _ = h.WriteString(s)
	}
	h.Sum(base[:0])
	return base
}

// key names the artifact of a module: it covers the module, the engine, the
// platform, the CPU and every setting of the configuration.
func (e *engine) key(module Fingerprint) Key {
	var b [64]byte
	copy(b[:], e.base[:])
	copy(b[32:], module[:])
	return blake3.Sum256(b[:])
}
