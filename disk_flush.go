package modcache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modcache/modcache/internal/books"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/layout"
)

// DurabilityReport says which of the entries that a [Disk] added would survive
// a power failure.
type DurabilityReport struct {
	Pending      int       `json:"pending"`             // entries that were added and aren't known to be durable
	PendingBytes int64     `json:"pending_bytes"`       // their size on disk
	Durable      bool      `json:"durable"`             // nothing is pending, no Add is under way, and the last Flush didn't fail
	LastFlush    time.Time `json:"last_flush,omitzero"` // when a Flush last succeeded; zero if none has
	LastError    error     `json:"-"`                   // of the last Flush; nil if it succeeded
}

// DurabilityReport may be called at any time. An entry is pending until its
// file and its directory have been synced; one that Flush failed to sync stays
// pending. Entries that were evicted or deleted aren't.
func (d *Disk) DurabilityReport() DurabilityReport {
	s := d.pending.Status()
	return DurabilityReport{
		Pending: s.Files, PendingBytes: s.Bytes, Durable: s.Files == 0 && s.Adding == 0 && s.LastError == nil,
		LastFlush: s.LastFlush, LastError: s.LastError,
	}
}

// Flush implements [Store]: it syncs the files and directories of all entries
// that this Disk added, several at a time. Its error joins all failures; what
// failed stays pending. After a failed sync, the kernel may report the next one
// as successful without having written a thing, so that the next Flush writes such an
// entry anew.
func (d *Disk) Flush(ctx context.Context) error {
	err := d.errorOf("flush", Key{}, d.ready(ctx))
	if d.o.ReadOnly {
		return err
	}
	if err == nil {
		err = d.flush(ctx)
	}
	d.counters.flushes.Add(1)
	if err != nil {
		d.counters.flushErrors.Add(1)
	}
	d.pending.Flushed(d.o.Now(), err)
	return err
}

func (d *Disk) flush(ctx context.Context) error {
	pending := d.pending.Snapshot()
	keys := slices.Collect(maps.Keys(pending))
	errs := severalAtOnce(keys, func(key [32]byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return d.syncEntry(key, pending[key])
	})
	var shards []string
	for i, key := range keys {
		if errs[i] == nil {
			shards = append(shards, layout.Shard(key))
		}
	}
	slices.Sort(shards)
	dirErr := d.syncDirs(slices.Compact(shards))
	for i, key := range keys {
		switch err := errs[i]; {
		case err == nil && dirErr == nil:
			d.pending.Drop(key, pending[key])
		case err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()):
			// Not tried.
		default:
			pending[key].Rewrite.Store(true)
		}
		if errs[i] != nil {
			errs[i] = fmt.Errorf("%v: %w", Key(key), withoutPath(errs[i]))
		}
	}
	if ctx.Err() != nil {
		return d.errorOf("flush", Key{}, ctx.Err())
	}
	if err := errors.Join(append(errs, dirErr)...); err != nil {
		return d.failed("flush", Key{}, err)
	}
	return nil
}

// syncEntry makes the contents of an entry's file durable. An entry that is gone
// needs nothing.
func (d *Disk) syncEntry(key Key, f *books.File) error {
	if f.Rewrite.Load() {
		return d.rewrite(key)
	}
	// Windows syncs only what is open for writing.
	file, err := d.tree().OpenFile(layout.Entry(key), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = file.Sync()
	return errors.Join(err, file.Close())
}

// rewrite replaces an entry by a synced copy of what can still be read and verified.
func (d *Disk) rewrite(key Key) error {
	e, err := d.open("flush", key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errors.Unwrap(err) // the caller says the rest
	}
	a := NewArtifactFrom(e, e.r.Size(), frame.InfoOf[Info](e.r.Meta()))
	defer a.Close()
	tmp, _, err := d.writeTemp(key, a, a.Size(), e.r.Meta(), true)
	if err != nil {
		return err
	}
	defer d.writing.Delete(tmp)
	if err = d.tree().Rename(tmp, layout.Entry(key)); err != nil {
		d.discard(tmp)
	}
	return err
}

// syncDirs makes the names in some shards durable, and the shards' own names. There are none in a
// shard that is gone.
func (d *Disk) syncDirs(shards []string) error {
	if len(shards) == 0 {
		return nil
	}
	errs := severalAtOnce(shards, func(shard string) error {
		err := d.tree().SyncDir(shard)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return errors.Join(append(errs, d.tree().SyncDir("."))...)
}

// severalAtOnce calls sync for each of what and returns its errors in that order. Devices
// are faster with several requests at hand.
func severalAtOnce[T any](what []T, sync func(T) error) []error {
	errs := make([]error, len(what))
	var g errgroup.Group
	g.SetLimit(16)
	for i, w := range what {
		g.Go(func() error {
			errs[i] = sync(w)
			return nil
		})
	}
	_ = g.Wait()
	return errs
}
