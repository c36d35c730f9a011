package remote_test

import (
	"bytes"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/backendtest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/remote"
)

func TestStoreConformance(t *testing.T) {
	backendtest.Conforms(t, func(tb testing.TB) backendtest.Server {
		server := &storetest.Fake{}
		url := serve(tb, server, &remote.HandlerOptions{WriteTokens: []string{token}})
		return backendtest.Server{
			Open: func(tb testing.TB, o remote.Options) *remote.Store {
				o.Header = bearer(token)
				return open(tb, url, patient(o))
			},
			Damage: func(tb testing.TB, k modcache.Key) {
				a := server.Entry(k)
				b, err := a.Bytes()
				require.NoError(tb, err)
				b = bytes.Clone(b)
				b[len(b)-1] ^= 1
				server.Set(k, modcache.NewArtifact(b, a.Info()))
			},
		}
	})
}

// TestStoreFleet compiles on one machine and loads on others, which have a disk above the
// server.
func TestStoreFleet(t *testing.T) {
	ctx := t.Context()
	signer := generate(t)
	server := &storetest.Fake{}
	url := serve(t, server, &remote.HandlerOptions{WriteTokens: []string{token}})
	run := func(s modcache.Store) modcache.CacheMetrics {
		c, err := modcache.New(s, nil)
		require.NoError(t, err)
		rt, err := c.NewRuntime(ctx, wazero.NewRuntimeConfig())
		require.NoError(t, err)
		needCompiler(t, rt)
		for i := range 3 {
			mod, err := rt.InstantiateWithConfig(ctx, wasmtest.Sum(200, int32(i)), wazero.NewModuleConfig().WithName(strconv.Itoa(i)))
			require.NoError(t, err)
			got, err := mod.ExportedFunction("f").Call(ctx)
			require.NoError(t, err)
			require.Equal(t, []uint64{uint64(200*201/2 + i)}, got)
		}
		require.NoError(t, rt.Close(ctx))
		require.NoError(t, c.Flush(ctx))
		require.NoError(t, c.Close(ctx))
		return c.Metrics()
	}
	m := run(open(t, url, patient(remote.Options{Signer: signer, Header: bearer(token)})))
	require.EqualValues(t, 3, m.Compiles)
	require.Equal(t, 3, server.Len())

	for range 2 {
		ring := remote.Keyring{Keys: []remote.PublicKey{signer.Public()}}
		s := open(t, url, patient(remote.Options{Keyring: ring}))
		dir := t.TempDir()
		for start := range 2 {
			disk, err := modcache.OpenDisk(dir, nil)
			require.NoError(t, err)
			layers := modcache.NewLayered(nil,
				modcache.Layer{Store: disk, Timeout: time.Minute},
				modcache.Layer{Store: s, Timeout: -1, Write: modcache.WriteNever})
			m = run(layers)
			require.Zero(t, m.Compiles)
			require.EqualValues(t, 3, m.Hits)
			require.EqualValues(t, 3, s.Metrics().Hits, "start %d: then from the disk", start)
			require.NoError(t, layers.Close())
			require.NoError(t, disk.Close())
		}
	}

	// A node that doesn't trust the signer compiles.
	m = run(open(t, url, patient(remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{generate(t).Public()}}})))
	require.EqualValues(t, 3, m.Compiles)
}
