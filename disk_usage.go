package modcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"
)

// usage is what a Disk knows of the space that its entries take: what the last
// walk over the directory found, and what this Disk did since. What other
// processes add in between it doesn't know.
type usage struct {
	mu sync.Mutex // guards all below; never held during I/O

	walked   bool
	entries  map[string]int64 // sizes by name
	bytes    int64            // sum of entries
	reserved int64            // by Adds under way
	added    int64            // by this Disk since the last walk began

	// During a walk, which may or may not have seen them: the changes since it
	// began, by name; -1 for what is gone.
	changes map[string]int64

	victims []stored // of the last walk, the next to go at the end

	// What was taken of victims and may not be gone yet, and what is closed when some
	// of it is; nil if nobody waits for that.
	leaving int64
	left    chan struct{}
}

// stored is an entry as the directory shows it.
type stored struct {
	name string // relative to the store's directory
	key  Key
	size int64
	used time.Time
	old  bool // of another version of the format
}

func (u *usage) levels() (entries, bytes uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return uint64(len(u.entries)), uint64(u.bytes)
}

func (u *usage) release(size int64) {
	u.mu.Lock()
	u.reserved -= size
	u.mu.Unlock()
}

// commit turns a reservation into an entry of that size.
func (u *usage) commit(name string, reserved, size int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reserved -= reserved
	u.added += size
	u.set(name, size)
}

func (u *usage) remove(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.set(name, -1)
}

// set requires u.mu.
func (u *usage) set(name string, size int64) {
	if u.changes != nil {
		u.changes[name] = size
	}
	u.bytes -= u.entries[name]
	if size < 0 {
		delete(u.entries, name)
		return
	}
	if u.entries == nil {
		u.entries = make(map[string]int64)
	}
	u.bytes += size
	u.entries[name] = size
}

func (u *usage) beginWalk() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.added = 0
	u.changes = make(map[string]int64)
}

// endWalk takes over what a walk has found, in the order of eviction, unless it
// failed.
func (u *usage) endWalk(found []stored, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	changes := u.changes
	u.changes = nil
	if err != nil {
		u.walked = false // until one succeeds
		return
	}
	u.walked = true
	u.victims = found
	u.bytes = 0
	u.entries = make(map[string]int64, len(found))
	for _, s := range found {
		u.set(s.name, s.size)
	}
	for name, size := range changes {
		u.set(name, size)
	}
}

// room is what take found.
type room struct {
	fits    bool            // what was asked for is reserved
	evict   []stored        // by the caller, by way of evictAll
	wait    <-chan struct{} // others are evicting enough, or all there is
	unknown bool            // a walk has to come first, unless it just did
}

// take reserves size bytes within limit, or says what has to happen before. extra
// bytes at least are to be freed, unless evicting everything couldn't free that much.
func (u *usage) take(size, limit, extra int64, walked bool) room {
	u.mu.Lock()
	defer u.mu.Unlock()
	if (limit >= 0 || extra > 0) && !u.walked || limit >= 0 && !walked && u.added+u.reserved+size > limit/walkShare {
		return room{unknown: true}
	}
	over, hopeless := extra, extra > u.bytes
	if hopeless {
		over = 0
	}
	if limit >= 0 {
		over = max(over, u.bytes+u.reserved+size-limit)
	}
	if over <= 0 {
		if hopeless {
			return room{}
		}
		u.reserved += size
		return room{fits: true}
	}
	if evict := u.next(over - u.leaving); len(evict) > 0 || u.leaving == 0 {
		return room{evict: evict}
	}
	if u.left == nil {
		u.left = make(chan struct{})
	}
	return room{wait: u.left}
}

// takeOldest returns entries to evict of size bytes at least, unless everything is less.
func (u *usage) takeOldest(size int64) []stored {
	u.mu.Lock()
	defer u.mu.Unlock()
	if size > u.bytes {
		return nil
	}
	return u.next(size)
}

// next takes victims of size bytes, as far as there are any. It requires u.mu.
func (u *usage) next(size int64) (out []stored) {
	for size > 0 && len(u.victims) > 0 {
		last := len(u.victims) - 1
		v := u.victims[last]
		u.victims[last] = stored{}
		u.victims = u.victims[:last]
		out = append(out, v)
		size -= v.size
	}
	u.leave(out)
	return out
}

// leave notes that victims are going to be evicted. It requires u.mu.
func (u *usage) leave(victims []stored) {
	for _, v := range victims {
		u.leaving += v.size
	}
}

// settle ends what leave began: what isn't gone by now stays.
func (u *usage) settle(victims []stored) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, v := range victims {
		u.leaving -= v.size
	}
	if u.left != nil {
		close(u.left)
		u.left = nil
	}
}

// walkShare is the share of the limit that a process may add before it looks what
// others have added meanwhile. Before it adds an entry that is larger, it always looks.
const walkShare = 16

// takeUnusedSince returns the entries that were last used before t.
func (u *usage) takeUnusedSince(t time.Time) (out []stored) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.victims = slices.DeleteFunc(u.victims, func(v stored) bool {
		if !v.used.Before(t) {
			return false
		}
		out = append(out, v)
		return true
	})
	u.leave(out)
	return out
}

// errNoRoom means that nothing more can be evicted.
var errNoRoom = errors.New("no room left")

// reserve makes room for size more bytes and takes it.
func (d *Disk) reserve(ctx context.Context, size int64) error {
	const maxRounds = 4 // file systems may free space late
	walked, rounds := false, 0
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		missing := d.missingSpace(size)
		if missing > 0 && rounds == maxRounds {
			return fmt.Errorf("%w: the file system has too little free space", errNoRoom)
		}
		switch found := d.usage.take(size, d.o.MaxBytes, missing, walked); {
		case found.fits:
			return nil
		case found.wait != nil:
			select {
			case <-found.wait:
			case <-ctx.Done():
			}
		case len(found.evict) > 0:
			d.evictAll(found.evict, ReasonByteLimit)
			rounds++
		case !found.unknown && walked:
			return fmt.Errorf("%w for %d bytes beside what else is being added; MaxBytes is %d", errNoRoom, size, d.o.MaxBytes)
		default:
			if err := d.walk(ctx); err != nil {
				return err
			}
			walked = true
		}
	}
}

// missingSpace returns how many bytes short of MinFree the file system would be
// with size more. A file system that doesn't tell has enough.
func (d *Disk) missingSpace(size int64) int64 {
	if d.o.MinFree < 0 {
		return 0
	}
	free, total, err := d.fs.Space()
	if err != nil {
		return 0
	}
	keep := d.o.MinFree
	if keep == 0 {
		keep = min(total/20, 1<<30)
	}
	return keep + size - free
}

// walk looks at every entry and updates what is known. Whoever asks while a walk
// is under way shares it.
func (d *Disk) walk(ctx context.Context) error {
	_, err, _ := d.walks.Do("", func() (any, error) {
		d.usage.beginWalk()
		// The one who came first must not fail the others by giving up.
		found, err := d.scan(context.WithoutCancel(ctx))
		d.usage.endWalk(d.evictionOrder(found), err)
		return nil, err
	})
	return err
}

// scan lists all entries. What it doesn't recognise isn't there.
func (d *Disk) scan(ctx context.Context) ([]stored, error) {
	var found []stored
	for _, shard := range shards {
		if err := d.ready(ctx); err != nil {
			return nil, err
		}
		dir := string(shard)
		infos, err := d.fs.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("modcache: list %s/%s: %w", d.dir, dir, err)
		}
		for _, fi := range infos {
			key, current, ok := keyOfName(fi.Name())
			if !ok || !fi.Mode().IsRegular() || fi.Name()[:1] != dir {
				continue
			}
			found = append(found, stored{
				name: dir + "/" + fi.Name(), key: key, size: fi.Size(), used: fi.ModTime(), old: !current,
			})
		}
	}
	return found, nil
}

// evictionOrder sorts entries so that the least recently used is the last. A
// time in the future is wrong, and shows that the clock was: such entries
// go first, or they would stay until the clock has caught up.
func (d *Disk) evictionOrder(found []stored) []stored {
	horizon := d.o.Now().Add(skew)
	slices.SortFunc(found, func(a, b stored) int {
		if fa, fb := a.used.After(horizon), b.used.After(horizon); fa != fb {
			if fa {
				return 1
			}
			return -1
		}
		return cmp.Or(b.used.Compare(a.used), cmp.Compare(a.name, b.name))
	})
	return found
}

// evictAll evicts what the usage gave out for that.
func (d *Disk) evictAll(victims []stored, why Reason) {
	defer d.usage.settle(victims)
	for _, v := range victims {
		d.evict(v, why)
	}
}

// evict removes an entry, unless it has been used or replaced since it was
// listed. Whoever has it open goes on reading it.
func (d *Disk) evict(v stored, why Reason) {
	pending := d.dirty.visible(v.key)
	fi, err := d.fs.Lstat(v.name)
	if err == nil && (!fi.ModTime().Equal(v.used) || fi.Size() != v.size) {
		return
	}
	if err == nil {
		err = d.fs.Remove(v.name)
	}
	if errors.Is(err, fs.ErrNotExist) { // another process was faster
		d.usage.remove(v.name)
		return
	}
	if err != nil {
		_ = d.failed(v.key, fmt.Errorf("modcache: evict %s/%s: %w", d.dir, v.name, err))
		return
	}
	d.usage.remove(v.name)
	if !v.old {
		d.dirty.drop(v.key, pending)
	}
	d.counters.evictions.Add(1)
	d.counters.evictedBytes.Add(uint64(v.size))
	d.notify(Event{Kind: EventEvicted, Key: v.key, Reason: why, Bytes: v.size, Duration: d.since(v.used)})
}
