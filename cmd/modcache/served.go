package main

import (
	"context"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/frame"
)

// A server keeps entries as its clients get them: signed frames, in entries whose engine is frame.EntryEngine.

func isServed(e modcache.DiskEntry) bool { return e.Info.Engine == frame.EntryEngine }

// servedHead returns what the frame claims that a server keeps as e; nil if it can't be read. d should be read-only:
// it is no use of the entry.
func servedHead(ctx context.Context, d *modcache.Disk, e modcache.DiskEntry) *frame.Outline {
	a, ok, err := d.Get(ctx, e.Key)
	if err != nil || !ok {
		return nil
	}
	defer a.Close()
	head, err := frame.Inspect(a, a.Size())
	if err != nil {
		return nil
	}
	return head
}

// engineOf returns the engine that the code of e is for, also where a server keeps it. If that can't be told,
// it is frame.EntryEngine.
func engineOf(ctx context.Context, d *modcache.Disk, e modcache.DiskEntry) string {
	if isServed(e) {
		if head := servedHead(ctx, d, e); head != nil {
			return head.Engine
		}
	}
	return e.Info.Engine
}

// nameEngines has the entries say what engineOf does, for people and scripts.
func nameEngines(ctx context.Context, d *modcache.Disk, entries []modcache.DiskEntry) {
	for i, e := range entries {
		entries[i].Info.Engine = engineOf(ctx, d, e)
	}
}
