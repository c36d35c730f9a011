package modcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

var errInjected = errors.New("injected")

// shelf is a store made of a map, as a layer to test with.
type shelf struct {
	files  bool  // hand out artifacts behind a file, and not in memory
	budget int64 // artifacts that exceed it are refused; 0: none

	failing atomic.Bool  // every call fails
	open    atomic.Int64 // handles behind files that are open

	mu      sync.Mutex
	entries map[modcache.Key]*modcache.Artifact
	m       modcache.Metrics
	locks   map[modcache.Key]chan struct{}
}

func newShelf() *shelf {
	return &shelf{entries: map[modcache.Key]*modcache.Artifact{}, locks: map[modcache.Key]chan struct{}{}}
}

func newFileShelf() *shelf {
	s := newShelf()
	s.files = true
	return s
}

// file counts its own closing.
type file struct {
	io.ReaderAt
	s      *shelf
	closed atomic.Bool
}

func (f *file) Close() error {
	if f.closed.Swap(true) {
		return errors.New("closed twice")
	}
	f.s.open.Add(-1)
	return nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if f.closed.Load() {
		return 0, errors.New("read of a closed file")
	}
	return f.ReaderAt.ReadAt(p, off)
}

func (s *shelf) Get(_ context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m.Lookups++
	a, ok := s.entries[key]
	if !ok || s.failing.Load() {
		s.m.Misses++
		if s.failing.Load() {
			return nil, false, errInjected
		}
		return nil, false, nil
	}
	s.m.Hits++
	if s.files {
		s.open.Add(1)
		a = modcache.NewArtifactFrom(&file{ReaderAt: a, s: s}, a.Size(), a.Info())
	}
	return a, true, nil
}

func (s *shelf) Add(_ context.Context, key modcache.Key, a *modcache.Artifact) error {
	if s.failing.Load() {
		return errInjected
	}
	if s.budget > 0 && a.Size() > s.budget {
		return modcache.ErrTooLarge
	}
	b, err := a.Bytes()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m.Adds++
	if _, ok := s.entries[key]; !ok {
		s.entries[key] = modcache.NewArtifact(bytes.Clone(b), a.Info())
	}
	return nil
}

func (s *shelf) Delete(_ context.Context, key modcache.Key) error {
	if s.failing.Load() {
		return errInjected
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, key)
	return nil
}

func (s *shelf) Flush(context.Context) error {
	if s.failing.Load() {
		return errInjected
	}
	return nil
}

func (s *shelf) Metrics() modcache.Metrics {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.m
	m.Entries = uint64(len(s.entries))
	return m
}

func (s *shelf) Lock(ctx context.Context, key modcache.Key) (func(), error) {
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

func (s *shelf) has(key modcache.Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries[key] != nil
}

func (s *shelf) keys() map[modcache.Key]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := map[modcache.Key]bool{}
	for k := range s.entries {
		keys[k] = true
	}
	return keys
}

// intercept is a store whose calls go through functions; nil ones pass on.
type intercept struct {
	modcache.Store
	get func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error)
	add func(ctx context.Context, key modcache.Key, a *modcache.Artifact) error
	del func(ctx context.Context, key modcache.Key) error
}

func (s *intercept) Delete(ctx context.Context, key modcache.Key) error {
	if s.del == nil {
		return s.Store.Delete(ctx, key)
	}
	return s.del(ctx, key)
}

func (s *intercept) Get(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	if s.get == nil {
		return s.Store.Get(ctx, key)
	}
	return s.get(ctx, key)
}

func (s *intercept) Add(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
	if s.add == nil {
		return s.Store.Add(ctx, key, a)
	}
	return s.add(ctx, key, a)
}

func keyNo(n byte) modcache.Key { return modcache.Key{0: n, 31: 0xaa} }

// code returns the artifact that belongs under a key.
func code(k modcache.Key) *modcache.Artifact {
	return modcache.NewArtifact(bytes.Repeat(k[:1], 100+int(k[0])), modcache.Info{Engine: "test"})
}

func put(t testing.TB, s modcache.Store, k modcache.Key) {
	t.Helper()
	require.NoError(t, s.Add(context.Background(), k, code(k)))
}

// hit reads k and compares it with code(k).
func hit(t testing.TB, s modcache.Store, k modcache.Key) {
	t.Helper()
	a, ok, err := s.Get(context.Background(), k)
	require.NoError(t, err)
	require.True(t, ok, "a miss")
	want, _ := code(k).Bytes()
	got, err := a.Bytes()
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, a.Close())
}

func miss(t testing.TB, s modcache.Store, k modcache.Key) {
	t.Helper()
	a, ok, err := s.Get(context.Background(), k)
	require.NoError(t, err)
	require.False(t, ok, "a hit")
	require.Nil(t, a)
}

// direct makes a layer of a store in memory.
func direct(s modcache.Store) modcache.Layer {
	return modcache.Layer{Store: s, Name: "memory", Direct: true}
}

// layered makes a Layered that the test closes.
func layered(t testing.TB, o *modcache.LayeredOptions, layers ...modcache.Layer) *modcache.Layered {
	l := modcache.NewLayered(o, layers...)
	t.Cleanup(func() { _ = l.Close() })
	return l
}
