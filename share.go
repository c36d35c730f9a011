package modcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wazerohook"
)

// Modules that differ in spelling only (names, producer notes, padded integers)
// share one artifact. The code lies under the key of the spelling that was compiled
// first. An alias under the key of the canonical encoding leads the others there,
// and each leaves an alias under its own key, so that its next start asks for nothing else.
//
// Code that is shared is compiled from the canonical encoding: what wazero
// would make of somebody's odd spelling is never served to others. And before a
// spelling may use another's code, wazero validates it, because the stub that it is
// loaded by has no bodies to refuse.

// aliasMagic begins an artifact that only names the module whose code it stands for.
const aliasMagic = "modcache alias 1\x00"

// fetch returns the artifact with the code for key, and the key that it lies under.
// An alias that leads nowhere is a miss, and so is one that leads to another. It
// names a module, not a key, so that it can't lead to code of another engine or configuration.
func (e *engine) fetch(ctx context.Context, key Key, why *whyMissed) (a *Artifact, at Key) {
	c := e.c
	a, size := c.lookup(ctx, key, why)
	if a == nil {
		return nil, key
	}
	module, ok, err := readAlias(a, size)
	if err == nil && !ok {
		return a, key
	}
	discard(a)
	if err != nil {
		c.reject(key, err, why)
		return nil, key
	}
	at = e.key(module)
	if a, size = c.lookup(ctx, at, why); a == nil {
		return nil, key
	}
	if _, ok, err = readAlias(a, size); ok {
		err = fmt.Errorf("%w: an alias leads to another alias", ErrCorrupt)
	}
	if err != nil {
		discard(a)
		c.reject(key, err, why)
		return nil, key
	}
	return a, at
}

// readAlias returns the module that the artifact is an alias for, if it is one.
func readAlias(a *Artifact, size int64) (module Fingerprint, ok bool, err error) {
	var b [len(aliasMagic) + len(module)]byte
	if size != int64(len(b)) {
		return module, false, nil
	}
	if n, err := (guardedReader{a}).ReadAt(b[:], 0); n < len(b) {
		return module, false, err
	}
	if string(b[:len(aliasMagic)]) != aliasMagic {
		return module, false, nil
	}
	copy(module[:], b[len(aliasMagic):])
	return module, true, nil
}

// putAlias leaves word under key that the code of module will do.
func (c *Cache) putAlias(key Key, module Fingerprint) {
	c.put(c.ctx, key, append([]byte(aliasMagic), module[:]...), Info{Module: module})
}

// spelling is the canonical encoding of a module, if other spellings may share
// its code.
type spelling struct {
	wasm []byte
	key  Key // of the encoding
}

// canonical returns nil for a module that shares with nobody: it is unusual, or
// its debug info refers to places in its very bytes.
func (e *engine) canonical(src *source) *spelling {
	if e.c.opts.ExactKeys {
		return nil
	}
	wasm, err := src.sound()
	if err != nil {
		return nil // the compile will tell
	}
	outline, err := wasmbin.Scan(wasm)
	if err != nil || outline.Shareable(e.debugInfo) != nil {
		return nil
	}
	b, err := wasmbin.Canonical(wasm, nil)
	if err != nil {
		return nil
	}
	return &spelling{wasm: b, key: e.key(Sum(b))}
}

// findShared loads the module with the code of another spelling, if there is any.
func (l *loading) findShared(ctx context.Context, why *whyMissed) (*hot, error) {
	if ctx.Err() != nil {
		return nil, nil // nobody waits for it any more
	}
	e, s := l.e, l.spelt()
	if s == nil || s.key == l.key {
		return nil, nil
	}
	a, at := e.fetch(ctx, s.key, why)
	if a == nil {
		return nil, nil
	}
	if err := e.validate(ctx, l.src); err != nil {
		discard(a)
		return nil, err
	}
	module := a.Info().Module
	h, err := l.placeStored(a, at, why)
	if h != nil && e.key(module) == at {
		e.c.putAlias(l.key, module)
	}
	return h, err
}

// compileSpelling compiles the canonical encoding where other spellings may share
// the code, and else the module itself. shared says that they may, and don't find it
// under key.
func (e *engine) compileSpelling(ctx context.Context, key Key, src *source, s *spelling) (code []byte, took time.Duration, shared bool, err error) {
	if s == nil || s.key == key {
		code, took, err = e.compileObserved(ctx, key, src.own())
		return code, took, false, err
	}
	// By default, compiling leaves a core free.
	refused := errPanicked
	var validating sync.WaitGroup
	validating.Go(func() {
		defer func() { _ = recover() }() // the compile below will panic in its place
		refused = e.validate(ctx, src)
	})
	defer validating.Wait()
	code, took, err = e.compileObserved(ctx, key, s.wasm)
	validating.Wait()
	switch {
	case refused != nil && !errors.Is(refused, errPanicked):
		return nil, took, false, refused // the error of the module as it is spelt
	case err == nil && refused == nil:
		return code, took, true, nil
	case ctx.Err() != nil:
		return nil, took, false, err
	}
	if code, took, err = e.compileObserved(ctx, key, src.own()); err == nil {
		e.c.degrade("sharing of a module's spellings", errors.New("its canonical encoding does not compile"))
	}
	return code, took, false, err
}

// validate returns the error that wazero has for the module, if any, without
// compiling it.
func (e *engine) validate(ctx context.Context, src *source) error {
	r, err := pluggedRuntime(ctx, e.config, validateOnly{})
	if err != nil {
		return err
	}
	defer r.Close(ctx)
	if _, err := r.CompileModule(ctx, src.own()); !errors.Is(err, errValid) {
		return err
	}
	return nil
}

// errValid is how far a module gets that is valid.
var errValid = errors.New("modcache: the module is valid")

// validateOnly is a cache that ends every compile before it begins.
type validateOnly struct{}

func (validateOnly) Get(wazerohook.WazeroKey) (io.ReadCloser, bool, error) {
	return nil, false, errValid
}
func (validateOnly) Add(wazerohook.WazeroKey, io.Reader) error { return nil }
func (validateOnly) Delete(wazerohook.WazeroKey) error         { return nil }
