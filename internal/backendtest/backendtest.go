// Package backendtest runs the conformance suite over servers and backends of package remote.
package backendtest

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/modcachetest"
	"github.com/modcache/modcache/remote"
)

// Generate returns a new key.
func Generate(tb testing.TB) *remote.PrivateKey {
	tb.Helper()
	key, err := remote.GenerateKey()
	require.NoError(tb, err)
	return key
}

// Open returns a store that has as long as a busy machine needs, and tries nothing again unless o says so.
func Open(tb testing.TB, b remote.Backend, o remote.Options) *remote.Store {
	tb.Helper()
	o.FirstByte, o.Stall, o.Budget, o.AbsentFor, o.Pause = time.Minute, time.Minute, time.Minute, -1, -1
	if o.Retries == 0 {
		o.Retries = -1
	}
	s, err := remote.NewWithBackend(b, "backend", &o)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, s.Close()) })
	return s
}

// Server is where stores that are tested have their entries.
type Server struct {
	Open   func(tb testing.TB, o remote.Options) *remote.Store
	Damage func(tb testing.TB, key modcache.Key)
}

// Over returns a backend as a Server.
func Over(b remote.Backend) Server {
	return Server{
		Open: func(tb testing.TB, o remote.Options) *remote.Store { return Open(tb, b, o) },
		Damage: func(tb testing.TB, key modcache.Key) {
			r, err := b.Get(tb.Context(), key)
			require.NoError(tb, err)
			entry, err := io.ReadAll(r)
			require.NoError(tb, err)
			require.NoError(tb, r.Close())
			entry[len(entry)-1] ^= 1
			require.NoError(tb, b.Put(tb.Context(), key, entry, true))
		},
	}
}

// shared is a store with what another handle on its server needs.
type shared struct {
	*remote.Store
	server Server
	o      remote.Options
}

func (v Server) open(tb testing.TB, o remote.Options, readOnly bool) modcache.Store {
	s := &shared{server: v, o: o}
	o.ReadOnly = readOnly
	s.Store = v.Open(tb, o)
	return s
}

// Conforms runs all tests of the suite but those to skip, each with servers of its own, which hold nothing yet.
func Conforms(t *testing.T, server func(tb testing.TB) Server, skip ...string) {
	observed := func(tb testing.TB, observer func(modcache.Event)) modcache.Store {
		return server(tb).open(tb, remote.Options{Signer: Generate(tb), OnEvent: observer}, false)
	}
	again := func(tb testing.TB, s modcache.Store, readOnly bool) modcache.Store {
		return s.(*shared).server.open(tb, s.(*shared).o, readOnly)
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
		Damage:   func(tb testing.TB, s modcache.Store, key modcache.Key) { s.(*shared).server.Damage(tb, key) },
	})
}
