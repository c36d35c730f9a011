package modcache

import (
	"context"
	"errors"
)

// Local is a [Memory] for one goroutine: the same options, budgets, policy and
// reports, without locks or atomic counters. It is for those who keep a cache
// for each worker, in front of what the workers share.
//
// It must not be used by several goroutines at once. Handing it from one to
// another is fine if something (a channel, a mutex) orders their calls. Every
// method writes to the Local, so that the race detector finds misuse. Without it, a call
// that finds another one under way returns an error or does nothing, but many are not
// found. A [Cache] calls its store from goroutines of its own: give it a Memory.
type Local struct {
	budget memoryBudget
	busy   bool
	hits   uint64
	misses uint64
}

var _ Store = (*Local)(nil)

var errLocalShared = &Error{Op: "use", Store: "local", Err: errors.New("several goroutines use it at once, and it is for one")}

// NewLocal returns an empty Local.
func NewLocal(o *MemoryOptions) *Local {
	l := new(Local)
	l.budget.init(o, "local")
	return l
}

// Get implements [Store]. The artifact is the one that was added. The only error
// says that another goroutine uses the Local at the same time.
func (l *Local) Get(_ context.Context, key Key) (*Artifact, bool, error) {
	if l.budget.sums != nil {
		if err := l.change(func(b *memoryBudget) error { return b.checkSum(key) }); err != nil {
			return nil, false, err
		}
	}
	if l.busy {
		return nil, false, errLocalShared
	}
	l.busy = true
	e := l.budget.index.lookup(&key)
	if e == nil {
		l.misses++
		l.busy = false
		return nil, false, nil
	}
	l.hits++
	e.hit()
	l.busy = false
	return e.art, true, nil
}

// Add implements [Store], like [Memory.Add].
func (l *Local) Add(ctx context.Context, key Key, a *Artifact) error {
	if l.busy {
		return errLocalShared
	}
	if l.budget.keeps(&key, a) {
		return nil
	}
	return addToMemory(ctx, key, a, l.change)
}

// Delete implements [Store].
func (l *Local) Delete(_ context.Context, key Key) error {
	return l.change(func(b *memoryBudget) error { return b.delete(key) })
}

// Flush implements [Store]: memory is as durable as it gets.
func (l *Local) Flush(context.Context) error {
	return l.change((*memoryBudget).flush)
}

// Resize sets MaxBytes, like [Memory.Resize].
func (l *Local) Resize(maxBytes int64) {
	_ = l.change(func(b *memoryBudget) error { return b.resize(maxBytes) })
}

// change runs f, and delivers the events it caused. The error is f's, or says that l is shared.
func (l *Local) change(f func(*memoryBudget) error) error {
	clock := l.budget.now()
	if l.busy {
		return errLocalShared
	}
	l.busy = true
	l.budget.clock = clock
	err := f(&l.budget)
	events := l.budget.events
	l.budget.events = nil
	l.busy = false
	l.budget.deliver(events)
	return err
}

// Metrics implements [Store].
func (l *Local) Metrics() Metrics {
	var m Metrics
	_ = l.change(func(b *memoryBudget) error {
		m = b.metrics(l.hits, l.misses)
		return nil
	})
	return m
}

// EvictionReports returns what left and why, like [Memory.EvictionReports].
func (l *Local) EvictionReports() []EvictionReport {
	var all []EvictionReport
	_ = l.change(func(b *memoryBudget) error {
		all = b.reports()
		return nil
	})
	return all
}
