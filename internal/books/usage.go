// Package books has what a store in a directory knows of it: the space that its entries
// take, and what of it may be lost. It knows no file system, so that no lock in here is
// ever held during I/O.
package books

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Entry is an entry as the directory shows it.
type Entry struct {
	Name   string // relative to the store's directory
	Key    [32]byte
	Size   int64 // what it takes on disk
	Length int64
	Used   time.Time
	Old    bool // of another version of the format
}

// ClockSkew is how far a time may lie ahead of the clock before it counts as wrong
// rather than as another clock's.
const ClockSkew = time.Hour

// SortForEviction puts those first that are to be evicted first: what has gone unused
// longest. A time in the future is wrong, and shows that the clock was: such entries go
// before all others, or they would stay until the clock has caught up.
func SortForEviction(entries []Entry, now time.Time) {
	horizon := now.Add(ClockSkew)
	slices.SortFunc(entries, func(a, b Entry) int {
		if wrong := a.Used.After(horizon); wrong != b.Used.After(horizon) {
			if wrong {
				return -1
			}
			return 1
		}
		return cmp.Or(a.Used.Compare(b.Used), cmp.Compare(b.Name, a.Name))
	})
}

// Usage is the space that entries take: what the last walk over the directory found, and
// what this store did since. What other processes add in between it doesn't know. Its
// zero value is ready; its methods may be called from several goroutines at once.
type Usage struct {
	mu sync.Mutex // guards all below

	walked   bool
	entries  map[string]int64 // sizes by name
	bytes    int64            // sum of entries
	reserved int64            // by those that are being added, the landings included
	landings map[*landing]bool
	added    int64 // by this store since the last walk began

	// What somebody else found, which counts until the first walk; and when entries, or
	// else that, was found.
	before  Stamp
	asOf    time.Time
	stamped bool // it can be relied on: no walk has failed since

	// What was told of Adds, in blocks: what all stores had told at asOf, what this one has since,
	// and what all have as far as it was seen. telling is what this store is just about to tell.
	told, ownTold, allTold, telling int64

	// During a walk, which may or may not have seen them: the changes since it began, by
	// name; -1 for what is gone.
	changes map[string]int64

	// What told and ownTold are going to be when the walk has ended.
	walkTold, walkOwnTold int64

	victims []Entry // of the last walk, the next to go first

	// What was given out to be evicted and may not be gone yet, and what is closed when
	// some of it is; nil if nobody waits for that.
	leaving int64
	left    chan struct{}
}

// Totals returns the number of entries, their bytes, and when somebody last looked; zero
// if that is unknown.
func (u *Usage) Totals() (entries int, bytes int64, asOf time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.before.Entries + len(u.entries), u.before.Bytes + u.bytes, u.asOf
}

// Remember takes over what somebody else found, until a walk knows better.
func (u *Usage) Remember(s Stamp) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.asOf.IsZero() && !s.AsOf.IsZero() {
		u.before, u.asOf, u.stamped = s, s.AsOf, true
		u.told, u.ownTold, u.allTold = s.Told, 0, s.Told
	}
}

// Stamp returns what is known of all entries for processes that come later, with what is reserved; zero if that is
// nothing.
func (u *Usage) Stamp() Stamp {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.walked && !u.stamped {
		return Stamp{}
	}
	return Stamp{
		AsOf: u.asOf, Entries: u.before.Entries + len(u.entries), Bytes: u.before.Bytes + u.bytes + u.reserved, Told: u.told + u.ownTold,
	}
}

// Tell notes that this store tells others of so many blocks. It calls the function that is returned with how many
// all stores have told then, or with -1 if it failed.
func (u *Usage) Tell(blocks int64) (done func(all int64)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.telling += blocks
	return func(all int64) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.telling -= blocks
		if all < 0 {
			return
		}
		u.ownTold += blocks
		u.walkOwnTold += blocks
		u.allTold = max(u.allTold, all)
		if all < u.told {
			u.stamped = false // somebody has begun anew
		}
	}
}

// TellAnew notes that nothing was told yet.
func (u *Usage) TellAnew() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.told, u.ownTold, u.allTold = 0, 0, 0
}

// Walked reports whether a walk was ended, and none has failed since.
func (u *Usage) Walked() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.walked
}

// Names returns the names of all entries.
func (u *Usage) Names() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Collect(maps.Keys(u.entries))
}

// Release gives up a reservation.
func (u *Usage) Release(size int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reserved -= size
}

// landing is a reservation for an entry that may be seen under its name.
type landing struct {
	name     string
	reserved int64 // 0 once a walk has found it
}

// Land notes that an entry of that name is about to appear, for which so much is reserved. The caller calls landed with what
// it takes on disk, or with -1 if it hasn't appeared; then what is returned is still reserved.
func (u *Usage) Land(name string, reserved int64) (landed func(size int64) (left int64)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	l := &landing{name, reserved}
	if u.landings == nil {
		u.landings = make(map[*landing]bool)
	}
	u.landings[l] = true
	return func(size int64) int64 {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.landings, l)
		if size < 0 {
			return l.reserved
		}
		u.reserved -= l.reserved
		u.added += size
		u.set(name, size)
		return 0
	}
}

// Remove notes that an entry is gone.
func (u *Usage) Remove(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.set(name, -1)
}

// set requires u.mu.
func (u *Usage) set(name string, size int64) {
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

// BeginWalk notes that somebody begins to look at all entries, when stores have told so much. One walk at a time.
func (u *Usage) BeginWalk(told int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.added = 0
	u.walkTold, u.walkOwnTold = max(0, told-u.telling), 0 // what is being told may be part of both
	u.changes = make(map[string]int64)
}

// EndWalk takes over what a walk has found.
func (u *Usage) EndWalk(found []Entry, now time.Time) {
	SortForEviction(found, now)
	u.mu.Lock()
	defer u.mu.Unlock()
	changes := u.changes
	u.changes = nil
	u.walked = true
	u.before, u.asOf, u.stamped = Stamp{}, now, false
	u.told, u.ownTold = u.walkTold, u.walkOwnTold
	u.victims = found
	u.bytes = 0
	u.entries = make(map[string]int64, len(found))
	for _, e := range found {
		u.set(e.Name, e.Size)
	}
	for l := range u.landings {
		if _, found := u.entries[l.name]; found { // which would count twice
			u.reserved -= l.reserved
			l.reserved = 0
		}
	}
	for name, size := range changes {
		u.set(name, size)
	}
}

// FailWalk notes that a walk failed: until one succeeds, nothing is known.
func (u *Usage) FailWalk() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.changes = nil
	u.walked, u.stamped = false, false
}

// Room is what Take found. If all fields are zero, there is no room to be had.
type Room struct {
	Fits    bool            // what was asked for is reserved
	Evict   []Entry         // by the caller, who calls Settle afterwards
	Wait    <-chan struct{} // others are evicting enough, or all there is
	Unknown bool            // a walk has to come first
}

// mark is the key in a context of what somebody asks of a store beyond its options.
type mark int

const (
	keepAll mark = iota
	boundOnly
	exactUse
)

func with(ctx context.Context, m mark) context.Context { return context.WithValue(ctx, m, true) }

func (m mark) in(ctx context.Context) bool { return ctx.Value(m) != nil }

// KeepAll marks the context of an Add that must not have anything evicted, and fails instead.
func KeepAll(ctx context.Context) context.Context { return with(ctx, keepAll) }

// KeepsAll reports whether a context is that of KeepAll.
func KeepsAll(ctx context.Context) bool { return keepAll.in(ctx) }

// BoundOnly marks the context of a trim that looks at the bound of the store, and not at what the file system has free.
func BoundOnly(ctx context.Context) context.Context { return with(ctx, boundOnly) }

// IsBoundOnly reports whether a context is that of BoundOnly.
func IsBoundOnly(ctx context.Context) bool { return boundOnly.in(ctx) }

// ExactUse marks the context of a use that is noted though there was another a moment ago.
func ExactUse(ctx context.Context) context.Context { return with(ctx, exactUse) }

// IsExactUse reports whether a context is that of ExactUse.
func IsExactUse(ctx context.Context) bool { return exactUse.in(ctx) }

const (
	// walkShare is the share of the limit that a process may add before it looks what
	// others have added meanwhile. Before it adds an entry that is larger, it always looks.
	walkShare = 16
	// evictAtOnce is how many entries are given out to be evicted at once.
	evictAtOnce = 1000
	// spareShare is the share of the limit that is evicted at once, where an entry doesn't fit. Otherwise each process
	// would find a full directory, and would have to walk to know what to evict.
	spareShare = 64
)

// Block is the unit in which stores tell each other what they add, in bytes.
const Block = 4096

// Ask is what somebody asks of Take.
type Ask struct {
	Size    int64 // to be reserved; 0 asks that the bounds hold
	Limit   int64 // of all entries; negative if there is none
	Missing int64 // to be freed, unless evicting everything couldn't free that much
	Walked  bool  // the caller has just walked
	Freed   int64 // by the caller, for this
	Told    bool  // the caller has told others of it, and a stamp may stand for a walk
}

// Take reserves what is asked for within the limit, or says
// what has to happen before: entries that could never fit go first, then those that went
// unused longest. Where the bounds are exceeded without what is asked for, it is reserved once
// the caller has freed twice as much, so that nobody has to wait until all that is too much is gone.
func (u *Usage) Take(a Ask) Room {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.knows(a) {
		return Room{Unknown: true}
	}
	over, hopeless := a.Missing, a.Missing > u.bytes
	if hopeless {
		over = 0
	}
	exceeded := over > a.Size
	if a.Limit >= 0 {
		exceeded = exceeded || u.bytes+u.reserved > a.Limit
		if tooMuch := u.bytes + u.reserved + a.Size - a.Limit; tooMuch > 0 && a.Size > 0 {
			over = max(over, tooMuch, a.Limit/spareShare)
		} else {
			over = max(over, tooMuch)
		}
	}
	if over <= 0 || exceeded && a.Size > 0 && a.Freed >= 2*a.Size {
		if hopeless {
			return Room{}
		}
		u.reserved += a.Size
		return Room{Fits: true}
	}
	if a.Limit >= 0 {
		if evict := u.takeIf(evictAtOnce, func(e Entry) bool { return e.Size > a.Limit }); len(evict) > 0 {
			return Room{Evict: evict}
		}
	}
	if evict := u.next(over-u.leaving, evictAtOnce); len(evict) > 0 || u.leaving == 0 {
		return Room{Evict: evict}
	}
	if u.left == nil {
		u.left = make(chan struct{})
	}
	return Room{Wait: u.left}
}

// knows reports whether it is known if there is room: because somebody has looked not long ago, here or in another
// process that has left a stamp. It requires u.mu.
func (u *Usage) knows(a Ask) bool {
	asked := u.reserved + a.Size // which nobody has found yet
	own, untilWalk := u.added+asked, a.Limit/walkShare
	switch {
	case a.Limit < 0 && a.Missing <= 0:
		return true // there are no bounds
	case u.walked:
		return a.Limit < 0 || a.Walked || own <= untilWalk
	case a.Missing > 0 || !a.Told:
		return false // only a walk says what to evict, and a stamp nothing of what others weren't told
	}
	others, ok := u.sinceStamp(a.Limit)
	return ok && own+others <= untilWalk && u.before.Bytes+u.bytes+asked+others <= a.Limit
}

// sinceStamp returns how many bytes other stores have told of since the stamp that this one goes by; not ok if there is
// none, or if they are more than the limit. It requires u.mu.
func (u *Usage) sinceStamp(limit int64) (bytes int64, ok bool) {
	blocks := max(0, u.allTold-u.told-u.ownTold)
	return blocks * Block, u.stamped && blocks <= limit/Block
}

// TakeOldest returns entries of at least size bytes for the caller to evict and to
// Settle, or none if all of them are less.
func (u *Usage) TakeOldest(size int64) []Entry {
	u.mu.Lock()
	defer u.mu.Unlock()
	if size > u.bytes {
		return nil
	}
	return u.next(size, len(u.victims))
}

// Oldest returns the time of the entry that the last walk found to be unused for longest.
func (u *Usage) Oldest() time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return Oldest(u.victims)
}

// Oldest returns the earliest time of use; zero if there are no entries.
func Oldest(entries []Entry) (oldest time.Time) {
	for i, e := range entries {
		if i == 0 || e.Used.Before(oldest) {
			oldest = e.Used
		}
	}
	return oldest
}

// TakeUnusedSince returns the entries that were last used before t, for the caller to
// evict and to Settle.
func (u *Usage) TakeUnusedSince(t time.Time) []Entry {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.takeIf(len(u.victims), func(e Entry) bool { return e.Used.Before(t) })
}

// takeIf takes the victims that are meant, at most so many. It requires u.mu.
func (u *Usage) takeIf(most int, meant func(Entry) bool) (out []Entry) {
	u.victims = slices.DeleteFunc(u.victims, func(e Entry) bool {
		if len(out) == most || !meant(e) {
			return false
		}
		out = append(out, e)
		return true
	})
	u.leave(out)
	return out
}

// next takes victims of size bytes, as far as there are any, and at most so many. It requires u.mu.
func (u *Usage) next(size int64, most int) []Entry {
	n := 0
	for ; size > 0 && n < min(most, len(u.victims)); n++ {
		size -= u.victims[n].Size
	}
	out := u.victims[:n:n]
	u.victims = u.victims[n:]
	u.leave(out)
	return out
}

// leave notes that entries are going to be evicted. It requires u.mu.
func (u *Usage) leave(entries []Entry) { u.leaving += SizeOf(entries) }

// Settle ends an eviction: what Remove wasn't called for stays.
func (u *Usage) Settle(entries []Entry) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.leaving -= SizeOf(entries)
	if u.left != nil {
		close(u.left)
		u.left = nil
	}
}

// SizeOf returns the bytes of entries.
func SizeOf(entries []Entry) (n int64) {
	for _, e := range entries {
		n += e.Size
	}
	return n
}

// Plan returns what of found would be evicted, the first first: what was last used
// before unusedSince, then what exceeds limit or, if that can be had, frees missing bytes.
func Plan(found []Entry, now, unusedSince time.Time, limit, missing int64) []Entry {
	var u Usage
	u.EndWalk(found, now)
	out := u.TakeUnusedSince(unusedSince)
	for _, e := range out {
		u.Remove(e.Name)
	}
	u.Settle(out)
	missing -= SizeOf(out)
	for {
		room := u.Take(Ask{Limit: limit, Missing: missing, Walked: true})
		if len(room.Evict) == 0 {
			return out
		}
		for _, e := range room.Evict {
			u.Remove(e.Name)
		}
		u.Settle(room.Evict)
		missing -= SizeOf(room.Evict)
		out = append(out, room.Evict...)
	}
}
