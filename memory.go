package modcache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// MemoryOptions configures a [Memory] or a [Local]. The zero value, and a nil
// pointer, mean the defaults.
type MemoryOptions struct {
	// MaxBytes bounds the sum of [Artifact.Size] over what is held. 0 means
	// 256 MiB. Negative turns the store off: it keeps nothing.
	MaxBytes int64

	// MaxEntries bounds how many artifacts are held. 0 means 65,536. Negative turns
	// the store off.
	MaxEntries int

	// Name is the layer in events and errors. "" means "memory" or "local".
	Name string

	// OnEvent is told of each artifact that leaves or isn't let in
	// ([EventEvicted], with the reason) and, under DetectWrites, of each that
	// was written to ([EventCorrupt]). It is called on the path of whoever caused
	// that, after the change and without a lock: it may use the store, and may hear
	// of two goroutines' changes in either order.
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

// Memory is a [Store] that keeps artifacts in memory, within one byte budget
// and one entry budget, for any number of goroutines.
//
// A hit takes no lock and allocates nothing. It returns the very artifact
// that was added, so that everybody shares its bytes; closing it does nothing. An
// artifact that is behind a file is loaded when it is added.
//
// Both budgets hold at every instant: room is made before an artifact is let
// in. Any artifact of at most MaxBytes is let in, and can be read when Add
// returns (until another one needs the room); a larger one is [ErrTooLarge], and
// evicts nothing. What counts is [Artifact.Size]. Not counted are a slice's
// spare capacity, artifacts that callers still hold after they were evicted, and
// the bookkeeping, which takes 8 KiB, and at most 140 bytes for each artifact on
// 64-bit machines. What is being loaded from a file isn't counted either until
// it is let in.
//
// What is evicted is what is least likely to save compile time per byte,
// judging by how often and how recently it was asked for, before an earlier
// eviction too, and by its Info's CompileTime (a typical one if that is 0).
//
// A store that is turned off, by its options or by Resize, accepts and keeps
// nothing: Add returns nil and counts a rejection.
//
// In the metrics, Evictions are the artifacts that had to go to keep to a budget,
// a lowered one included, and RejectedAdds those that were too large, could not
// be loaded, or found the store turned off.
//
// Get ignores its context, and never fails. Add looks at it before it loads
// an artifact from a file. A Memory needs no Close.
type Memory struct {
	budget memoryBudget // guarded by mu, except for index.lookup
	notify func(Event)
	mu     sync.Mutex
	_      [128]byte       // above is what each hit reads, below what it writes
	counts [64]lookupCount // a key's lookups are counted in one of them
}

// lookupCount has its own cache line (two where lines are fetched in pairs):
// goroutines that look up different keys rarely write to the same one.
type lookupCount struct {
	hits, misses atomic.Uint64
	_            [128 - 16]byte
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty Memory.
func NewMemory(o *MemoryOptions) *Memory {
	m := new(Memory)
	m.budget.init(o, "memory")
	if o != nil {
		m.notify = o.OnEvent
	}
	return m
}

// Get implements [Store]. The artifact is the one that was added. The error is
// always nil.
func (m *Memory) Get(_ context.Context, key Key) (*Artifact, bool, error) {
	if m.budget.seals != nil {
		_ = m.change(func(b *memoryBudget) { b.verify(key) })
	}
	count := &m.counts[key[0]%uint8(len(m.counts))]
	e := m.budget.index.lookup(&key)
	if e == nil {
		count.misses.Add(1)
		return nil, false, nil
	}
	count.hits.Add(1)
	e.hit()
	return e.art, true, nil
}

// Add implements [Store]. Adding a key that is present is as cheap as a hit.
// The errors are [ErrTooLarge], and whatever loading an artifact that is not
// in memory fails with.
func (m *Memory) Add(ctx context.Context, key Key, a *Artifact) error {
	if m.budget.index.lookup(&key) != nil {
		return nil
	}
	return addToMemory(ctx, key, a, m.change)
}

// Delete implements [Store]. The error is always nil.
func (m *Memory) Delete(_ context.Context, key Key) error {
	return m.change(func(b *memoryBudget) { b.delete(key) })
}

// Flush implements [Store]: memory is as durable as it gets.
func (m *Memory) Flush(context.Context) error {
	return m.change(func(b *memoryBudget) { b.count.Flushes++ })
}

// Resize sets MaxBytes. When it returns, no more than that is held; what had to
// go is reported as [ReasonResized]. 0 or less turns the store off, and
// a later Resize on again.
func (m *Memory) Resize(maxBytes int64) {
	_ = m.change(func(b *memoryBudget) { b.resize(maxBytes) })
}

// change runs f under the lock, and delivers the events it caused without it.
// The error is always nil.
func (m *Memory) change(f func(*memoryBudget)) error {
	clock := m.budget.now() // the caller's code, so not under the lock
	m.mu.Lock()
	m.budget.clock = clock
	f(&m.budget)
	events := m.budget.takeEvents()
	m.mu.Unlock()
	for _, e := range events {
		notify(m.notify, e)
	}
	return nil
}

// Metrics implements [Store]. No lookup is lost or counted twice. Entries and
// Bytes belong to the same instant.
func (m *Memory) Metrics() Metrics {
	m.mu.Lock()
	s := m.budget.metrics()
	m.mu.Unlock()
	for i := range m.counts {
		s.Hits += m.counts[i].hits.Load()
		s.Misses += m.counts[i].misses.Load()
	}
	s.Lookups = s.Hits + s.Misses
	return s
}

// EvictionReports returns what left and why since the Memory was made: one
// report for each reason that occurred, all of the same instant. Reports of
// [ReasonRejected] are about artifacts that were too large to be let in. The other
// reasons that occur are [ReasonEntryLimit], [ReasonByteLimit], [ReasonBoth],
// [ReasonDeleted], [ReasonResized] and, under DetectWrites, [ReasonCorrupt].
func (m *Memory) EvictionReports() []EvictionReport {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.budget.reports()
}

// instant says how a [Layered] may call a Memory.
func (m *Memory) instant() {}
