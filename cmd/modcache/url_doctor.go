package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/remote"
)

// server looks at a server, and at what it has for the modules. It fails for a URL that makes
// no sense.
func (d *doctor) server(ctx context.Context, at *place, o *remote.Options, files []string, modules []*modcache.Module) error {
	var seen trouble
	o.OnEvent = seen.observe
	store, err := at.open(o)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := at.check(ctx, store, false); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.add(levelBad, "server", plain(err), "nodes compile until it answers")
		return nil
	}
	d.add(levelOK, "server", fmt.Sprintf("%v answers, and lets us read", store), "")
	if len(modules) == 0 {
		d.add(levelNote, "server", "it doesn't list what it has", "name modules to see whether their code is there")
	}
	for i, m := range modules {
		file := files[i]
		d.exceptions(file, m)
		if _, unknown := d.keyer.key(m); unknown != nil {
			d.add(levelNote, "module", file+" may be there", "whether it is only a tool with that wazero can tell")
			continue
		}
		seen.clear()
		size, err := d.load(ctx, store, m)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, modcache.ErrMiss) && seen.err() != nil:
			d.add(levelBad, "module", fmt.Sprintf("%s: %s", file, plain(at.explain(cause(seen.err())))), "")
		case !d.loaded(file, size, err):
			d.add(levelBad, "module", file+" is not there for this engine, platform, CPU and these settings", "modcache push, or warm -to, uploads it")
		}
	}
	return nil
}
