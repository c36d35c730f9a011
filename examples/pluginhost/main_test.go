package main

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/examples/exampletest"
)

func TestHost(t *testing.T) {
	exampletest.NeedCompiler(t)
	exampletest.NeedToolchain(t)
	english, err := build(t.Context(), "Hello")
	require.NoError(t, err)
	french, err := build(t.Context(), "Bonjour")
	require.NoError(t, err)
	plugins, cache := t.TempDir(), filepath.Join(t.TempDir(), "cache")
	install := func(wasm []byte) {
		// Renamed into place, so that nobody reads half of it.
		tmp := filepath.Join(plugins, "new")
		require.NoError(t, os.WriteFile(tmp, wasm, 0o600))
		require.NoError(t, os.Rename(tmp, filepath.Join(plugins, "hello.wasm")))
	}
	install(english)

	h, post := serve(t, plugins, cache)
	ok := func(path, body, want string) {
		t.Helper()
		status, got := post(path, body)
		require.Equal(t, 200, status, got)
		require.Equal(t, want, got)
	}
	fails := func(path, body string, want int) {
		t.Helper()
		status, got := post(path, body)
		require.Equal(t, want, status, got)
	}

	ok("/alice/hello", "world", "Hello, world! This is visit 1.\n")
	ok("/alice/hello", "world", "Hello, world! This is visit 2.\n")
	ok("/bob/hello", "world", "Hello, world! This is visit 1.\n")
	require.EqualValues(t, 1, h.cache.Metrics().Compiles, "one for both tenants")

	// Alice's handle is good for alice, and for nobody else.
	_, handle := post("/alice/hello", "handle")
	ok("/bob/hello", "try "+handle, "-1")
	ok("/alice/hello", "try "+handle, "3")

	ok("/alice/hello", "long", "0") // the host keeps no such name

	for _, path := range []string{"/carol/hello", "/alice/goodbye", "/alice/..%2Fhello", "/alice/HELLO"} {
		fails(path, "", 404)
	}

	// A plugin that crashes or loops is started anew; what the tenant has stays.
	fails("/alice/hello", "crash", 502)
	ok("/alice/hello", "again", "Hello, again! This is visit 4.\n")
	h.timeout = 500 * time.Millisecond
	fails("/alice/hello", "loop", 504)
	h.timeout = time.Minute
	ok("/alice/hello", "again", "Hello, again! This is visit 5.\n")

	// A new version is served from the next request on, and a broken one never.
	install(french)
	ok("/alice/hello", "Alice", "Bonjour, Alice! This is visit 6.\n")
	install([]byte("not a module"))
	fails("/alice/hello", "crash", 502)
	ok("/alice/hello", "Alice", "Bonjour, Alice! This is visit 7.\n")
	install(english)
	ok("/alice/hello", "Alice", "Hello, Alice! This is visit 8.\n")

	require.NoError(t, os.WriteFile(filepath.Join(plugins, "broken.wasm"), []byte("not a module"), 0o600))
	fails("/alice/broken", "", 502)
	fails("/alice/broken", "", 502)

	// Many at once.
	done := make(chan string)
	for i := range 20 {
		go func() {
			_, body := post([]string{"/alice/hello", "/bob/hello"}[i%2], "all")
			done <- body
		}()
	}
	for range 20 {
		require.True(t, strings.HasPrefix(<-done, "Hello, all! "))
	}
	ok("/alice/hello", "last", "Hello, last! This is visit 19.\n")
	ok("/bob/hello", "last", "Hello, last! This is visit 12.\n")

	// After a restart, nothing is compiled.
	h, post = serve(t, plugins, cache)
	ok("/bob/hello", "world", "Hello, world! This is visit 1.\n")
	require.Zero(t, h.cache.Metrics().Compiles)
	require.EqualValues(t, 1, h.cache.Metrics().Hits)
}

func TestSaid(t *testing.T) {
	var b bytes.Buffer
	s := said{log.New(&b, "", 0), "plugin.wasm", maxSaid}
	for range 10_000 {
		n, err := s.Write([]byte("forged\nplugin other.wasm says \"no\"\n"))
		require.NoError(t, err)
		require.Equal(t, 35, n)
	}
	require.Less(t, b.Len(), 2*maxSaid)
	for line := range strings.Lines(b.String()) {
		require.True(t, strings.HasPrefix(line, "plugin plugin.wasm says "), line)
	}
}

// serve runs a host on a loopback address until the test ends.
func serve(t *testing.T, plugins, cache string) (h *host, post func(path, body string) (int, string)) {
	h, err := newHost(t.Context(), plugins, cache, []string{"alice", "bob"}, log.New(io.Discard, "", 0))
	require.NoError(t, err)
	h.timeout = time.Minute
	srv := httptest.NewServer(h.routes())
	t.Cleanup(func() {
		srv.Close()
		require.NoError(t, h.close(context.Background()))
	})
	return h, func(path, body string) (int, string) {
		res, err := http.Post(srv.URL+path, "text/plain", strings.NewReader(body))
		if err != nil {
			return 0, err.Error()
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			return 0, err.Error()
		}
		return res.StatusCode, string(b)
	}
}

func TestDebugPage(t *testing.T) {
	h, err := newHost(t.Context(), t.TempDir(), filepath.Join(t.TempDir(), "cache"), nil, log.New(io.Discard, "", 0))
	require.NoError(t, err)
	defer h.close(t.Context())
	w := httptest.NewRecorder()
	h.routes().ServeHTTP(w, httptest.NewRequest("GET", "/debug/modcache", nil))
	require.Equal(t, 200, w.Code)
	require.Contains(t, w.Body.String(), "<code>"+h.cache.EngineID()[:10])
}
