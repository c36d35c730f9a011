package remote_test

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/remote"
)

const token = "write token"

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

func generate(t testing.TB) *remote.PrivateKey {
	t.Helper()
	k, err := remote.GenerateKey()
	require.NoError(t, err)
	return k
}

// serve starts a server with a Handler over s.
func serve(t testing.TB, s modcache.Store, o *remote.HandlerOptions) string {
	t.Helper()
	h, err := remote.NewHandler(s, o)
	require.NoError(t, err)
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func open(t testing.TB, url string, o *remote.Options) *remote.Store {
	t.Helper()
	s, err := remote.New(url, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// patient are limits that a slow machine keeps.
func patient(o remote.Options) *remote.Options {
	o.DialTimeout, o.FirstByte, o.Stall, o.Budget = time.Minute, time.Minute, time.Minute, time.Minute
	o.AbsentFor = -1
	return &o
}

// code returns bytes that can be compressed like machine code.
func code(size int) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(7, uint64(size)))
	for i := 0; i < len(b); {
		if i > 1000 && r.IntN(3) > 0 {
			i += copy(b[i:], b[i-1-r.IntN(900):][:8+r.IntN(40)])
			continue
		}
		b[i] = byte(r.Uint32())
		i++
	}
	return b
}

var info = modcache.Info{
	Engine: "wazero test", Module: modcache.Fingerprint{1}, WasmSize: 77,
	CompileTime: 3 * time.Second, Created: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
}

func key(n byte) modcache.Key { return modcache.Key{n, 0xab} }

func get(t testing.TB, s modcache.Store, k modcache.Key) *modcache.Artifact {
	t.Helper()
	a, ok, err := s.Get(t.Context(), k)
	require.NoError(t, err)
	if !ok {
		return nil
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func TestStoreRoundTrip(t *testing.T) {
	signer := generate(t)
	secret := []byte("0123456789abcdef")
	for name, c := range map[string]struct{ write, read remote.Options }{
		"signed": {remote.Options{Signer: signer}, remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{signer.Public()}}}},
		"secret": {remote.Options{Secret: secret}, remote.Options{Secret: secret, ReadOnly: true}},
		"bazel":  {remote.Options{Signer: signer, Layout: remote.BazelAC}, remote.Options{Signer: signer, Layout: remote.BazelAC}},
	} {
		t.Run(name, func(t *testing.T) {
			url := serve(t, &storetest.Fake{}, &remote.HandlerOptions{WriteTokens: []string{token}}) + "/some/path"
			c.write.Header = bearer(token)
			w, r := open(t, url, patient(c.write)), open(t, url+"/", patient(c.read))
			for i, size := range []int{0, 1, 1000, 3<<20 + 5} {
				want := code(size)
				require.Nil(t, get(t, r, key(byte(i))))
				require.NoError(t, w.Add(t.Context(), key(byte(i)), modcache.NewArtifact(want, info)))
				require.NoError(t, w.Flush(t.Context()))
				a := get(t, r, key(byte(i)))
				require.NotNil(t, a)
				b, err := a.Bytes()
				require.NoError(t, err)
				require.True(t, bytes.Equal(want, b))
				require.Equal(t, info, a.Info())
			}
			m := r.Metrics()
			require.Equal(t, [3]uint64{8, 4, 4}, [3]uint64{m.Lookups, m.Hits, m.Misses})
			require.EqualValues(t, 4, w.Report().Uploads)
			require.Less(t, w.Report().Uploaded, uint64(2<<20), "compressed")

			require.NoError(t, w.Delete(t.Context(), key(1)))
			require.NoError(t, w.Delete(t.Context(), key(1)))
			require.Nil(t, get(t, r, key(1)))
			if c.read.ReadOnly || c.read.Signer == nil {
				require.ErrorIs(t, r.Delete(t.Context(), key(2)), modcache.ErrReadOnly)
				require.ErrorIs(t, r.Add(t.Context(), key(2), modcache.NewArtifact(nil, info)), modcache.ErrReadOnly)
			}
		})
	}
}

func newArtifact(b []byte) *modcache.Artifact { return modcache.NewArtifact(b, info) }
