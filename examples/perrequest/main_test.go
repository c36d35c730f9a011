package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/examples/exampletest"
)

func TestServer(t *testing.T) {
	exampletest.NeedCompiler(t)
	exampletest.NeedToolchain(t)
	wasm, err := build(t.Context())
	require.NoError(t, err)
	cache := t.TempDir()
	for _, snapshots := range []uint64{1, 0} { // the second one finds the first one's
		s, err := newServer(t.Context(), cache, wasm)
		require.NoError(t, err)
		srv := httptest.NewServer(s)
		var clients sync.WaitGroup
		for range 8 {
			clients.Go(func() {
				for range 5 {
					res, err := http.Post(srv.URL, "text/plain", strings.NewReader("word7 of Word19999, and nothing else"))
					if err != nil {
						t.Error(err)
						return
					}
					b, _ := io.ReadAll(res.Body)
					_ = res.Body.Close()
					if string(b) != "2 known words, request 1 of this instance\n" {
						t.Errorf("%s: %s", res.Status, b)
					}
				}
			})
		}
		clients.Wait()
		srv.Close()
		require.Equal(t, snapshots, s.cache.Metrics().Snapshots)
		require.NoError(t, s.close(t.Context()))
	}
}

// BenchmarkRequest answers requests in an instance each: of the template, of plain wazero, and
// in one instance that answers all of them, as those of a pool do.
func BenchmarkRequest(b *testing.B) {
	ctx := context.Background()
	wasm, err := build(ctx)
	require.NoError(b, err)
	request := []byte("word7 of Word19999, and nothing else")
	s, err := newServer(ctx, b.TempDir(), wasm)
	require.NoError(b, err)
	defer s.close(ctx)
	plain := wazero.NewRuntime(ctx)
	defer plain.Close(ctx)
	require.NoError(b, hostFunctions(ctx, plain))
	compiled, err := plain.CompileModule(ctx, wasm)
	require.NoError(b, err)

	b.Run("template", func(b *testing.B) {
		for b.Loop() {
			_, err := s.answer(ctx, request)
			require.NoError(b, err)
		}
	})
	b.Run("wazero", func(b *testing.B) {
		for b.Loop() {
			mod, err := plain.InstantiateModule(ctx, compiled, guestConfig())
			require.NoError(b, err)
			require.NoError(b, initialize(ctx, mod))
			_, err = call(ctx, mod, request)
			require.NoError(b, err)
			require.NoError(b, mod.Close(ctx))
		}
	})
	b.Run("pool", func(b *testing.B) {
		mod, err := s.tmpl.Instantiate(ctx, nil)
		require.NoError(b, err)
		defer mod.Close(ctx)
		for b.Loop() {
			_, err = call(ctx, mod, request)
			require.NoError(b, err)
		}
	})
	b.Run("instantiate template", func(b *testing.B) {
		for b.Loop() {
			mod, err := s.tmpl.Instantiate(ctx, nil)
			require.NoError(b, err)
			require.NoError(b, mod.Close(ctx))
		}
	})
	b.Run("instantiate wazero", func(b *testing.B) {
		for b.Loop() {
			mod, err := plain.InstantiateModule(ctx, compiled, guestConfig())
			require.NoError(b, err)
			require.NoError(b, mod.Close(ctx))
		}
	})
}
