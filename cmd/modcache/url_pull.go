package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
)

// download stores what a server has under keys and for modules.
type download struct {
	*puller
	server  modcache.Store
	store   modcache.Store // of the server, below the directory if something is to be stored
	trouble trouble
	alias   *lead  // under the key that is asked for
	aliases []lead // under keys that were found

	found, missing, bad int
}

// lead is where the alias under a key leads.
type lead struct {
	key modcache.Key
	to  code
}

// fromServer is run for a URL.
func (p *puller) fromServer(ctx context.Context, s *streams, url string, operands []string) error {
	if len(operands) == 0 {
		return usagef("a server doesn't list what it has: name modules, directories of modules, or keys, behind the URL")
	}
	to, o, err := p.seal.placeAt(url, "a -keyring")
	if err != nil {
		return err
	}
	o.MaxSize = int64(p.maxEntry)
	d := &download{puller: p}
	o.OnEvent = d.trouble.observe
	var keys []modcache.Key
	var sources []string
	for _, operand := range operands {
		if key, err := modcache.ParseKey(operand); err == nil {
			keys = append(keys, key)
		} else {
			sources = append(sources, operand)
		}
	}
	w := &warmer{engineFlags: p.engineFlags, configFlags: p.configFlags, require: true, workers: 1}
	var files []string
	if len(sources) > 0 {
		if files, err = w.prepare(ctx, sources); err != nil {
			return err
		}
	}
	server, err := to.open(o)
	if err != nil {
		return err
	}
	defer server.Close()
	if err := to.check(ctx, server, false); err != nil {
		return err
	}
	d.server, d.store = server, server
	if !p.dry {
		if err := p.openDir(ctx, s); err != nil {
			return err
		}
		defer p.disk.Close()
		// A directory has no time limit here: nobody waits who could compile.
		l := modcache.NewLayered(&modcache.LayeredOptions{BreakAfter: -1, QueueBytes: -1, OnEvent: d.trouble.observe},
			modcache.Layer{Store: p.disk, Timeout: -1}, modcache.Layer{Store: server, Timeout: -1})
		defer l.Close()
		d.store = l
	}
	if err = d.all(ctx, s, w, keys, files); err == nil {
		err = d.follow(ctx, s)
	}
	beyond, err := p.closeDir(ctx, err)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("%w; what was stored until then is complete, pull again", to.explain(err))
	}
	line := fmt.Sprintf("%d found, %d missing", d.found, d.missing)
	if !p.dry {
		line += fmt.Sprintf(", %s stored", plural(int(p.stored.Load()), "entry", "entries"))
	}
	p.report(s, pullReport{Found: d.found, Missing: d.missing, LeftOut: d.bad}, line)
	if beyond != nil {
		return beyond
	}
	if n := d.missing + d.bad; n > 0 {
		return foundError(fmt.Sprintf("%d of %d could not be had; see above", n, d.found+n))
	}
	if p.dry {
		return nil
	}
	return p.disk.missed(ctx)
}

// all takes one after the other. Its error is the server's, or that of storing.
func (d *download) all(ctx context.Context, s *streams, w *warmer, keys []modcache.Key, files []string) error {
	take := func(name string, get func() (bool, error)) error {
		d.trouble.clear()
		d.alias = nil
		ok, err := get()
		if !d.dry {
			err = cmp.Or(err, d.store.Flush(ctx))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		why := d.trouble.err()
		switch {
		case isUnusable(why):
			d.bad++
			fmt.Fprintf(s.err, "%s  %s\n", printable(name), plain(cause(why)))
		case why != nil:
			return why
		case err != nil && !errors.Is(err, modcache.ErrMiss):
			return fmt.Errorf("%s: %w", name, err)
		case !ok:
			d.missing++
			fmt.Fprintf(s.err, "%s  is not there\n", printable(name))
		default:
			d.found++
			if d.alias != nil {
				d.aliases = append(d.aliases, *d.alias)
			}
		}
		return nil
	}
	for _, key := range keys {
		if err := take(key.String(), func() (bool, error) { return d.key(ctx, key) }); err != nil {
			return err
		}
	}
	for _, file := range files {
		wasm, err := readModule(ctx, file)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			d.missing++
			fmt.Fprintf(s.err, "%s\n", plain(err))
			continue
		}
		m := modcache.NewModule(wasm).Named(filepath.Base(file))
		if err := take(file, func() (bool, error) { return d.module(ctx, w, m) }); err != nil {
			return err
		}
	}
	return nil
}

func (d *download) key(ctx context.Context, key modcache.Key) (bool, error) {
	if !d.dry {
		d.trouble.observe(modcache.Event{Err: d.renew(ctx, key)})
	}
	a, ok, err := d.store.Get(ctx, key)
	if ok {
		if isAlias(a.Info()) {
			d.alias = &lead{key, codeOf(a.Info())}
		}
		a.Close()
	}
	return ok, err
}

// renew asks the server where the directory has an alias, which would hide what the server has. What it leads to may be there for other
// settings alone.
func (d *download) renew(ctx context.Context, key modcache.Key) error {
	there, ok, err := d.disk.Stat(ctx, key)
	if err != nil || !ok || !isAlias(there.Info) {
		return err
	}
	a, ok, err := d.server.Get(ctx, key)
	if ok {
		err = d.add(ctx, key, a)
	}
	return err
}

// follow counts keys as missing under which there is an alias, and nowhere what it leads to. The key of that can't be
// told from an alias. Where nothing is stored, there is nothing to look at.
func (d *download) follow(ctx context.Context, s *streams) error {
	if len(d.aliases) == 0 || d.dry {
		return nil
	}
	if err := d.addAliases(ctx); err != nil {
		return err
	}
	held, err := d.held(ctx)
	if err != nil {
		return err
	}
	for _, l := range d.aliases {
		if there, ok, err := d.disk.Stat(ctx, l.key); err == nil && ok {
			l.to = codeOf(there.Info) // by now
		}
		if !held[l.to] {
			d.found, d.missing = d.found-1, d.missing+1
			fmt.Fprintf(s.err, "%s  is an alias, and the code that it leads to isn't there: name the module in place of the key\n", l.key)
		}
	}
	return nil
}

// module does what a program does that must find the module: its key may stand for an alias.
func (d *download) module(ctx context.Context, w *warmer, m *modcache.Module) (bool, error) {
	_, err := loadStored(ctx, d.store, w.rc, w.engine, m)
	return err == nil, err
}

// loadStored loads a module as a program does that must find it, and returns the size of its code.
func loadStored(ctx context.Context, store modcache.Store, rc wazero.RuntimeConfig, engine string, m *modcache.Module) (int64, error) {
	cache, err := modcache.New(store, &modcache.Options{RequireHit: true, ReadOnly: true, Retain: -1, EngineID: engine})
	if err != nil {
		return 0, err
	}
	var r modcache.WarmResult
	for r = range cache.WarmEach(ctx, rc, m) {
	}
	return r.Size, errors.Join(cause(r.Err), cache.Close(ctx))
}
