// Package storetest has a store for tests that does what a test wants, and a source of
// artifacts that does.
package storetest

import (
	"bytes"
	"context"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/modcache/modcache"
)

// Fake is a store that keeps copies of artifacts in a map, or passes calls on to Under if
// that is set. A hook that is set is called instead; it may call [Fake.Below] for what
// would have happened without it. The zero value is an empty store. Fields are set before the
// first call, or between calls.
type Fake struct {
	Under modcache.Store

	OnGet     func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error)
	OnAdd     func(ctx context.Context, key modcache.Key, a *modcache.Artifact) error
	OnDelete  func(ctx context.Context, key modcache.Key) error
	OnFlush   func(ctx context.Context) error
	OnMetrics func() modcache.Metrics

	table table
	mu    sync.Mutex // guards calls
	calls Calls
}

// Calls counts calls.
type Calls struct{ Get, Add, Delete, Flush, Metrics int }

// Below returns the store to which calls go that no hook takes.
func (f *Fake) Below() modcache.Store {
	if f.Under != nil {
		return f.Under
	}
	return &f.table
}

// Heal takes all hooks out.
func (f *Fake) Heal() { f.OnGet, f.OnAdd, f.OnDelete, f.OnFlush, f.OnMetrics = nil, nil, nil, nil, nil }

// Calls returns how often which operation was called, hook or not.
func (f *Fake) Calls() Calls {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

func (f *Fake) count(n *int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*n++
}

// Get implements [modcache.Store].
func (f *Fake) Get(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	f.count(&f.calls.Get)
	if f.OnGet != nil {
		return f.OnGet(ctx, key)
	}
	return f.Below().Get(ctx, key)
}

// Add implements [modcache.Store].
func (f *Fake) Add(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
	f.count(&f.calls.Add)
	if f.OnAdd != nil {
		return f.OnAdd(ctx, key, a)
	}
	return f.Below().Add(ctx, key, a)
}

// Delete implements [modcache.Store].
func (f *Fake) Delete(ctx context.Context, key modcache.Key) error {
	f.count(&f.calls.Delete)
	if f.OnDelete != nil {
		return f.OnDelete(ctx, key)
	}
	return f.Below().Delete(ctx, key)
}

// Flush implements [modcache.Store].
func (f *Fake) Flush(ctx context.Context) error {
	f.count(&f.calls.Flush)
	if f.OnFlush != nil {
		return f.OnFlush(ctx)
	}
	return f.Below().Flush(ctx)
}

// Metrics implements [modcache.Store].
func (f *Fake) Metrics() modcache.Metrics {
	f.count(&f.calls.Metrics)
	if f.OnMetrics != nil {
		return f.OnMetrics()
	}
	return f.Below().Metrics()
}

// Entry returns what the map has under key, or nil.
func (f *Fake) Entry(key modcache.Key) *modcache.Artifact {
	f.table.mu.Lock()
	defer f.table.mu.Unlock()
	return f.table.entries[key]
}

// Set puts an artifact, or nothing if it is nil, in the place of what the map has under key.
func (f *Fake) Set(key modcache.Key, a *modcache.Artifact) { f.table.set(key, a, true) }

// Keys returns the keys of what is in the map, in order.
func (f *Fake) Keys() []modcache.Key {
	f.table.mu.Lock()
	defer f.table.mu.Unlock()
	return slices.SortedFunc(maps.Keys(f.table.entries), func(a, b modcache.Key) int { return bytes.Compare(a[:], b[:]) })
}

// Len returns how many entries the map has.
func (f *Fake) Len() int { return len(f.Keys()) }

// Locking is a Fake with locks, which only its own users share. OnLock, if set, is called instead.
type Locking struct {
	Fake
	OnLock func(ctx context.Context, key modcache.Key) (func(), error)
	held   sync.Map // of modcache.Key, to a channel that is full while the lock is held
}

// Lock implements [modcache.Locker].
func (l *Locking) Lock(ctx context.Context, key modcache.Key) (unlock func(), err error) {
	if l.OnLock != nil {
		return l.OnLock(ctx, key)
	}
	v, _ := l.held.LoadOrStore(key, make(chan struct{}, 1))
	held := v.(chan struct{})
	select {
	case held <- struct{}{}:
		return sync.OnceFunc(func() { <-held }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// table is the simplest store that keeps the contract. Each Get makes a new artifact, so
// that nothing is known about it from earlier.
type table struct {
	mu      sync.Mutex
	entries map[modcache.Key]*modcache.Artifact
	m       modcache.Metrics
}

func (t *table) Get(_ context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.m.Lookups++
	a, ok := t.entries[key]
	if !ok {
		t.m.Misses++
		return nil, false, nil
	}
	t.m.Hits++
	return clone(a), true, nil
}

func (t *table) Add(_ context.Context, key modcache.Key, a *modcache.Artifact) error {
	if _, err := a.Bytes(); err != nil {
		return err
	}
	t.set(key, a, false)
	return nil
}

func (t *table) set(key modcache.Key, a *modcache.Artifact, replace bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a == nil {
		delete(t.entries, key)
		return
	}
	t.m.Adds++
	if t.entries == nil {
		t.entries = make(map[modcache.Key]*modcache.Artifact)
	}
	if t.entries[key] == nil || replace {
		t.entries[key] = clone(a)
	}
}

// clone returns a copy of an artifact in memory.
func clone(a *modcache.Artifact) *modcache.Artifact {
	b, _ := a.Bytes()
	return modcache.NewArtifact(bytes.Clone(b), a.Info())
}

func (t *table) Delete(_ context.Context, key modcache.Key) error {
	t.set(key, nil, true)
	return nil
}

func (*table) Flush(context.Context) error { return nil }

func (t *table) Metrics() modcache.Metrics {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.m
	m.Entries = uint64(len(t.entries))
	return m
}

// Source is what an artifact is read from, as from a file. Hooks that are set are called
// instead of Reader.
type Source struct {
	Reader  io.ReaderAt
	OnRead  func(p []byte, off int64) (int, error)
	OnClose func() error
}

// ReadAt implements [io.ReaderAt].
func (s Source) ReadAt(p []byte, off int64) (int, error) {
	if s.OnRead != nil {
		return s.OnRead(p, off)
	}
	return s.Reader.ReadAt(p, off)
}

// Close implements [io.Closer].
func (s Source) Close() error {
	if s.OnClose != nil {
		return s.OnClose()
	}
	return nil
}
