package oci_test

import (
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/modcachetest"
	"github.com/modcache/modcache/remote"
	"github.com/modcache/modcache/remote/oci"
)

// inMemory starts a registry in memory.
func inMemory(tb testing.TB) *httptest.Server {
	tb.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	tb.Cleanup(s.Close)
	return s
}

func repository(s *httptest.Server) string {
	return strings.TrimPrefix(s.URL, "http://") + "/example/modcache"
}

func backend(tb testing.TB, repository string, o *oci.Options) *oci.Backend {
	tb.Helper()
	if o == nil {
		o = &oci.Options{}
	}
	o.PlainHTTP = true
	b, err := oci.New(repository, o)
	require.NoError(tb, err)
	return b
}

func generate(tb testing.TB) *remote.PrivateKey {
	tb.Helper()
	key, err := remote.GenerateKey()
	require.NoError(tb, err)
	return key
}

// open returns a store that has as long as a busy machine needs.
func open(tb testing.TB, b remote.Backend, o remote.Options) *remote.Store {
	tb.Helper()
	o.FirstByte, o.Stall, o.Budget, o.AbsentFor, o.Pause = time.Minute, time.Minute, time.Minute, -1, -1
	if o.Retries == 0 {
		o.Retries = -1
	}
	s, err := remote.NewWithBackend(b, "registry", &o)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, s.Close()) })
	return s
}

// shared is a store with what another handle on its registry needs.
type shared struct {
	*remote.Store
	b *oci.Backend
	o remote.Options
}

func TestConformance(t *testing.T) {
	conformance(t, func(tb testing.TB) *oci.Backend { return backend(tb, repository(inMemory(tb)), nil) })
}

func conformance(t *testing.T, make func(tb testing.TB) *oci.Backend, skip ...string) {
	again := func(tb testing.TB, s modcache.Store, readOnly bool) modcache.Store {
		sh := s.(*shared)
		o := sh.o
		o.ReadOnly = readOnly
		return &shared{open(tb, sh.b, o), sh.b, sh.o}
	}
	observed := func(tb testing.TB, observer func(modcache.Event)) modcache.Store {
		b := make(tb)
		o := remote.Options{Signer: generate(tb), OnEvent: observer}
		return &shared{open(tb, b, o), b, o}
	}
	modcachetest.TestStore(t, func(tb testing.TB) modcache.Store { return observed(tb, nil) }, &modcachetest.Options{
		Observe:  observed,
		Deferred: true,
		Skip:     skip,
		Reopen: func(tb testing.TB, s modcache.Store) modcache.Store {
			require.NoError(tb, s.(*shared).Close())
			return again(tb, s, false)
		},
		Share:    func(tb testing.TB, s modcache.Store) modcache.Store { return again(tb, s, false) },
		ReadOnly: func(tb testing.TB, s modcache.Store) modcache.Store { return again(tb, s, true) },
		Damage: func(tb testing.TB, s modcache.Store, k modcache.Key) {
			b := s.(*shared).b
			r, err := b.Get(tb.Context(), k)
			require.NoError(tb, err)
			entry, err := io.ReadAll(r)
			require.NoError(tb, err)
			require.NoError(tb, r.Close())
			entry[len(entry)-1] ^= 1
			require.NoError(tb, b.Put(tb.Context(), k, entry, true))
		},
	})
}
