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

// TestBounds has a guest answer with as many times 64 KiB as a request asks for, and with what isn't in its memory.
func TestBounds(t *testing.T) {
	exampletest.NeedCompiler(t)
	const i32 = 0x7f // the type
	var m exampletest.Wasm
	input := m.Import("host", "input", m.Type([]byte{i32, i32}, []byte{i32}))
	output := m.Import("host", "output", m.Type([]byte{i32, i32}, nil))
	nothing := m.Type(nil, nil)
	m.Memory(1)
	m.Func(nothing, "_initialize")
	m.Func(nothing, "handle",
		0x41, 0xfe, 0xff, 3, 0x41, 2, 0x10, byte(input), 0x1a, // input(end-2, 2), where the memory ends
		0x03, 0x40, // loop
		0x41, 0, 0x41, 0xfe, 0xff, 3, 0x2d, 0, 1, 0x41, 16, 0x74, 0x10, byte(output), // output(0, memory[end-1]<<16)
		0x41, 0xfe, 0xff, 3, 0x41, 0xfe, 0xff, 3, 0x2d, 0, 0, 0x41, 1, 0x6b, 0x3a, 0, 0, // memory[end-2]--
		0x41, 0xfe, 0xff, 3, 0x2d, 0, 0, 0x0d, 0, // again, while that isn't 0
		0x0b)
	s, err := newServer(t.Context(), t.TempDir(), m.Bytes())
	require.NoError(t, err)
	defer s.close(t.Context())
	for _, c := range []struct {
		request string
		status  int
		size    int
	}{
		{"\x10\x01", 200, maxAnswer},
		{"\x11\x01", 502, 0},
		{"\x01\x02", 502, 0},
		{"\x01\x01" + strings.Repeat("x", 4094), 200, 1 << 16},
		{"\x01\x01" + strings.Repeat("x", 4095), 413, 0},
	} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest("POST", "/", strings.NewReader(c.request)))
		require.Equal(t, c.status, w.Code, "%.2q", c.request)
		if c.status == 200 {
			require.Equal(t, c.size, w.Body.Len())
		}
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
