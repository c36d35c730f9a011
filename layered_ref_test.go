package modcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
)

var errInjected = errors.New("injected")

// shelf is a store as a layer to test with.
type shelf struct {
	storetest.Locking
	files  bool  // hand out artifacts behind a file, and not in memory
	budget int64 // artifacts that exceed it are refused; 0: none

	failing atomic.Bool  // every call fails
	open    atomic.Int64 // handles behind files that are open
}

func newShelf() *shelf {
	s := &shelf{}
	fails := func() error {
		if s.failing.Load() {
			return errInjected
		}
		return nil
	}
	s.OnGet = func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
		a, ok, _ := s.Below().Get(ctx, key)
		if err := fails(); err != nil || !ok {
			return nil, false, err
		}
		if s.files {
			s.open.Add(1)
			a = modcache.NewArtifactFrom(&file{ReaderAt: a, s: s}, a.Size(), a.Info())
		}
		return a, true, nil
	}
	s.OnAdd = func(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
		if err := fails(); err != nil {
			return err
		}
		if s.budget > 0 && a.Size() > s.budget {
			return modcache.ErrTooLarge
		}
		return s.Below().Add(ctx, key, a)
	}
	s.OnDelete = func(ctx context.Context, key modcache.Key) error {
		if err := fails(); err != nil {
			return err
		}
		return s.Below().Delete(ctx, key)
	}
	s.OnFlush = func(context.Context) error { return fails() }
	return s
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

func (s *shelf) has(key modcache.Key) bool { return s.Entry(key) != nil }

func (s *shelf) keys() map[modcache.Key]bool {
	keys := map[modcache.Key]bool{}
	for _, k := range s.Keys() {
		keys[k] = true
	}
	return keys
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
