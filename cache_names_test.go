package modcache_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestCacheNames has everything that people read say which module it is about, and nothing
// depend on that.
func TestCacheNames(t *testing.T) {
	cachetest.NeedsCompiler(t)
	wasm := wasmtest.Sum(50, 1)
	called := slices.Concat(wasm, nameSection("calls itself"))
	for _, test := range []struct {
		name    string
		module  *modcache.Module
		aliases int // stored, as the spelling isn't canonical
	}{
		{"given.wasm", modcache.NewModule(called).Named("given.wasm"), 1},
		{"calls itself", modcache.NewModule(called), 1},
		{"", modcache.NewModule(wasm), 0},
	} {
		var mu sync.Mutex
		var events []modcache.Event
		var log bytes.Buffer
		dir := filepath.Join(t.TempDir(), "cache")
		open := func() *modcache.Cache {
			return cachetest.Open(t, dir, &modcache.Options{
				Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
				OnEvent: func(e modcache.Event) {
					mu.Lock()
					defer mu.Unlock()
					events = append(events, e)
				},
			})
		}
		c := open()
		r := cachetest.NewRuntime(t, c, nil)
		key := r.Key(test.module)
		require.Equal(t, r.Key(modcache.NewModule(test.module.Bytes())), key, "the name is no part of it")
		_, err := r.Compile(t.Context(), test.module)
		require.NoError(t, err)
		require.NoError(t, c.Close(t.Context()))
		for _, e := range events {
			require.Equal(t, test.name, e.Name, "%v", e.Kind)
		}
		require.Len(t, events, 4+test.aliases, "%v", events)
		if test.name == "" {
			require.Contains(t, log.String(), " key="+key.String())
			require.NotContains(t, log.String(), "name=")
		} else {
			require.Contains(t, log.String(), "key="+key.String()[:12]+" ")
			require.NotContains(t, log.String(), key.String())
		}

		// The next process reads it.
		events = nil
		c = open()
		disk := c.Store().(*modcache.Disk)
		for e, err := range disk.Walk(t.Context()) {
			require.NoError(t, err)
			require.Equal(t, test.name, e.Info.Name)
		}
		_, err = cachetest.NewRuntime(t, c, nil).Compile(t.Context(), test.module)
		require.NoError(t, err)
		require.Equal(t, modcache.EventHit, events[0].Kind)
		require.Equal(t, test.name, events[0].Name)
	}
}

func TestCacheNamesInErrors(t *testing.T) {
	cachetest.NeedsCompiler(t)
	m := modcache.NewModule(wasmtest.Const(1)).Named("seven.wasm")
	c := cachetest.New(t, &storetest.Fake{}, &modcache.Options{RequireHit: true})
	r := cachetest.NewRuntime(t, c, nil)
	_, err := r.Compile(t.Context(), m)
	require.ErrorIs(t, err, modcache.ErrMiss)
	require.ErrorContains(t, err, "modcache: compile seven.wasm (key "+r.Key(m).String()[:12]+"…): ")
	var e *modcache.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "seven.wasm", e.Name)
	require.Equal(t, r.Key(m), e.Key)
	require.ErrorContains(t, c.Warm(t.Context(), nil, m), "modcache: warm module seven.wasm: ")

	// What a store says of the same entry names it once.
	var w cachetest.Witness
	s := &storetest.Fake{OnGet: func(_ context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
		return nil, false, &modcache.Error{Op: "get", Store: "shelf", Key: key, Err: errors.New("no ladder")}
	}}
	r = cachetest.NewRuntime(t, cachetest.New(t, s, w.Options(modcache.Options{})), nil)
	_, err = r.Compile(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, "modcache: get seven.wasm (key "+r.Key(m).String()[:12]+"…): shelf: no ladder", w.Saw(modcache.EventStoreFailed)[0].Error())
}

// TestCacheNamesWhomItWaitsFor has a log say which module another process compiles.
func TestCacheNamesWhomItWaitsFor(t *testing.T) {
	cachetest.NeedsCompiler(t)
	m := modcache.NewModule(wasmtest.Const(1)).Named("seven.wasm")
	dir := filepath.Join(t.TempDir(), "cache")
	var names []string
	var unlock func()
	c := cachetest.Open(t, dir, &modcache.Options{OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventWaiting {
			names = append(names, e.Name)
			unlock()
		}
	}})
	r := cachetest.NewRuntime(t, c, nil)
	other, err := modcache.OpenDisk(dir, nil)
	require.NoError(t, err)
	defer other.Close()
	unlock, err = other.Lock(t.Context(), r.Key(m))
	require.NoError(t, err)
	_, err = r.Compile(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, []string{"seven.wasm"}, names)
}
