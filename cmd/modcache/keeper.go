package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/books"
)

// keeper is a Disk that is to have in the end what was stored or found in it. Unless a flag bounds it, an Add that has
// no room fails, and drops nothing.
type keeper struct {
	*modcache.Disk
	bounded bool

	mu   sync.Mutex
	keys map[modcache.Key]bool
}

func (k *keeper) Add(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
	if k.bounded {
		ctx = books.ExactUse(ctx)
	} else {
		ctx = books.KeepAll(ctx)
	}
	err := k.Disk.Add(ctx, key, a)
	if err == nil {
		k.note(key)
	}
	return err
}

func (k *keeper) Get(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	if k.bounded {
		ctx = books.ExactUse(ctx)
	}
	a, ok, err := k.Disk.Get(ctx, key)
	if ok {
		k.note(key)
	}
	return a, ok, err
}

func (k *keeper) note(key modcache.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil {
		k.keys = map[modcache.Key]bool{}
	}
	k.keys[key] = true
}

// keepWithin drops what went unused longest beyond the bound. Adds drop no more than they need the room of, and free space is
// for them to see to.
func (k *keeper) keepWithin(ctx context.Context) error {
	if !k.bounded || ctx.Err() != nil {
		return nil
	}
	ctx = books.BoundOnly(ctx)
	plan, _, err := k.PlanTrim(ctx)
	if err != nil || len(plan) > 0 {
		_, err = trim(ctx, k.Disk)
	}
	return err
}

// missed says what was stored or found and isn't there any more.
func (k *keeper) missed(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	gone := 0
	for key := range k.keys {
		_, ok, err := k.Stat(ctx, key)
		if err != nil {
			return err
		}
		if !ok {
			gone++
		}
	}
	if gone == 0 {
		return nil
	}
	why := "somebody has dropped them"
	if k.bounded {
		why = "-max-bytes leaves no room for all"
	}
	return fmt.Errorf("%s stored or found before, and not there any more: %s", plural(gone, "entry was", "entries were"), why)
}
