package modcache

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/modcache/modcache/internal/books"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/layout"
)

// TrimReport says what a trim did, or would do.
type TrimReport struct {
	Entries      int   `json:"entries"` // left
	Bytes        int64 `json:"bytes"`   // of them, on disk
	Evicted      int   `json:"evicted"`
	EvictedBytes int64 `json:"evicted_bytes"`
	Reaped       int   `json:"reaped"` // files that crashed processes left: temporary ones, locks, old quarantine
}

// trimInterval is how often the directory is trimmed without being asked.
const trimInterval = time.Hour

// trimDue reports whether the directory is to be trimmed, so long after the last time.
func trimDue(since time.Duration) bool { return since > trimInterval || since < -books.ClockSkew }

// Trim drops entries that went unused for MaxAge, then, until the bounds hold, those
// that went unused longest, and what dead processes left behind. It may
// run in several processes at once. It leaves files alone that it doesn't
// know.
func (d *Disk) Trim(ctx context.Context) (TrimReport, error) {
	if err := d.writable(ctx); err != nil {
		return TrimReport{}, d.errorOf("trim", Key{}, err)
	}
	if err := d.findMoved(false); err != nil {
		return TrimReport{}, d.failed("trim", Key{}, err)
	}
	return d.trim(ctx, true)
}

// PlanTrim returns what Trim would evict if it ran now, the next to go first, and what it
// would report. It changes nothing, so that a ReadOnly Disk can do it too, and doesn't look
// for what dead processes left: Reaped is 0. Entries of other versions of the format have
// an Err that says so. If directories can't be listed, the plan is for the others, and the
// error names them.
func (d *Disk) PlanTrim(ctx context.Context) ([]DiskEntry, TrimReport, error) {
	var r TrimReport
	found, unlisted, err := d.list(ctx, false)
	if unlisted == layout.Shards || d.tree() == nil {
		return nil, r, d.errorOf("trim", Key{}, err)
	}
	found = append(found, d.known(unlisted)...)
	r.Entries, r.Bytes = len(found), books.SizeOf(found)
	var plan []DiskEntry
	before, _ := books.Unused(books.Oldest(found), d.o.Now(), d.o.MaxAge, d.lastStamp().Since, true)
	for _, v := range books.Plan(found, d.o.Now(), before, d.o.MaxBytes, d.toFree(ctx, 0)) {
		r.Entries--
		r.Bytes -= v.Size
		e, ok := DiskEntry{Key: v.Key, Err: errOtherVersion}, true
		if !v.Old {
			e, ok = d.inspect("trim", v.Key, nil)
		}
		if !ok { // gone meanwhile
			continue
		}
		e.Stored, e.Used = v.Size, frame.KnownTime(v.Used)
		plan = append(plan, e)
		r.Evicted++
		r.EvictedBytes += v.Size
	}
	return plan, r, d.errorOf("trim", Key{}, err)
}

var errOtherVersion = errors.New("it is of another version of the format")

func (d *Disk) trim(ctx context.Context, expire bool) (TrimReport, error) {
	evictions, evictedBytes := d.counters.evictions.Load(), d.counters.evictedBytes.Load()
	var r TrimReport
	since := d.lastStamp().Since
	unlisted, _, err := d.walk(ctx)
	if err == nil {
		var before time.Time
		before, since = books.Unused(d.usage.Oldest(), d.o.Now(), d.o.MaxAge, since, expire)
		d.evictAll(ctx, d.usage.TakeUnusedSince(before), ReasonExpired)
		if err = d.reserve(ctx, 0); errors.Is(err, errNoRoom) {
			err = nil // others fill the file system: there is no more to give
		}
		err = errors.Join(unlisted, err)
	}
	reaped, reapErr := d.reap(ctx)
	if err == nil { // whatever couldn't be reaped: it would keep each process from knowing what the walk found
		d.sign() // should somebody have tidied up
		if d.told() > mostTold {
			d.tellAnew()
		}
		d.stamp(since, d.o.Now())
	}
	r.Reaped = reaped
	r.Evicted = int(d.counters.evictions.Load() - evictions)
	r.EvictedBytes = int64(d.counters.evictedBytes.Load() - evictedBytes)
	r.Entries, r.Bytes, _ = d.usage.Totals()
	if err = errors.Join(err, reapErr); err != nil {
		if ctx.Err() != nil {
			return r, d.errorOf("trim", Key{}, ctx.Err())
		}
		return r, d.failed("trim", Key{}, err)
	}
	return r, nil
}

// walk looks at every entry and updates what is known. Whoever asks while a walk
// is under way shares it, and may miss what was added since it began. Shards that can't be listed are an error only for those whose
// goal needs them: what is known to be there still counts, and can be evicted.
func (d *Disk) walk(ctx context.Context) (unlisted error, shared bool, err error) {
	type result struct {
		shards   string
		unlisted error
	}
	v, err, shared := d.walks.Do("", func() (any, error) {
		d.usage.BeginWalk(d.told())
		// The one who came first must not fail the others by giving up.
		found, shards, err := d.list(context.WithoutCancel(ctx), false)
		if shards == layout.Shards {
			d.usage.FailWalk()
			return nil, err
		}
		if shards != "" {
			found = append(found, d.known(shards)...)
		}
		d.usage.EndWalk(found, d.o.Now())
		return result{shards, err}, nil
	})
	if err != nil {
		return nil, shared, err
	}
	r := v.(result)
	if before, _ := d.unlisted.Swap(r.shards).(string); strings.Trim(r.shards, before) != "" {
		_ = d.failed("list", Key{}, r.unlisted)
	}
	return r.unlisted, shared, nil
}

// known looks at the entries that the last walk found in some shards, or that were added.
func (d *Disk) known(shards string) (found []books.Entry) {
	for _, name := range d.usage.Names() {
		shard := name[:1]
		if !strings.Contains(shards, shard) {
			continue
		}
		fi, err := d.tree().Lstat(name)
		if err != nil || !fi.Mode().IsRegular() {
			continue
		}
		if e, ok := entryOf(shard, fi); ok {
			found = append(found, e)
		}
	}
	d.lookAside(found)
	return found
}

// evictAll evicts what the usage gave out for that, until the context ends. It returns the bytes of what is gone, and of what it
// has removed of that itself.
func (d *Disk) evictAll(ctx context.Context, victims []books.Entry, why Reason) (gone, removed int64) {
	defer d.usage.Settle(victims)
	for _, v := range victims {
		if ctx.Err() != nil {
			break
		}
		isGone, byUs := d.evict(v, why)
		if isGone {
			gone += v.Size
		}
		if byUs {
			removed += v.Size
		}
	}
	return gone, removed
}

// evict removes an entry, unless it has been used or replaced since it was
// listed, and reports whether it is gone, and wasn't before. Whoever has it open goes on reading it.
func (d *Disk) evict(v books.Entry, why Reason) (gone, removed bool) {
	pending := d.pending.Visible(v.Key)
	fi, err := d.tree().Lstat(v.Name)
	if err == nil && (!d.usedAt(v.Key, fi).Equal(v.Used) || fi.Size() != v.Length) {
		return false, false
	}
	if err == nil {
		err = d.tree().Remove(v.Name)
	}
	if errors.Is(err, fs.ErrNotExist) { // another process was faster
		d.usage.Remove(v.Name)
		return true, false
	}
	if err != nil {
		_ = d.failed("evict", v.Key, err)
		return false, false
	}
	d.usage.Remove(v.Name)
	if !v.Old {
		d.pending.Drop(v.Key, pending)
	}
	d.counters.evictions.Add(1)
	d.counters.evictedBytes.Add(uint64(v.Size))
	d.notify(Event{Kind: EventEvicted, Key: v.Key, Reason: why, Bytes: v.Size, Duration: d.since(v.Used)})
	return true, true
}

// since is how long ago t was; clocks that were set back don't make it negative.
func (d *Disk) since(t time.Time) time.Duration { return max(0, d.o.Now().Sub(t)) }

// trimInBackground is the trim after OpenDisk. If the last one is more than
// MaxAge ago, either nobody used the directory or the clock has jumped, and then
// every entry would look expired: it leaves their age for the next time. A Disk that
// bounds nothing drops nothing either unless it is asked to, or for what is added.
func (d *Disk) trimInBackground(ctx context.Context) {
	if d.o.MaxBytes < 0 && d.o.MaxAge < 0 {
		ctx = books.KeepAll(ctx)
	}
	since := d.sinceTrim()
	_, _ = d.trim(ctx, since >= 0 && since <= d.o.MaxAge)
}
