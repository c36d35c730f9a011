package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/books"
	"github.com/modcache/modcache/internal/layout"
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
	if !k.bounded {
		ctx = books.KeepAll(ctx)
	}
	err := k.Disk.Add(ctx, key, a)
	if err == nil {
		k.note(key)
	}
	return err
}

func (k *keeper) Get(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
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

// keepWithin drops what went unused longest beyond the flag. Adds drop no more than they need the room of, and
// free space is for them to see to.
func (k *keeper) keepWithin(ctx context.Context, s *streams, dir *dirFlags, maxBytes byteCount) error {
	if !k.bounded || ctx.Err() != nil {
		return nil
	}
	k.touch()
	d, err := dir.open(ctx, s, modcache.DiskOptions{MaxBytes: int64(maxBytes), MinFree: -1}, true)
	if err != nil {
		return err
	}
	_, err = trim(ctx, d)
	return errors.Join(err, d.Close())
}

// touch has what was stored or found go last. A Disk doesn't note that something is used that was a minute ago.
func (k *keeper) touch() {
	root, err := os.OpenRoot(k.Dir())
	if err != nil {
		return
	}
	defer root.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	for key := range k.keys {
		_ = root.Chtimes(layout.Entry(key), now, now) // a hint, as to a Disk
	}
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
