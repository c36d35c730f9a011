package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bytesize"
)

// directory looks at the cache, and at what it holds for the modules.
func (d *doctor) directory(ctx context.Context, files []string, modules []*modcache.Module) {
	dir, err := d.dir.path()
	if err != nil {
		d.add(levelBad, "directory", plain(err), "")
		return
	}
	kind, err := kindOf(dir)
	switch {
	case err != nil:
		d.add(levelBad, "directory", plain(err), "make it readable by the user that runs the program")
		return
	case kind == isForeign:
		d.add(levelBad, "directory", dir+" is not a cache directory of modcache", "name another with -dir")
		return
	case kind != isCache:
		d.add(levelBad, "directory", "there is no cache in "+dir, "nothing was stored there yet, or -dir is wrong, or programs run as another user (the default is in the user's cache directory)")
		return
	}
	disk, err := d.dir.read()
	switch {
	case errors.Is(err, modcache.ErrInsecureDir):
		d.add(levelBad, "directory", plain(err), "programs refuse it as well: code in it runs in their processes")
		return
	case err != nil:
		d.add(levelBad, "directory", plain(err), "")
		return
	}
	defer disk.Close()
	d.add(levelOK, "directory", dir+" is a cache that programs of this user accept", "")
	if err := writable(dir); err != nil {
		d.add(levelWarn, "directory", "can't be written by this user: "+err.Error(), "fine for Options.ReadOnly; otherwise nothing new is stored")
	}
	d.space(dir)
	d.contents(ctx, disk, files, modules)
}

func (d *doctor) space(dir string) {
	free, total, err := freeSpace(dir)
	if err != nil {
		return
	}
	// What a Disk leaves free unless DiskOptions.MinFree says otherwise.
	keep := min(total/20, 1<<30)
	text := fmt.Sprintf("%s free of %s", bytesize.Format(free), bytesize.Format(total))
	if free < keep {
		d.add(levelWarn, "space", text+"; programs leave "+bytesize.Format(keep)+" free and evict or refuse entries below that", "make room, or set DiskOptions.MinFree")
		return
	}
	d.add(levelOK, "space", text, "")
}

// contents is what is stored, by engine and for the modules.
func (d *doctor) contents(ctx context.Context, disk *modcache.Disk, files []string, modules []*modcache.Module) {
	sum, err := summarize(ctx, disk, d.keyer.engine.id)
	if err != nil {
		d.add(levelBad, "entries", plain(err), "")
		return
	}
	mine := 0
	for _, en := range sum.Engines {
		text := fmt.Sprintf("%s, %s, of %s", plural(en.Entries, "entry", "entries"), bytesize.Format(en.Bytes), en.Engine)
		if en.This {
			mine = en.Entries
			d.add(levelOK, "entries", text+", which is the engine in question", "")
		} else {
			d.add(levelNote, "entries", text, "")
		}
	}
	switch {
	case mine > 0:
	case sum.Entries-sum.Unreadable > 0:
		d.add(levelBad, "entries", "none is of the engine in question: "+d.keyer.engine.id,
			"wazero was updated, replaced or vendored in one of the programs; warm the cache with the new one")
	default:
		d.add(levelBad, "entries", "there are none that can be used", "run the program, or modcache warm")
	}
	for _, k := range sum.Other {
		d.add(levelNote, "files", fmt.Sprintf("%d %s, %s", k.Files, k.Kind, bytesize.Format(k.Bytes)), "")
	}
	for i, m := range modules {
		d.module(ctx, disk, files[i], m)
	}
	if sum.Unreadable > 0 {
		d.unreadable(ctx, disk)
	}
}

// unreadable says what is wrong with entries, once for each kind.
func (d *doctor) unreadable(ctx context.Context, disk *modcache.Disk) {
	damaged, sealed := 0, 0
	for e, err := range disk.Walk(ctx) {
		switch {
		case err != nil:
			return
		case e.Err != nil && otherKey(e.Err):
			sealed++
		case e.Err != nil:
			damaged++
		}
	}
	if sealed > 0 {
		d.add(levelBad, "entries", plural(sealed, "entry is", "entries are")+" sealed with another secret than programs with this -key-file use",
			"give all programs the same DiskOptions.Key")
	}
	if damaged > 0 {
		d.add(levelWarn, "entries", plural(damaged, "entry is", "entries are")+" damaged or can't be read", "modcache verify says which and why")
	}
}

// module says whether a runtime finds the code of a module, and what is there
// instead.
func (d *doctor) module(ctx context.Context, disk *modcache.Disk, file string, m *modcache.Module) {
	_, unknown := d.keyer.key(m)
	if unknown == nil {
		switch hit, err := d.load(ctx, disk, m); {
		case err == nil:
			d.add(levelOK, "module", fmt.Sprintf("%s is there: a runtime loads it, %s of machine code", file, bytesize.Format(hit.Bytes)), "")
			return
		case !errors.Is(err, modcache.ErrMiss):
			d.add(levelBad, "module", fmt.Sprintf("%s: %s", file, plain(err)), "")
			return
		}
	}
	ofEngine, engines, dropIn := d.related(ctx, disk, m.Fingerprint())
	switch {
	case unknown != nil && ofEngine > 0:
		d.add(levelNote, "module", fmt.Sprintf("%s has %s of the engine in question", file, plural(ofEngine, "entry", "entries")), "whether one is for these settings only a tool with that wazero can tell")
	case ofEngine > 0:
		d.add(levelBad, "module", fmt.Sprintf("%s is there for the engine in question, but not for this platform, CPU and these settings", file),
			"compare the program's RuntimeConfig with the flags given here; every setting is a part of the key")
	case len(engines) > 0:
		d.add(levelBad, "module", fmt.Sprintf("%s is there for another engine only: %s", file, engines[0]), "warm the cache with the wazero in question")
	case dropIn > 0:
		d.add(levelBad, "module", fmt.Sprintf("%s is not there for runtimes", file),
			fmt.Sprintf("%s of the drop-in, which don't say which module they are of: see modcache warm -require -drop-in", plural(dropIn, "entry is", "entries are")))
	default:
		d.add(levelBad, "module", fmt.Sprintf("%s is not there: never compiled with this cache, or dropped since, or its bytes were others", file), "fingerprint "+m.Fingerprint().String())
	}
}

// load does what a program does that must find the module.
func (d *doctor) load(ctx context.Context, disk *modcache.Disk, m *modcache.Module) (hit modcache.Event, err error) {
	rc, err := d.config()
	if err != nil {
		return hit, err
	}
	cache, err := modcache.New(disk, &modcache.Options{
		RequireHit: true, ReadOnly: true, Retain: -1, EngineID: d.keyer.engine.id,
		OnEvent: func(e modcache.Event) {
			if e.Kind == modcache.EventHit {
				hit = e
			}
		},
	})
	if err != nil {
		return hit, err
	}
	err = cache.Warm(ctx, rc, m)
	return hit, errors.Join(err, cache.Close(ctx))
}

// related counts what is there of a module for the engine in question, lists the other
// engines it is there for, and counts entries that don't say their module.
func (d *doctor) related(ctx context.Context, disk *modcache.Disk, module modcache.Fingerprint) (ofEngine int, engines []string, dropIn int) {
	for e, err := range disk.Walk(ctx) {
		if err != nil {
			break
		}
		mine := e.Info.Engine == d.keyer.engine.id
		switch {
		case e.Err != nil:
		case e.Info.Module == (modcache.Fingerprint{}):
			if mine {
				dropIn++
			}
		case e.Info.Module != module:
		case mine:
			ofEngine++
		default:
			engines = append(engines, e.Info.Engine)
		}
	}
	slices.SortFunc(engines, cmp.Compare[string])
	return ofEngine, slices.Compact(engines), dropIn
}
