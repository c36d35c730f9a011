package modcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"time"
)

// EvictionReport sums up the artifacts that left a store, or weren't let in, for
// one reason. All its fields belong to the same instant.
type EvictionReport struct {
	Reason  Reason
	Entries uint64
	Bytes   uint64

	// First and Last are when the first and the last of them left.
	First, Last time.Time
	// MinAge, MaxAge and MeanAge are how long they had been held.
	MinAge, MaxAge, MeanAge time.Duration
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

// memoryBudget is what Memory and Local share: the artifacts, what they may take,
// and the books about it. Only index.lookup may be called by several
// goroutines at once; for the rest Memory has its lock, and Local one goroutine.
type memoryBudget struct {
	layer    string
	now      func() time.Time
	observed bool
	seals    *memorySeals // nil unless DetectWrites

	index  memoryIndex
	policy memoryPolicy

	maxBytes   int64 // 0 is off
	maxEntries int   // 0 is off
	used       int64 // sum of the sizes of what index holds, at most maxBytes

	count  Metrics // but for the lookups and the levels
	left   [ReasonExpired + 1]evictionSum
	start  time.Time // when the store was made
	clock  time.Time // of the change under way
	events []Event   // to be delivered when the lock is gone
}

func (b *memoryBudget) init(o *MemoryOptions, layer string) {
	var opts MemoryOptions
	if o != nil {
		opts = *o
	}
	b.layer = opts.Name
	if b.layer == "" {
		b.layer = layer
	}
	b.now = opts.Now
	if b.now == nil {
		b.now = time.Now
	}
	b.start = b.now()
	b.observed = opts.OnEvent != nil
	if opts.DetectWrites {
		b.seals = newMemorySeals()
	}
	b.maxBytes = orDefault(opts.MaxBytes, 256<<20)
	b.maxEntries = int(min(orDefault(int64(opts.MaxEntries), 1<<16), math.MaxInt32))
}

// orDefault reads a field of options: 0 is the default, negative is off.
func orDefault(v, def int64) int64 {
	if v == 0 {
		return def
	}
	return max(v, 0)
}

func (b *memoryBudget) off() bool { return b.maxBytes == 0 || b.maxEntries == 0 }

// admits says whether an artifact of this size may come in. What is too large
// is put on the books; so is what a store that is off ignores, without an error.
func (b *memoryBudget) admits(key Key, size int64) (bool, error) {
	if b.off() {
		b.count.RejectedAdds++
		return false, nil
	}
	if size > b.maxBytes || int64(int(size)) != size {
		b.count.RejectedAdds++
		b.record(key, size, ReasonRejected, 0)
		return false, fmt.Errorf("add %v of %d bytes to %s, which may hold %d: %w", key, size, b.layer, b.maxBytes, ErrTooLarge)
	}
	return true, nil
}

// add puts an artifact that is in memory under key, unless there is one.
func (b *memoryBudget) add(key Key, a *Artifact) error {
	if b.index.lookup(&key) != nil {
		return nil
	}
	size := a.Size()
	if ok, err := b.admits(key, size); !ok {
		return err
	}
	for b.used > b.maxBytes-size || len(b.policy.queue) >= b.maxEntries {
		b.evict(b.shortage(size))
	}
	e := &memoryEntry{key: wordsOf(&key), art: a, added: b.clock.Sub(b.start)}
	b.seals.put(e)
	b.used += size
	b.index.insert(e, len(b.policy.queue))
	b.policy.insert(e)
	b.count.Adds++
	return nil
}

// shortage says why something must go before size more bytes fit.
func (b *memoryBudget) shortage(size int64) Reason {
	switch bytes, entries := b.used > b.maxBytes-size, len(b.policy.queue) >= b.maxEntries; {
	case bytes && entries:
		return ReasonBoth
	case entries:
		return ReasonEntryLimit
	default:
		return ReasonByteLimit
	}
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
	if err := b.seals.check(e); err != nil {
		b.corrupt(e, err)
	}
	b.seals.drop(e)
	b.record(e.key.key(), e.art.Size(), reason, max(0, b.clock.Sub(b.start)-e.added))
}

// record enters a departure into the books.
func (b *memoryBudget) record(key Key, size int64, reason Reason, age time.Duration) {
	b.left[reason].add(reason, size, age, b.clock)
	if b.observed {
		b.events = append(b.events, Event{
			Kind: EventEvicted, Reason: reason, Key: key, Layer: b.layer, Bytes: size, Duration: age,
		})
	}
}

// verify drops what is under key if somebody wrote to its bytes.
func (b *memoryBudget) verify(key Key) {
	if e := b.index.lookup(&key); e != nil && b.seals.check(e) != nil {
		b.drop(e, ReasonCorrupt)
	}
}

// corrupt enters into the books that e was written to.
func (b *memoryBudget) corrupt(e *memoryEntry, err error) {
	b.count.Corrupt++
	if b.observed {
		b.events = append(b.events, Event{Kind: EventCorrupt, Key: e.key.key(), Layer: b.layer, Err: err})
	}
}

// resize sets the byte budget and evicts until it is kept.
func (b *memoryBudget) resize(maxBytes int64) {
	b.maxBytes = max(maxBytes, 0)
	for len(b.policy.queue) > 0 && (b.used > b.maxBytes || b.maxBytes == 0) {
		b.evict(ReasonResized)
	}
	if b.maxBytes == 0 {
		b.index.clear()
		b.policy = memoryPolicy{}
	}
}

// addToMemory adds a to the budget that change gives access to. It loads a, if
// that is needed, with no access: reading runs foreign code and takes time.
func addToMemory(ctx context.Context, key Key, a *Artifact, change func(func(*memoryBudget)) error) (err error) {
	if !a.InMemory() {
		var wanted bool
		var layer string
		shared := change(func(b *memoryBudget) {
			layer = b.layer
			if b.index.lookup(&key) == nil {
				wanted, err = b.admits(key, a.Size())
			}
		})
		if shared != nil || !wanted {
			return cmp.Or(shared, err)
		}
		if a, err = loadArtifact(ctx, a); err != nil {
			_ = change(func(b *memoryBudget) { b.failed(err) })
			return fmt.Errorf("modcache: add %v to %s: %w", key, layer, err)
		}
	}
	shared := change(func(b *memoryBudget) { err = b.add(key, a) })
	return cmp.Or(shared, err)
}

// loadArtifact returns an artifact in memory with the bytes of one that isn't.
func loadArtifact(ctx context.Context, a *Artifact) (*Artifact, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p := make([]byte, a.Size())
	if _, err := a.ReadAt(p, 0); err != nil {
		return nil, err
	}
	return NewArtifact(p, a.Info()), nil
}

// failed puts an artifact that couldn't be loaded on the books.
func (b *memoryBudget) failed(err error) {
	b.count.RejectedAdds++
	switch {
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrAuth):
		b.count.Corrupt++
	default:
		b.count.Errors++
	}
}

func (b *memoryBudget) delete(key Key) {
	if e := b.index.lookup(&key); e != nil {
		b.drop(e, ReasonDeleted)
	}
}

// metrics returns what is known here: all but the lookups.
func (b *memoryBudget) metrics() Metrics {
	m := b.count
	m.Entries = uint64(len(b.policy.queue))
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

// takeEvents returns the events to deliver. The caller does so without a lock.
func (b *memoryBudget) takeEvents() []Event {
	events := b.events
	b.events = nil
	return events
}

// memorySeals finds out, in tests, that somebody wrote to bytes that everybody
// shares. A nil one does nothing. The store's lock guards it.
type memorySeals struct {
	seed maphash.Seed
	sums map[*memoryEntry]uint64
}

func newMemorySeals() *memorySeals {
	return &memorySeals{seed: maphash.MakeSeed(), sums: make(map[*memoryEntry]uint64)}
}

func (s *memorySeals) sum(e *memoryEntry) uint64 {
	b, _ := e.art.Bytes() // in memory, so there is no error
	return maphash.Bytes(s.seed, b)
}

func (s *memorySeals) put(e *memoryEntry) {
	if s != nil {
		s.sums[e] = s.sum(e)
	}
}

func (s *memorySeals) check(e *memoryEntry) error {
	if s == nil || s.sums[e] == s.sum(e) {
		return nil
	}
	return fmt.Errorf("%v: somebody wrote to the bytes of an artifact in memory: %w", e.key.key(), ErrCorrupt)
}

func (s *memorySeals) drop(e *memoryEntry) {
	if s != nil {
		delete(s.sums, e)
	}
}
