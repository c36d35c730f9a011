package wazerohook

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"reflect"
	"slices"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
)

// Wazero is what is known about the wazero that is linked into this program.
type Wazero struct {
	// Version is what it calls itself in its entries. It belongs into keys: one wazero calls
	// itself by its version in a program and "dev" in a test, and either takes the
	// other's entries for stale.
	Version string

	// CPU is wazero's word of CPU features, a part of its keys.
	CPU uint64
	// KeysKnown says that [Wazero.Key] predicts keys, and that listeners in a
	// context can be seen. Without it, only what wazero asks for by itself can
	// be served.
	KeysKnown bool

	// CanaryEntry is what the [Canary] was compiled to.
	CanaryEntry []byte

	// Under which a context carries its listener factory, and how many workers compile.
	listenerKey, workersKey any
}

// ErrInterpreter means that wazero interprets, and so never
// asks its cache for anything.
var ErrInterpreter = fmt.Errorf("wazero interprets, as it has no compiler for this platform or is told to")

// Probe compiles a module of a few bytes and watches what wazero does. What it
// learns are constants of the process, so it does this once, unless that fails for what may pass. It takes half a
// millisecond, which the start of a program should not wait for: see [Look].
func Probe() (*Wazero, error) { return process.Of(diagnosed) }

// process isn't a sync.OnceValues, because that would have every program that
// imports this package link all of wazero.
var process Finding[*Wazero]

func diagnosed() (*Wazero, error) {
	w, err := probe()
	return w, diagnose(err)
}

// canary is (module (func (export "f") (result i32) i32.const 42)).
var canary = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x05\x01\x60\x00\x01\x7f" + "\x03\x02\x01\x00" + "\x07\x05\x01\x01f\x00\x00" + "\x0a\x06\x01\x04\x00\x41\x2a\x0b")

// Canary returns a small valid module whose export f returns CanaryResult.
func Canary() []byte { return append([]byte(nil), canary...) }

// CanaryResult is what the canary's function returns.
const CanaryResult = 42

func probe() (w *Wazero, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: compiling a probe panicked: %v", ErrShape, r)
		}
	}()
	seen := &probeCache{}
	ctx := &probeContext{Context: context.Background()}
	if err := seen.compile(ctx, wazero.NewRuntimeConfig(), canary); err != nil {
		return nil, err
	}
	key, entry, gets := seen.last()
	if gets == 0 {
		return nil, ErrInterpreter
	}
	w = &Wazero{CanaryEntry: entry}
	if w.Version, err = readVersion(entry); err != nil {
		return nil, err
	}
	w.listenerKey = ctx.listenerKey()
	w.workersKey = ctx.keyOf(experimental.WithCompilationWorkers(context.Background(), 2), 2)
	w.KeysKnown = w.listenerKey != nil && w.learnCPU(key, false) && w.unknownValue(ctx) == nil
	return w, nil
}

// ByteTables reports whether this wazero takes one byte for the type of a table, whatever it is, as before v1.12.
var ByteTables = sync.OnceValue(func() bool {
	const imported = "\x00asm\x01\x00\x00\x00" + "\x02\x09\x01\x01a\x01b\x01" + "\x63\x00\x00" // or a type that has no limits
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	defer r.Close(ctx)
	_, err := r.CompileModule(ctx, []byte(imported))
	return err == nil
})

// readVersion takes the version from the canary's entry.
func readVersion(entry []byte) (string, error) {
	if len(entry) < len(entryMagic)+1 || string(entry[:len(entryMagic)]) != entryMagic {
		return "", fmt.Errorf("%w: an entry begins with %.7q", ErrShape, entry)
	}
	b := entry[len(entryMagic)+1:]
	version := string(b[:min(len(b), int(entry[len(entryMagic)]))])
	e, err := ReadEntry(bytes.NewReader(entry), int64(len(entry)), version, 1)
	if err != nil || e.CheckCode() != nil {
		return "", fmt.Errorf("%w: an entry of %d bytes has an unknown layout", ErrShape, len(entry))
	}
	return version, nil
}

// learnCPU finds the word of CPU features that explains the canary's key. There are a
// handful of features, numbered from bit 0.
func (w *Wazero) learnCPU(key WazeroKey, closeOnContextDone bool) bool {
	id := moduleID(canary, nil, closeOnContextDone)
	for cpu := range uint64(1 << 10) {
		if keyOfID(id, cpu) == key {
			w.CPU = cpu
			return true
		}
	}
	return false
}

// Key predicts what wazero asks its cache for when it compiles wasm without
// listeners.
func (w *Wazero) Key(wasm []byte, closeOnContextDone bool) WazeroKey {
	return w.KeyOf(ModuleID(wasm, closeOnContextDone))
}

// KeyOf is Key for a module whose ID is known.
func (w *Wazero) KeyOf(id [32]byte) WazeroKey { return keyOfID(id, w.CPU) }

// ModuleID predicts what wazero calls a module without listeners in an engine's memory. It is
// right if keys are known, as it is a part of them.
func ModuleID(wasm []byte, closeOnContextDone bool) [32]byte {
	return moduleID(wasm, nil, closeOnContextDone)
}

// probeCache is an empty cache that remembers the last module.
type probeCache struct {
	mu    sync.Mutex // wazero might ask from anywhere
	gets  int
	key   WazeroKey
	entry []byte
}

// compile compiles wasm over the cache, in a runtime of its own.
func (c *probeCache) compile(ctx context.Context, rc wazero.RuntimeConfig, wasm []byte) error {
	cc := wazero.NewCompilationCache()
	if _, err := Plug(cc, c); err != nil {
		return err
	}
	rt := wazero.NewRuntimeWithConfig(ctx, rc.WithCompilationCache(cc))
	defer rt.Close(ctx)
	m, err := rt.CompileModule(ctx, wasm)
	if err != nil {
		return fmt.Errorf("%w: compiling a probe: %v", ErrShape, err)
	}
	return m.Close(ctx)
}

func (c *probeCache) last() (key WazeroKey, entry []byte, gets int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.key, c.entry, c.gets
}

func (c *probeCache) Get(key WazeroKey) (io.ReadCloser, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gets++
	c.key = key
	return nil, false, nil
}

func (c *probeCache) Add(_ WazeroKey, content io.Reader) error {
	entry, err := io.ReadAll(content)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entry = entry
	return err
}

func (c *probeCache) Delete(WazeroKey) error { return nil }

// probeContext remembers what it is asked for: wazero's context keys are of
// unexported types, so this is how one gets hold of them.
type probeContext struct {
	context.Context
	mu    sync.Mutex
	asked []any
}

func (c *probeContext) Value(key any) any {
	c.mu.Lock()
	c.asked = append(c.asked, key)
	c.mu.Unlock()
	return c.Context.Value(key)
}

func (c *probeContext) keys() []any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.asked)
}

// listenerKey is the key under which a context carries its listener factory, or nil.
func (c *probeContext) listenerKey() any {
	factory := experimental.FunctionListenerFactoryFunc(nil)
	return c.keyOf(experimental.WithFunctionListenerFactory(context.Background(), factory), factory)
}

// keyOf finds the key that was asked for and has a value of the type of like in ctx, or
// returns nil.
func (c *probeContext) keyOf(ctx context.Context, like any) any {
	for _, key := range c.keys() {
		if v := ctx.Value(key); v != nil && reflect.TypeOf(v) == reflect.TypeOf(like) {
			return key
		}
	}
	return nil
}
