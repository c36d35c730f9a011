package remote_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/remote"
)

// events collects what a Cache tells.
type events struct {
	mu  sync.Mutex
	all []modcache.Event
}

func (e *events) take(event modcache.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, event)
}

func (e *events) of(kind modcache.EventKind) (some []modcache.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, event := range e.all {
		if event.Kind == kind {
			some = append(some, event)
		}
	}
	return some
}

// TestStoreTellsTheCache has a wrong keyring show, by default, once, and with both keys.
func TestStoreTellsTheCache(t *testing.T) {
	cachetest.NeedsCompiler(t)
	signer, other := generate(t), generate(t)
	shelf := newFake()
	compile := func(c *modcache.Cache, modules ...[]byte) {
		r, err := c.NewRuntime(t.Context(), nil)
		require.NoError(t, err)
		defer r.Close(t.Context())
		for _, wasm := range modules {
			_, err = r.Compile(t.Context(), modcache.NewModule(wasm))
			require.NoError(t, err)
		}
	}
	modules := [][]byte{wasmtest.Sum(40, 1), wasmtest.Sum(41, 2), wasmtest.Sum(42, 3)}
	w := over(t, shelf, *patient(remote.Options{Signer: signer}))
	c, err := modcache.New(w, nil)
	require.NoError(t, err)
	compile(c, modules...)
	require.NoError(t, c.Flush(t.Context()))
	require.NoError(t, c.Close(t.Context()))
	require.NoError(t, w.Close())

	for _, layered := range []bool{false, true} {
		s := over(t, shelf, *patient(remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{other.Public()}}}))
		var store modcache.Store = s
		if layered {
			l := modcache.NewLayered(nil, modcache.Layer{Store: modcache.NewMemory(nil)}, modcache.Layer{Name: "fleet", Store: s, Timeout: -1})
			defer l.Close()
			store = l
		}
		var log bytes.Buffer
		told := &events{}
		c, err := modcache.New(store, &modcache.Options{OnEvent: told.take, Logger: slog.New(slog.NewTextHandler(&log, nil)), ReadOnly: true, Retain: -1})
		require.NoError(t, err)
		compile(c, modules...)
		status := c.Status()
		require.NoError(t, c.Close(t.Context()))

		corrupt := told.of(modcache.EventCorrupt)
		require.Len(t, corrupt, len(modules), "once each")
		for _, e := range corrupt {
			require.ErrorIs(t, e.Err, modcache.ErrOtherKey)
			require.Equal(t, map[bool]string{false: "remote", true: "fleet"}[layered], e.Layer)
		}
		require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
		for _, text := range []string{log.String(), status.Untrusted} {
			require.Contains(t, text, "signed by key "+signer.Public().ID().String())
			require.Contains(t, text, "trusted is only what is signed by key "+other.Public().ID().String())
		}
		_, _, err = s.Get(t.Context(), key(9))
		require.NoError(t, err)
		require.NoError(t, s.Close())
		require.Len(t, told.of(modcache.EventCorrupt), len(modules))
	}
}

// TestStoreTellsOfUploads has a Cache tell what fails in the background, and each failure of a layer once.
func TestStoreTellsOfUploads(t *testing.T) {
	cachetest.NeedsCompiler(t)
	shelf := newFake()
	shelf.put = func(context.Context, modcache.Key, []byte, bool) error { return errors.New("the shelf is full") }
	shelf.get = func(context.Context, modcache.Key) (io.ReadCloser, error) {
		return nil, errors.New("the shelf is dark")
	}
	s := over(t, shelf, *patient(remote.Options{Signer: generate(t), Retries: -1}))
	disk := openDisk(t, t.TempDir(), nil)
	l := modcache.NewLayered(nil, modcache.Layer{Store: disk}, modcache.Layer{Store: s, Timeout: -1})
	told := &events{}
	c, err := modcache.New(l, &modcache.Options{OnEvent: told.take})
	require.NoError(t, err)
	r, err := c.NewRuntime(t.Context(), nil)
	require.NoError(t, err)
	_, err = r.Compile(t.Context(), modcache.NewModule(wasmtest.Sum(40, 1)))
	require.NoError(t, err)
	require.Error(t, c.Flush(t.Context()))
	require.NoError(t, c.Close(t.Context()))
	require.NoError(t, l.Close())
	require.NoError(t, s.Close())
	var texts []string
	for _, e := range told.of(modcache.EventStoreFailed) {
		texts = append(texts, e.Err.Error())
	}
	all := strings.Join(texts, "\n")
	gets := 0
	for _, call := range shelf.took() {
		if call == "get" {
			gets++
		}
	}
	require.NotZero(t, gets)
	require.Equal(t, gets, strings.Count(all, "the shelf is dark"), all)
	require.Equal(t, 1, strings.Count(all, "remote a fake: upload"), all)
}

// TestStoreObservers are told until they stop, whatever another one does.
func TestStoreObservers(t *testing.T) {
	s := over(t, newFake(), remote.Options{Signer: generate(t), OnEvent: func(modcache.Event) { runtime.Goexit() }})
	defer s.Close()
	n := 0
	s.Observe(func(modcache.Event) { panic("an observer") })
	s.Observe(func(modcache.Event) { runtime.Goexit() })
	stop := s.Observe(func(modcache.Event) { n++ })
	require.NoError(t, add(t, s, key(1), 10))
	require.NoError(t, s.Flush(t.Context()))
	require.NotNil(t, first(s.Get(t.Context(), key(1))))
	require.Equal(t, 1, n)
	stop()
	require.NoError(t, add(t, s, key(2), 10))
	require.NoError(t, s.Flush(t.Context()))
	require.Equal(t, 1, n)
}
