package modcache

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/layout"
)

// This file is about why a required module isn't there. It looks only where there is an
// error to be explained.

// What is looked at for an explanation, at most.
const (
	explainEntries = 256
	explainTime    = time.Second
)

// missing is ErrMiss, with the reason if that is more than absence, and what can be seen in the
// directory. module is zero for the drop-in, which doesn't know it.
func (l *lookup) missing(module Fingerprint) error {
	err := ErrMiss
	if l.why != nil {
		err = fmt.Errorf("%w: %w", err, l.why)
	}
	if l.why != nil {
		return err // the store couldn't tell, or has it, damaged
	}
	if seen := l.c.explain(module); seen != "" {
		err = fmt.Errorf("%w: %s; modcache doctor tells more", err, seen)
	}
	return err
}

// explain says what is in the store, or the first of its layers, in place of the module's code; "" if that can't be seen.
func (c *Cache) explain(module Fingerprint) string {
	s := c.inUse.Load().front
	seen, _ := bounded.Try(c.ctx, c.reports, explainTime, func(ctx context.Context) (string, error) {
		switch s := s.(type) {
		case *Disk:
			if none := noCache(s.tree()); none != "" {
				return s.dir + " " + none, nil
			}
			return s.dir + " " + c.contentFor(s.Walk(ctx), module), nil
		case *FSStore:
			return s.o.Name + " " + c.contentFor(s.Walk(ctx), module), nil
		}
		return "", nil
	}, nil)
	return seen
}

// noCache says why a directory has no entries at all.
func noCache(tree dirfs.FS) string {
	if tree == nil {
		return "does not exist"
	}
	if !isCache(tree) {
		return "is not a cache: it has no " + layout.Tag
	}
	return ""
}

// contentFor sums entries up for somebody who misses a module among them.
func (c *Cache) contentFor(entries iter.Seq2[DiskEntry, error], module Fingerprint) (seen string) {
	var all, unreadable, mine, dropIn, ofModule int
	var other string // engine
	for e, err := range entries {
		if err != nil || all == explainEntries {
			break
		}
		all++
		switch {
		case e.Err != nil:
			unreadable++
		case e.Info.Engine != c.engineID:
			other = e.Info.Engine
		case e.Info.Module == Fingerprint{}:
			mine++
			dropIn++
		default:
			mine++
			if e.Info.Module == module && !frame.IsAlias(e.Info.Module, e.Info.WasmSize) { // which may have outlived its code
				ofModule++
			}
		}
	}
	if all == explainEntries {
		defer func() { seen += fmt.Sprintf(" (%d of its entries were looked at)", all) }()
	}
	ofDropIn := module == Fingerprint{}
	switch {
	case all == 0:
		return "is empty"
	case unreadable == all:
		return "has no entry that can be read here: they are damaged, or sealed under another DiskOptions.Key"
	case mine == 0:
		return fmt.Sprintf("was filled for another engine, %q, and this program has %q", other, c.engineID)
	case ofModule > 0:
		return "has the module for another configuration, CPU or platform only: every setting of the RuntimeConfig counts"
	case !ofDropIn && dropIn == mine:
		return "has entries of the drop-in only, which a Runtime doesn't find"
	case ofDropIn && dropIn == 0:
		return "has entries of Runtimes only, which the drop-in doesn't find"
	case all == explainEntries:
		return "has other modules"
	}
	return fmt.Sprintf("has %d entries for this engine, but not this module: it was never compiled with this cache, or dropped since, or its bytes have changed", mine)
}
