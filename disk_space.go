package modcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/modcache/modcache/internal/books"
)

// errNoRoom means that nothing more can be evicted, or that it wouldn't help.
var errNoRoom = errors.New("no room left")

const (
	// Evicting is futile once that share of all entries was evicted and freed nothing, four times as much each time, but not more at once
	// than a third of the share: what others write meanwhile, or still have open, may take what a few entries free.
	probeShare = 8
	probeMost  = 3 * probeShare
	// mostMissed is how often an Add tries to evict what others have evicted before, or use.
	mostMissed = 1000
	// freeing is how long a file system may take to free what was removed.
	freeing = 50 * time.Millisecond
	// futileFor is how long no entries are evicted for free space after that freed none.
	futileFor = 24 * time.Hour
)

// reserve makes room for size more bytes and takes it.
func (d *Disk) reserve(ctx context.Context, size int64) error {
	told := size > 0 && d.tell(size)
	var evicted, gained int64
	walked, sure, helps := false, false, false
	vainly := int64(0) // bytes evicted since evicting last freed any
	missed := 0        // evictions of what was gone or in use
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		missing := d.toFree(ctx, size)
		_, bytes, _ := d.usage.Totals()
		if keep := books.KeepsAll(ctx) && d.usage.Walked(); keep && missing > 0 {
			return fmt.Errorf("%w: the file system has too little free space, and nothing is to be dropped", errNoRoom)
		} else if keep && d.o.MaxBytes >= 0 && bytes+size > d.o.MaxBytes {
			return fmt.Errorf("%w for %d bytes: MaxBytes is %d, and nothing is to be dropped", errNoRoom, size, d.o.MaxBytes)
		}
		ask := missing
		if !helps && missing > 0 && missing <= bytes {
			ask = min(max(missing, 3*vainly), max(1, bytes/probeMost))
		}
		switch room := d.usage.Take(books.Ask{Size: size, Limit: d.o.MaxBytes, Missing: ask, Walked: walked, Freed: gained, Told: told}); {
		case room.Fits:
			if size > 0 && (walked || evicted > 0) && !trimDue(d.sinceTrim()) { // else a trim is under way
				d.restamp()
			}
			return nil
		case room.Wait != nil:
			select {
			case <-room.Wait:
			case <-ctx.Done():
			}
		case len(room.Evict) > 0:
			before := d.freeSpace()
			gone, removed := d.evictAll(ctx, room.Evict, ReasonByteLimit) // the others were gone before, or are in use
			evicted += gone
			helps = missing <= 0 || removed > 0 && d.freed(before)
			switch {
			case helps:
				gained += gone
				vainly = 0
			case removed == 0:
				if missed++; missed > mostMissed {
					return fmt.Errorf("%w: the file system has too little free space", errNoRoom)
				}
			default:
				if vainly += removed; vainly >= bytes/probeShare {
					d.noteFutile(vainly)
				}
			}
		case !room.Unknown && sure && missing > 0:
			return fmt.Errorf("%w: the file system has too little free space", errNoRoom)
		case !room.Unknown && sure:
			return fmt.Errorf("%w for %d bytes beside what else is being added; MaxBytes is %d", errNoRoom, size, d.o.MaxBytes)
		default:
			_, shared, err := d.walk(ctx)
			if err != nil {
				return err
			}
			walked, sure = true, walked || !shared
		}
	}
}

// makeSpace evicts entries of at least size bytes. What others evict is theirs.
func (d *Disk) makeSpace(ctx context.Context, size int64) {
	if _, _, err := d.walk(ctx); err != nil {
		return
	}
	d.evictAll(ctx, d.usage.TakeOldest(size), ReasonByteLimit)
}

// toFree returns how many bytes short of MinFree the file system would be with size more,
// or more than there can be if evicting entries doesn't change that. A file system that
// doesn't tell has enough.
func (d *Disk) toFree(ctx context.Context, size int64) int64 {
	if d.o.MinFree < 0 || books.IsBoundOnly(ctx) {
		return 0
	}
	free, total, err := d.tree().Space()
	if err != nil || total <= 0 {
		return 0
	}
	missing := cmp.Or(d.o.MinFree, min(total/20, 1<<30)) + size - free
	if f := d.lastFutile(); missing > 0 && free < f.Free && f.Free <= total && d.o.Now().Before(f.Until) {
		return math.MaxInt64
	}
	return missing
}

func (d *Disk) freeSpace() int64 {
	free, _, err := d.tree().Space()
	if err != nil {
		return 0
	}
	return free + d.written.Load() // as if this Disk had written nothing
}

// freed reports whether there is more free space than before, now that entries were evicted.
func (d *Disk) freed(before int64) bool {
	for end := time.Now().Add(freeing); ; time.Sleep(freeing / 10) {
		if d.freeSpace() > before {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// noteFutile notes that evicting so many bytes was of no use: a snapshot may hold the files, or another process; or the file system
// frees them late, and then the space turns up.
func (d *Disk) noteFutile(evicted int64) {
	free, _, err := d.tree().Space()
	if err != nil {
		return
	}
	d.futile.Store(&books.Futile{Free: free + max(1, evicted/2), Until: d.o.Now().Add(futileFor)})
}

// lastFutile returns what was noted last, perhaps by another process. A time that is further
// ahead than anybody notes was noted under a wrong clock.
func (d *Disk) lastFutile() books.Futile {
	if d.futile.Load() == nil {
		f := d.lastStamp().Futile
		d.futile.CompareAndSwap(nil, &f)
	}
	f := *d.futile.Load()
	if f.Until.Sub(d.o.Now()) > futileFor {
		return books.Futile{}
	}
	return f
}
