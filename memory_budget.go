package modcache

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/bits"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/option"
)

// EvictionReport sums up the artifacts that left a store, or weren't let in, for
// one reason. All its fields belong to the same instant.
type EvictionReport struct {
	Reason  Reason        `json:"reason"`
	Entries uint64        `json:"entries"`
	Bytes   uint64        `json:"bytes"`
	First   time.Time     `json:"first"`      // when the first of them left
	Last    time.Time     `json:"last"`       // when the last of them left
	MinAge  time.Duration `json:"min_age_ns"` // how long they had been held
	MaxAge  time.Duration `json:"max_age_ns"`
	MeanAge time.Duration `json:"mean_age_ns"`
}

// evictionSum is what an EvictionReport is made of.
type evictionSum struct {
	EvictionReport
	ageHi, ageLo uint64 // sum of ages, which 64 bits couldn't hold
}

func (s *evictionSum) add(reason Reason, size int64, age time.Duration, now time.Time) {
	if s.Entries == 0 {
		s.Reason, s.First, s.MinAge = reason, now, age
	}
	s.Entries++
	s.Bytes += uint64(size)
	if now.After(s.Last) { // clocks are read before the lock is taken
		s.Last = now
	}
	s.MinAge, s.MaxAge = min(s.MinAge, age), max(s.MaxAge, age)
	var carry uint64
	s.ageLo, carry = bits.Add64(s.ageLo, uint64(age), 0)
	s.ageHi += carry
}

func (s *evictionSum) report() EvictionReport {
	r := s.EvictionReport
	mean, _ := bits.Div64(s.ageHi, s.ageLo, s.Entries)
	r.MeanAge = time.Duration(mean)
	return r
}

// MemoryOptions configures a [Memory] or a [Local]. The zero value, and a nil
// pointer, mean the defaults.
type MemoryOptions struct {
	// MaxBytes bounds the sum of [Artifact.Size] over what is held. 0 means
	// 256 MiB. Negative turns the store off: it keeps nothing.
	MaxBytes int64

	// MaxEntries bounds how many artifacts are held. 0 means 65,536. Negative turns
	// the store off.
	MaxEntries int

	// Name is the name of the store in events and errors. "" means "memory" or "local".
	Name string

	// OnEvent is called for each artifact that leaves or isn't let in
	// ([EventEvicted], with the reason) and, with DetectWrites, for each that
	// was written to ([EventCorrupt]). See [Event] for what it may do. The events of two
	// goroutines may arrive in either order.
	OnEvent func(Event)

	// Now is the clock, for the ages in events and reports. nil means time.Now. It is
	// called by several goroutines at once.
	Now func() time.Time

	// DetectWrites is for tests: an artifact's bytes are hashed when it comes in
	// and at each hit. If somebody wrote to them, it is dropped, counted as
	// corrupt, reported, and the lookup is a miss. Hits then cost as much as
	// reading all the bytes, and take a lock.
	DetectWrites bool
}

// validate returns a copy with the defaults filled in.
func (o *MemoryOptions) validate() MemoryOptions {
	var v MemoryOptions
	if o != nil {
		v = *o
	}
	v.MaxBytes = option.Number(v.MaxBytes, 256<<20, 0)
	v.MaxEntries = min(option.Number(v.MaxEntries, 1<<16, 0), math.MaxInt32)
	if v.Now == nil {
		v.Now = time.Now
	}
	return v
}

// memoryBudget is what Memory and Local share: the artifacts, their limits, and the
// counters. Only index.lookup may be called by several goroutines at once. All the rest
// is for one at a time: Memory has a lock, and Local one goroutine.
type memoryBudget struct {
	name     string
	now      func() time.Time
	observer func(Event)             // nil if there is none
	sums     map[*memoryEntry]uint64 // of what came in; nil unless DetectWrites

	index  memoryIndex
	policy memoryPolicy

	maxBytes   int64 // 0 is off
	maxEntries int   // 0 is off
	used       int64 // sum of the sizes of what index holds, at most maxBytes

	count  Metrics // without lookups, Entries and Bytes
	left   [ReasonExpired + 1]evictionSum
	start  time.Time // when the store was made
	clock  time.Time // of the change under way
	events []Event   // to be delivered when the lock is released
}

func (b *memoryBudget) init(o *MemoryOptions, name string) {
	v := o.validate()
	b.name = cmp.Or(v.Name, name)
	b.now, b.start = v.Now, v.Now()
	b.observer = v.OnEvent
	if v.DetectWrites {
		b.sums = make(map[*memoryEntry]uint64)
	}
	b.maxBytes, b.maxEntries = v.MaxBytes, v.MaxEntries
}

func (b *memoryBudget) off() bool { return b.maxBytes == 0 || b.maxEntries == 0 }

// admits says whether the artifact may come in. It counts and reports one that is too large. A
// store that is off ignores what is added, without an error.
func (b *memoryBudget) admits(key Key, a *Artifact) (bool, error) {
	if b.off() {
		b.count.RejectedAdds++
		return false, nil
	}
	info, size := a.Info(), a.Size()
	err := info.validate()
	if err == nil && (size > b.maxBytes || int64(int(size)) != size) {
		b.record(key, a, ReasonRejected, 0)
		err = fmt.Errorf("%w: %d bytes, at most %d fit", ErrTooLarge, size, b.maxBytes)
	}
	if err != nil {
		b.count.RejectedAdds++
		return false, &Error{Op: "add", Store: b.name, Key: key, Err: err}
	}
	return true, nil
}

// add puts an artifact that is in memory under key, unless one is there that doesn't give way to it.
func (b *memoryBudget) add(key Key, a *Artifact) error {
	if b.keeps(&key, a) {
		return nil
	}
	if ok, err := b.admits(key, a); !ok {
		return err
	}
	_ = b.delete(key)
	size := a.Size()
	for why := b.shortage(size); why != 0; why = b.shortage(size) {
		b.evict(why)
	}
	e := &memoryEntry{key: wordsOf(&key), art: a, added: b.clock.Sub(b.start)}
	if b.sums != nil {
		b.sums[e] = sumOf(e)
	}
	b.used += size
	b.index.insert(e, len(b.policy.heap))
	b.policy.insert(e)
	b.count.Adds++
	return nil
}

// shortage says why something must go before size more bytes fit; 0 if they do.
func (b *memoryBudget) shortage(size int64) Reason {
	switch bytes, entries := b.used > b.maxBytes-size, len(b.policy.heap) >= b.maxEntries; {
	case bytes && entries:
		return ReasonBoth
	case entries:
		return ReasonEntryLimit
	case bytes:
		return ReasonByteLimit
	}
	return 0
}

func (b *memoryBudget) evict(reason Reason) {
	e := b.policy.victim()
	b.drop(e, reason)
	b.policy.remember(e)
	b.count.Evictions++
	b.count.EvictedBytes += uint64(e.art.Size())
}

// drop takes e out of everything but the policy's memory.
func (b *memoryBudget) drop(e *memoryEntry, reason Reason) {
	b.index.remove(e)
	b.policy.remove(e)
	b.used -= e.art.Size()
	if !b.intact(e) {
		b.count.Corrupt++
		b.event(Event{Kind: EventCorrupt, Key: e.key.key(), Err: errWritten})
	}
	delete(b.sums, e)
	b.record(e.key.key(), e.art, reason, max(0, b.clock.Sub(b.start)-e.added))
}

// record counts and reports an artifact that left, or wasn't let in.
func (b *memoryBudget) record(key Key, a *Artifact, reason Reason, age time.Duration) {
	b.left[reason].add(reason, a.Size(), age, b.clock)
	b.event(Event{Kind: EventEvicted, Reason: reason, Key: key, Name: a.Info().Name, Bytes: a.Size(), Duration: age})
}

func (b *memoryBudget) event(e Event) {
	if b.observer != nil {
		e.Layer = b.name
		b.events = append(b.events, e)
	}
}

var errWritten = fmt.Errorf("%w: somebody wrote to the bytes of an artifact in memory", ErrCorrupt)

// checkSum drops what is under key if somebody wrote to its bytes.
func (b *memoryBudget) checkSum(key Key) error {
	if e := b.index.lookup(&key); e != nil && !b.intact(e) {
		b.drop(e, ReasonCorrupt)
	}
	return nil
}

// resize sets the byte budget and evicts until it is kept.
func (b *memoryBudget) resize(maxBytes int64) error {
	b.maxBytes = max(maxBytes, 0)
	for len(b.policy.heap) > 0 && (b.used > b.maxBytes || b.maxBytes == 0) {
		b.evict(ReasonResized)
	}
	if b.maxBytes == 0 {
		b.index.clear()
		b.policy = memoryPolicy{}
	}
	return nil
}

// keeps reports whether something is there which doesn't give way to a.
func (b *memoryBudget) keeps(key *Key, a *Artifact) bool {
	e := b.index.lookup(key)
	return e != nil && !frame.GivesWay(e.art.info.Module, e.art.info.WasmSize, a.info.Module, a.info.WasmSize)
}

// addToMemory adds a to the budget that change gives access to. If a must be loaded, that
// happens without access: reading runs code of others and takes time.
func addToMemory(ctx context.Context, key Key, a *Artifact, change func(func(*memoryBudget) error) error) error {
	if a.InMemory() {
		return change(func(b *memoryBudget) error { return b.add(key, a) })
	}
	wanted := false
	err := change(func(b *memoryBudget) (err error) {
		if !b.keeps(&key, a) {
			wanted, err = b.admits(key, a)
		}
		return err
	})
	if !wanted {
		return err
	}
	p, err := buffer(a.Size())
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		_, err = a.ReadAt(p, 0)
	}
	return change(func(b *memoryBudget) error {
		if err != nil {
			return b.failed(key, err)
		}
		return b.add(key, NewArtifact(p, a.Info()))
	})
}

// failed counts an artifact that couldn't be loaded.
func (b *memoryBudget) failed(key Key, err error) error {
	b.count.RejectedAdds++
	if isDamage(err) {
		b.count.Corrupt++
	} else {
		b.count.Errors++
	}
	return &Error{Op: "add", Store: b.name, Key: key, Err: err}
}

func (b *memoryBudget) delete(key Key) error {
	if e := b.index.lookup(&key); e != nil {
		b.drop(e, ReasonDeleted)
	}
	return nil
}

func (b *memoryBudget) flush() error {
	b.count.Flushes++
	return nil
}

// metrics returns what is known here, with the lookups that the caller counted.
func (b *memoryBudget) metrics(hits, misses uint64) Metrics {
	m := b.count
	m.Lookups, m.Hits, m.Misses = hits+misses, hits, misses
	m.Entries = uint64(len(b.policy.heap))
	m.Bytes = uint64(b.used)
	return m
}

func (b *memoryBudget) reports() []EvictionReport {
	var all []EvictionReport
	for i := range b.left {
		if b.left[i].Entries > 0 {
			all = append(all, b.left[i].report())
		}
	}
	return all
}

// deliver gives the observer the events of one change. It needs no lock.
func (b *memoryBudget) deliver(events []Event) {
	for _, e := range events {
		notify(b.observer, e)
	}
}

// sumOf tells the bytes of e from others.
func sumOf(e *memoryEntry) uint64 {
	b, _ := e.art.Bytes() // in memory, so there is no error
	return xxh3.Hash(b)
}

// intact reports whether nobody wrote to the bytes of e, if that is to be found out.
func (b *memoryBudget) intact(e *memoryEntry) bool { return b.sums == nil || b.sums[e] == sumOf(e) }
