package oci_test

import (
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/backendtest"
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

func TestConformance(t *testing.T) {
	backendtest.Conforms(t, func(tb testing.TB) backendtest.Server {
		return backendtest.Over(backend(tb, repository(inMemory(tb)), nil))
	})
}

// TestPutUploadsTheConfigOnce, and again if the registry has lost it.
func TestPutUploadsTheConfigOnce(t *testing.T) {
	var asked, lost atomic.Int32
	in := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, ocispec.DescriptorEmptyJSON.Digest.String()):
			asked.Add(1)
		case r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") && lost.Add(-1) >= 0:
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		in.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	b := backend(t, repository(s), nil)
	for i := range 3 {
		require.NoError(t, b.Put(t.Context(), modcache.Key{byte(i)}, []byte{byte(i)}, false))
	}
	require.EqualValues(t, 1, asked.Load())
	lost.Store(1)
	require.Error(t, b.Put(t.Context(), key, []byte("entry"), false))
	require.NoError(t, b.Put(t.Context(), key, []byte("entry"), false))
	require.EqualValues(t, 2, asked.Load())
}

// TestUploadsHaveConnectionsOfTheirOwn, which lookups don't wait behind.
func TestUploadsHaveConnectionsOfTheirOwn(t *testing.T) {
	in := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var mu sync.Mutex
	asked, uploaded := map[string]bool{}, map[string]bool{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if r.Method == http.MethodPut || r.Method == http.MethodPatch {
			uploaded[r.RemoteAddr] = true
		} else {
			asked[r.RemoteAddr] = true
		}
		mu.Unlock()
		in.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	theirs := &http.Transport{}
	t.Cleanup(theirs.CloseIdleConnections)
	for _, transport := range []http.RoundTripper{nil, theirs} {
		clear(asked)
		clear(uploaded)
		b := backend(t, repository(s), &oci.Options{Transport: transport})
		for i := range 3 {
			require.NoError(t, b.Put(t.Context(), modcache.Key{byte(i)}, []byte("entry"), true))
			r, err := b.Get(t.Context(), modcache.Key{byte(i)})
			require.NoError(t, err)
			require.NoError(t, r.Close())
		}
		require.NotEmpty(t, uploaded)
		for at := range uploaded {
			require.NotContains(t, asked, at)
		}
		require.NoError(t, b.Close())
	}
}

// TestCutLayerIsReplaced has a registry's disk lose the end of a layer.
func TestCutLayerIsReplaced(t *testing.T) {
	in := inMemory(t).Config.Handler
	var cut atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		blob := strings.Contains(r.URL.Path, "/blobs/sha256:") && !strings.Contains(r.URL.Path, ocispec.DescriptorEmptyJSON.Digest.String())
		switch {
		case r.Method == http.MethodPut && r.URL.Query().Has("digest"):
			cut.Store(false)
		case blob && cut.Load():
			w.Header().Set("Content-Length", "3")
			_, _ = io.WriteString(w, "abc") // of nothing else, if that is HEAD
			return
		}
		in.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	b := backend(t, repository(s), nil)
	o := remote.Options{Signer: backendtest.Generate(t)}
	add := func() *remote.Store {
		store := backendtest.Open(t, b, o)
		require.NoError(t, store.Add(t.Context(), key, modcache.NewArtifact([]byte("code"), modcache.Info{})))
		require.NoError(t, store.Flush(t.Context()))
		return store
	}
	get := func() (ok bool, damaged uint64) {
		store := backendtest.Open(t, b, o)
		_, ok, err := store.Get(t.Context(), key)
		require.NoError(t, err, "the server hasn't failed")
		return ok, store.Metrics().Corrupt
	}
	add()
	cut.Store(true)
	ok, damaged := get()
	require.False(t, ok)
	require.EqualValues(t, 1, damaged)

	// Also by an upload of the same bytes, which finds a layer with that digest.
	report := add().Report()
	require.EqualValues(t, 1, report.Uploads)
	require.False(t, cut.Load())
	ok, _ = get()
	require.True(t, ok)
}

// TestPutOverAnImmutableTag says that there is an entry.
func TestPutOverAnImmutableTag(t *testing.T) {
	in := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"errors":[{"code":"TAG_INVALID","message":"the tag exists, and the repository is immutable"}]}`)
			return
		}
		in.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	require.ErrorIs(t, backend(t, repository(s), nil).Put(t.Context(), key, []byte("entry"), true), fs.ErrExist)
}

// TestDeleteLeavesImages of the same repository, that somebody has tagged with a key: registries drop all tags of what is deleted by its digest.
func TestDeleteLeavesImages(t *testing.T) {
	in := inMemory(t).Config.Handler
	var deleted []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			deleted = append(deleted, path.Base(r.URL.Path))
		}
		in.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	manifest := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,` +
		`"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},"layers":[]}`
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL+"/v2/example/modcache/manifests/"+key.String(), strings.NewReader(manifest))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusCreated, resp.StatusCode)
	require.NoError(t, backend(t, repository(s), nil).Delete(t.Context(), key))
	require.Equal(t, []string{key.String()}, deleted)
}
