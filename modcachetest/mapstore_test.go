package modcachetest

import (
	"bytes"
	"context"
	"sync"

	"github.com/modcache/modcache"
)

// mapStore is the simplest store that keeps the contract. The functions are
// where the tests below make it break one clause; nil ones change nothing.
type mapStore struct {
	*shelf
	readOnly bool
	closed   bool // guarded by shelf.mu
	observer func(modcache.Event)

	key     func(modcache.Key) modcache.Key
	onGet   func(ctx context.Context, a *modcache.Artifact, ok bool, err error) (*modcache.Artifact, bool, error)
	onAdd   func(ctx context.Context, key modcache.Key, a *modcache.Artifact) (handled bool, err error)
	onDel   func(key modcache.Key) (handled bool, err error)
	onFlush func() error
	onCount func(*modcache.Metrics)
	onClose func() error
	lock    func(ctx context.Context, key modcache.Key) (func(), error)
}

// shelf is what several handles on one store share.
type shelf struct {
	mu      sync.Mutex
	entries map[modcache.Key]entry
	budget  int64
	m       modcache.Metrics
	locks   map[modcache.Key]chan struct{}
}

type entry struct {
	b    []byte
	info modcache.Info
	sum  modcache.Fingerprint
}

func newMapStore() *mapStore {
	return &mapStore{shelf: &shelf{entries: map[modcache.Key]entry{}, budget: 16 << 20, locks: map[modcache.Key]chan struct{}{}}}
}

func (s *mapStore) Get(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	a, ok, err := s.get(ctx, key)
	if s.observer != nil {
		kind := modcache.EventMiss
		if ok {
			kind = modcache.EventHit
		}
		s.observer(modcache.Event{Kind: kind, Key: key, Err: err})
	}
	if s.onGet != nil {
		return s.onGet(ctx, a, ok, err)
	}
	return a, ok, err
}

func (s *mapStore) get(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	if s.key != nil {
		key = s.key(key)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false, modcache.ErrClosed
	}
	s.m.Lookups++
	e, ok := s.entries[key]
	if ok && modcache.Sum(e.b) != e.sum {
		delete(s.entries, key)
		s.m.Corrupt++
		ok = false
	}
	if !ok {
		s.m.Misses++
		return nil, false, nil
	}
	s.m.Hits++
	return modcache.NewArtifactFrom(&source{Reader: bytes.NewReader(e.b)}, int64(len(e.b)), e.info), true, nil
}

func (s *mapStore) Add(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
	if s.onAdd != nil {
		if handled, err := s.onAdd(ctx, key, a); handled {
			return err
		}
	}
	return s.put(key, a, false)
}

func (s *mapStore) put(key modcache.Key, a *modcache.Artifact, replace bool) error {
	if s.key != nil {
		key = s.key(key)
	}
	if s.readOnly {
		return modcache.ErrReadOnly
	}
	if a.Size() > s.budget {
		return modcache.ErrTooLarge
	}
	b, err := a.Bytes()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return modcache.ErrClosed
	}
	s.m.Adds++
	if _, ok := s.entries[key]; !ok || replace {
		s.entries[key] = entry{bytes.Clone(b), a.Info(), modcache.Sum(b)}
	}
	return nil
}

func (s *mapStore) Delete(_ context.Context, key modcache.Key) error {
	if s.onDel != nil {
		if handled, err := s.onDel(key); handled {
			return err
		}
	}
	if s.readOnly {
		return modcache.ErrReadOnly
	}
	if s.key != nil {
		key = s.key(key)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return modcache.ErrClosed
	}
	delete(s.entries, key)
	return nil
}

func (s *mapStore) Flush(context.Context) error {
	if s.onFlush != nil {
		return s.onFlush()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return modcache.ErrClosed
	}
	return nil
}

func (s *mapStore) Metrics() modcache.Metrics {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.m
	if s.onCount != nil {
		s.onCount(&m)
	}
	return m
}

func (s *mapStore) Close() error {
	if s.onClose != nil {
		return s.onClose()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *mapStore) Lock(ctx context.Context, key modcache.Key) (func(), error) {
	if s.lock != nil {
		return s.lock(ctx, key)
	}
	s.mu.Lock()
	if s.locks[key] == nil {
		s.locks[key] = make(chan struct{}, 1)
	}
	held := s.locks[key]
	s.mu.Unlock()
	select {
	case held <- struct{}{}:
		return sync.OnceFunc(func() { <-held }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
