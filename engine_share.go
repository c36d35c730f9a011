package modcache

import (
	"context"

	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/loaded"
	"github.com/modcache/modcache/internal/wazerocache"
)

// Modules that differ in spelling only (names, producer notes, padded integers)
// share one artifact. The code lies under the key of the spelling that was compiled
// first. An alias under the key of the canonical encoding leads the others there,
// and each leaves an alias under its own key, so that its next start asks for nothing else.
//
// Code that is shared is compiled from the canonical encoding: what wazero
// would make of somebody's odd spelling is never served to others. And before a
// spelling may use another's code, wazero validates it, because the stub that it is
// loaded by has no bodies to refuse. Whoever compiles needn't, if bodies and data are those of the canonical encoding.

// aliasMagic begins an artifact that only names the module whose code it stands for.
const aliasMagic = "modcache alias 1\x00"

// fetch returns the artifact with the code for key, and the key that it lies under.
// An alias that leads nowhere is a miss, until the code is stored where it leads. It
// names a module, not a key, so that it can't lead to code of another engine or configuration.
func (e *engine) fetch(ctx context.Context, key Key, look *lookup) (a *Artifact, at Key) {
	a, at = e.follow(ctx, key, look, mostAliases)
	if a == nil || at == key {
		return a, at
	}
	// One that led over others leads there at once from now on: they may go, and whoever looks at the entries alone can't tell where
	// they lead.
	if module := a.Info().Module; e.key(module) == at && look.place(key).leads != module {
		e.c.putAlias(key, module, look.name)
	}
	return a, at
}

// mostAliases is how many are followed from one to the next. What one led to may be an alias by now, and in stores that were filled
// apart, they may lead in a circle; that they lead nowhere is no damage.
const mostAliases = 3

func (e *engine) follow(ctx context.Context, key Key, look *lookup, aliases int) (a *Artifact, at Key) {
	for again := true; again; {
		if a = look.get(ctx, key); a == nil {
			break
		}
		module, alias, err := readAlias(a)
		if err == nil && !alias {
			return a, key
		}
		e.c.release(a)
		if err != nil {
			again = look.reject(key, err)
			continue
		}
		p := look.place(key)
		p.leads, p.alias = module, p.from
		if aliases > 0 {
			if a, at = e.follow(ctx, e.key(module), look, aliases-1); a != nil {
				return a, at
			}
		}
		again = look.pass(key)
	}
	return nil, key
}

// find returns the artifact that has the module's code, or nil, and the key that it lies under.
func (e *engine) find(ctx context.Context, src *source, look *lookup) (a *Artifact, at Key) {
	if a, at = e.fetch(ctx, src.key, look); a == nil {
		if s := src.canonical(); s != nil && s.key != src.key {
			a, at = e.fetch(ctx, s.key, look)
		}
	}
	return a, at
}

// stored returns the size of the artifact that has the module's code, or 0.
func (e *engine) stored(ctx context.Context, src *source, look *lookup) int64 {
	look.whole = true
	a, _ := e.find(ctx, src, look)
	if a == nil {
		return 0
	}
	defer e.c.release(a)
	return a.Size()
}

// proven is stored, for code that loads.
func (e *engine) proven(ctx context.Context, src *source, look *lookup) (size int64) {
	for again := true; again; {
		a, at := e.find(ctx, src, look)
		if a == nil {
			return 0
		}
		size, again = e.provenOne(ctx, src, look, a, at)
	}
	return size
}

// provenOne returns the size of an artifact, which it closes, or 0 if it doesn't load, and whether there may be another.
func (e *engine) provenOne(ctx context.Context, src *source, look *lookup, a *Artifact, at Key) (size int64, again bool) {
	defer e.c.release(a)
	if src.found.Load() {
		return a.Size(), false // it was loaded a moment ago
	}
	image, _, err := src.image()
	if err != nil {
		return 0, false
	}
	entry, err := e.entry(ctx, a, at, src)
	if err == nil {
		err = wazerocache.Load(ctx, e.config, image, e.wazero.Key(image, e.conf.CloseOnContextDone), entry)
		entry.Discard()
	}
	switch {
	case err == nil:
		return a.Size(), false
	case ctx.Err() != nil:
		return 0, false
	}
	e.c.suspects.Store(at, nil)
	return 0, look.reject(at, err)
}

// home returns the module under whose key the code is stored that src shares: that of an alias which leads nowhere, if look has
// found any. A store keeps what it has: code that is given in the place of the alias would be lost.
func (e *engine) home(src *source, look *lookup) Fingerprint {
	for _, key := range []Key{src.key, src.canonical().key} {
		if module := look.place(key).leads; module != (Fingerprint{}) {
			return module
		}
	}
	return src.sum
}

// readAlias returns the module that a verified artifact is an alias for, if it is one.
func readAlias(a *Artifact) (module Fingerprint, ok bool, err error) {
	var b [len(aliasMagic) + len(module)]byte
	if a.Size() != int64(len(b)+sealSize) {
		return module, false, nil
	}
	if n, err := (contain.ReaderAt{Src: a}).ReadAt(b[:], 0); n < len(b) {
		return module, false, err
	}
	if string(b[:len(aliasMagic)]) != aliasMagic {
		return module, false, nil
	}
	copy(module[:], b[len(aliasMagic):])
	return module, true, nil
}

// putAlias leaves word under key that the code of module will do.
func (c *Cache) putAlias(key Key, module Fingerprint, name string) {
	c.put(key, append([]byte(aliasMagic), module[:]...), Info{Module: module, Name: name})
}

// findShared loads the module with the code of another spelling, if there is any.
func (l *loading) findShared(ctx context.Context) (*loaded.Code, error) {
	e, s := l.e, l.src.canonical()
	if s == nil || s.key == l.src.key {
		return nil, nil
	}
	a, at := e.fetch(ctx, s.key, l.look)
	valid := false // unless wazero says so: it may panic
	defer func() {
		if !valid {
			e.c.release(a)
		}
	}()
	for a != nil {
		if !valid {
			if err := wazerocache.Validate(ctx, e.config, l.src.own()); err != nil {
				return nil, err
			}
			valid = true
		}
		module := a.Info().Module
		code, again, err := l.loadStored(ctx, a, at)
		if code != nil && e.key(module) == at {
			l.c.putAlias(l.src.key, module, l.src.name())
		}
		if !again {
			return code, err
		}
		a, at = e.fetch(ctx, s.key, l.look)
	}
	return nil, nil
}
