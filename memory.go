package modcache

import (
	"context"
	"sync"

	"github.com/modcache/modcache/internal/stripe"
)

// Memory is a [Store] that keeps artifacts in memory, within one byte budget
// and one entry budget, for any number of goroutines.
//
// A hit takes no lock and allocates nothing. It returns the artifact that was
// added, not a copy, and closing that does nothing. An
// artifact that is behind a file is loaded when it is added.
//
// Both budgets hold at every instant: room is made before an artifact is let
// in. Any artifact of at most MaxBytes is let in, and can be read when Add
// returns (until another one needs the room). A larger one is [ErrTooLarge], and
// evicts nothing. What counts is [Artifact.Size]. Not counted are a slice's
// spare capacity, artifacts that callers still hold after they were evicted,
// artifacts that are being loaded from a file, and the bookkeeping: 16 KiB, and at
// most 140 bytes for each artifact on 64-bit machines.
//
// To make room, the artifact that is likely to save the least compile time per byte is
// evicted. The estimate is based on how often and how recently it was asked for (an earlier
// stay in the store counts too), and on its Info.CompileTime, or a typical one if
// that is 0.
//
// A store that is turned off, by its options or by Resize, accepts and keeps
// nothing: Add returns nil and counts a rejection.
//
// In the metrics, Evictions are the artifacts that were evicted to keep to a budget,
// a lowered one included. RejectedAdds are those that were too large, could not
// be loaded, had an [Info] beyond its limits, or found the store turned off.
//
// Get ignores its context, and never fails. Add looks at it before it loads
// an artifact from a file. A Memory needs no Close.
type Memory struct {
	budget memoryBudget // guarded by mu, except for index.lookup
	mu     sync.Mutex
	_      [128]byte // above is what each hit reads, below what it writes
	hits   stripe.Counter
	misses stripe.Counter
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty Memory.
func NewMemory(o *MemoryOptions) *Memory {
	m := new(Memory)
	m.budget.init(o, "memory")
	return m
}

// Get implements [Store]. The artifact is the one that was added. The error is
// always nil.
func (m *Memory) Get(_ context.Context, key Key) (*Artifact, bool, error) {
	if m.budget.sums != nil {
		_ = m.change(func(b *memoryBudget) error { return b.checkSum(key) })
	}
	e := m.budget.index.lookup(&key)
	if e == nil {
		m.misses.Add(key[0])
		return nil, false, nil
	}
	m.hits.Add(key[0])
	e.hit()
	return e.art, true, nil
}

// peek returns what is held under key, without counting it as a lookup.
func (m *Memory) peek(key Key) (*Artifact, bool) {
	e := m.budget.index.lookup(&key)
	if e == nil {
		return nil, false
	}
	return e.art, true
}

// Add implements [Store]. Adding a key that is present is as cheap as a hit.
// The errors are [ErrTooLarge], an Info beyond its limits, and whatever loading an
// artifact that is not in memory fails with.
func (m *Memory) Add(ctx context.Context, key Key, a *Artifact) error {
	if m.budget.keeps(&key, a) {
		return nil
	}
	return addToMemory(ctx, key, a, m.change)
}

// Delete implements [Store]. The error is always nil.
func (m *Memory) Delete(_ context.Context, key Key) error {
	return m.change(func(b *memoryBudget) error { return b.delete(key) })
}

// Flush implements [Store]: memory is as durable as it gets.
func (m *Memory) Flush(context.Context) error {
	return m.change((*memoryBudget).flush)
}

// Resize sets MaxBytes. When it returns, no more than that is held; what had to
// be evicted is reported as [ReasonResized]. 0 or less turns the store off, and
// a later Resize turns it on again.
func (m *Memory) Resize(maxBytes int64) {
	_ = m.change(func(b *memoryBudget) error { return b.resize(maxBytes) })
}

// change runs f under the lock, and delivers the events it caused without it. The error is f's.
func (m *Memory) change(f func(*memoryBudget) error) error {
	clock := m.budget.now() // the caller's code, so not under the lock
	m.mu.Lock()
	m.budget.clock = clock
	err := f(&m.budget)
	events := m.budget.events
	m.budget.events = nil
	m.mu.Unlock()
	m.budget.deliver(events)
	return err
}

// Metrics implements [Store]. No lookup is lost or counted twice. Entries and
// Bytes belong to the same instant.
func (m *Memory) Metrics() Metrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.budget.metrics(m.hits.Load(), m.misses.Load())
}

// EvictionReports returns what left and why since the Memory was made: one
// report for each reason that occurred, all of the same instant. Reports of
// [ReasonRejected] are about artifacts that were too large to be let in. The other
// reasons that occur are [ReasonEntryLimit], [ReasonByteLimit], [ReasonBoth],
// [ReasonDeleted], [ReasonResized] and, with DetectWrites, [ReasonCorrupt].
func (m *Memory) EvictionReports() []EvictionReport {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.budget.reports()
}

// artifacts returns what is held now.
func (m *Memory) artifacts() map[Key]*Artifact {
	m.mu.Lock()
	defer m.mu.Unlock()
	held := make(map[Key]*Artifact)
	for _, e := range m.budget.policy.heap {
		held[e.key.key()] = e.art
	}
	return held
}

// limit returns MaxBytes.
func (m *Memory) limit() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.budget.maxBytes
}
