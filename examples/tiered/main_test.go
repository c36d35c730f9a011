package main

import (
	"context"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/examples/exampletest"
)

// TestTiers has the compile wait until the interpreter has answered.
func TestTiers(t *testing.T) {
	exampletest.NeedCompiler(t)
	dir, wasm := filepath.Join(t.TempDir(), "cache"), exampletest.Module(50, 1)
	started, answered := make(chan struct{}), make(chan struct{})
	h, err := newHost(t.Context(), dir, wasm, &modcache.Options{OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventCompileStarted {
			close(started)
			<-answered
		}
	}})
	require.NoError(t, err)
	<-started
	_, by, err := h.answer(t.Context())
	require.NoError(t, err)
	require.Equal(t, interpreter, by)
	close(answered)
	<-h.prepared
	require.NoError(t, h.failed)
	_, by, err = h.answer(t.Context())
	require.NoError(t, err)
	require.Equal(t, machineCode, by)
	require.NoError(t, h.close(t.Context()))

	h, err = newHost(t.Context(), dir, wasm, nil) // the next start
	require.NoError(t, err)
	_, by, err = h.answer(t.Context())
	require.NoError(t, err)
	require.Equal(t, machineCode, by)
	require.Zero(t, h.cache.Metrics().Compiles)
	require.NoError(t, h.close(t.Context()))
}

// TestNoRequestFails asks from several goroutines while the tiers change.
func TestNoRequestFails(t *testing.T) {
	h, err := newHost(t.Context(), filepath.Join(t.TempDir(), "cache"), exampletest.Module(500, 1), nil)
	require.NoError(t, err)
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for {
				_, _, err := h.answer(t.Context())
				if err != nil {
					t.Error(err)
				}
				select {
				case <-h.prepared:
					return
				default:
				}
			}
		})
	}
	asking.Wait()
	require.NoError(t, h.close(t.Context()))
}

// TestClosedWhilePreparing ends the host during the compile.
func TestClosedWhilePreparing(t *testing.T) {
	h, err := newHost(t.Context(), filepath.Join(t.TempDir(), "cache"), exampletest.Module(500, 1), nil)
	require.NoError(t, err)
	require.NoError(t, h.close(context.Background()))
}
