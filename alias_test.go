package modcache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
)

// TestStoresPreferCodeToAliases, which are added before and after it.
func TestStoresPreferCodeToAliases(t *testing.T) {
	key, module := diskKey(1), modcache.Fingerprint{1}
	alias := modcache.NewArtifact([]byte("alias"), modcache.Info{Engine: "e", Module: module})
	code := func(text string) *modcache.Artifact {
		return modcache.NewArtifact([]byte(text), modcache.Info{Engine: "e", Module: module, WasmSize: 9})
	}
	behind := modcache.NewArtifactFrom(strings.NewReader("code"), 4, modcache.Info{Engine: "e", Module: module, WasmSize: 9})
	holds := func(s modcache.Store) string {
		a, ok, err := s.Get(bg, key)
		require.NoError(t, err)
		require.True(t, ok)
		defer a.Close()
		b, err := a.Bytes()
		require.NoError(t, err)
		return string(b)
	}
	for name, s := range map[string]modcache.Store{
		"Memory": modcache.NewMemory(nil), "Local": modcache.NewLocal(nil), "Disk": openDisk(t, t.TempDir(), nil),
		"Layered": layered(t, nil, modcache.Layer{Store: modcache.NewMemory(nil)}, modcache.Layer{Store: openDisk(t, t.TempDir(), nil)}),
	} {
		for _, added := range []*modcache.Artifact{code("code"), behind} {
			require.NoError(t, s.Delete(bg, key))
			require.NoError(t, s.Add(bg, key, alias))
			require.Equal(t, "alias", holds(s))
			before := s.Metrics()
			require.NoError(t, s.Add(bg, key, modcache.NewArtifact([]byte("same"), alias.Info())))
			require.Equal(t, "alias", holds(s), name)
			require.NoError(t, s.Add(bg, key, modcache.NewArtifact([]byte("elsewhere"), modcache.Info{Engine: "e", Module: modcache.Fingerprint{2}})))
			require.Equal(t, "elsewhere", holds(s), name)
			require.NoError(t, s.Add(bg, key, added))
			require.Equal(t, "code", holds(s), name)
			require.Equal(t, before.Entries, s.Metrics().Entries, name)
			for _, other := range []*modcache.Artifact{alias, code("other")} {
				require.NoError(t, s.Add(bg, key, other))
				require.Equal(t, "code", holds(s))
			}
		}
	}
}

// start compiles a module over a store as a program does that starts, and ends.
func start(t *testing.T, s modcache.Store, o *modcache.Options, wasm []byte) (modcache.Key, modcache.CacheMetrics) {
	t.Helper()
	c := newCache(t, s, o)
	r := newRuntime(t, c, nil)
	require.NoError(t, compile(t, r, wasm).Close(bg))
	require.NoError(t, c.Flush(bg))
	return r.Key(modcache.NewModule(wasm)), c.Metrics()
}

// TestCacheKeepsWhatIdleAliasesHide: a directory has an alias whose code is gone, where the store behind it has that code. It is
// asked for it once.
func TestCacheKeepsWhatIdleAliasesHide(t *testing.T) {
	needsCompiler(t)
	all := spellings(t)
	for _, n := range []int{1, 3} {
		local, server := openDisk(t, t.TempDir(), nil), &storetest.Fake{}
		start(t, server, nil, all[n])
		code, _ := start(t, local, nil, all[0])
		start(t, local, nil, all[n])
		require.NoError(t, local.Delete(bg, code))
		both := func() modcache.Store {
			return layered(t, nil, modcache.Layer{Store: local}, modcache.Layer{Store: server, Write: modcache.WriteNever})
		}
		_, m := start(t, both(), nil, all[n])
		require.Zero(t, m.Compiles)
		asked := server.Calls().Get
		for range 2 {
			_, m = start(t, both(), nil, all[n])
			require.Zero(t, m.Compiles)
		}
		require.Equal(t, asked, server.Calls().Get)
	}
}

// TestCacheFollowsAliasesBehindIdleOnes: what the server's alias leads to is an alias in the directory, whose code is gone.
func TestCacheFollowsAliasesBehindIdleOnes(t *testing.T) {
	needsCompiler(t)
	all := spellings(t)
	for name, o := range map[string]modcache.Options{"writes": {}, "reads": {ReadOnly: true}, "requires": {RequireHit: true}} {
		for _, n := range []int{0, 1, 3} {
			t.Run(fmt.Sprint(name, " spelling ", n), func(t *testing.T) {
				dir, server := t.TempDir(), &storetest.Fake{}
				start(t, server, nil, all[2])
				local := openDisk(t, dir, nil)
				for _, n := range []int{1, 2} {
					start(t, local, nil, all[n])
				}
				for e, err := range local.Walk(bg) {
					require.NoError(t, err)
					if e.Info.WasmSize > 0 {
						require.NoError(t, local.Delete(bg, e.Key))
					}
				}
				for range 2 {
					both := layered(t, nil, modcache.Layer{Store: openDisk(t, dir, nil)}, modcache.Layer{Store: server})
					_, m := start(t, both, &o, all[n])
					require.Zero(t, m.Compiles)
					require.Zero(t, m.Corrupt)
				}
				require.Zero(t, server.Calls().Delete)
				_, m := start(t, server, &modcache.Options{RequireHit: true}, all[n])
				require.Zero(t, m.Compiles)
			})
		}
	}
}

// TestCacheLeavesNoAliasesOfCodeThatDidntFit, which would lead nowhere; of layers, one may have it.
func TestCacheLeavesNoAliasesOfCodeThatDidntFit(t *testing.T) {
	needsCompiler(t)
	wasm := spellings(t)[1]
	small, fake := modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: 1 << 10}), &storetest.Fake{}
	far := modcache.Layer{Store: fake, Write: modcache.WriteNever}
	for _, s := range []modcache.Store{small, layered(t, nil, modcache.Layer{Store: small}, far), layered(t, nil, modcache.Layer{Store: small}, modcache.Layer{Store: fake})} {
		_, m := start(t, s, nil, wasm)
		if fake.Len() == 0 {
			require.Zero(t, small.Metrics().Entries)
			require.EqualValues(t, 1, m.StoreErrors)
		}
	}
	require.Equal(t, 2, fake.Len())
}

// TestCacheStatusIsAboutCode: where that doesn't fit, an alias still may.
func TestCacheStatusIsAboutCode(t *testing.T) {
	needsCompiler(t)
	full := errors.New("no space left on device")
	s := &storetest.Fake{OnAdd: func(_ context.Context, _ modcache.Key, a *modcache.Artifact) error {
		if a.Info().WasmSize > 0 {
			return full
		}
		return nil
	}}
	var seen witness
	c := newCache(t, s, seen.Options(modcache.Options{}))
	for _, wasm := range spellings(t)[1:3] {
		compile(t, newRuntime(t, c, nil), wasm)
		require.False(t, c.Status().Storing)
		require.ErrorIs(t, c.Status().Err, full)
	}
	require.Greater(t, s.Calls().Add, 2, "with aliases")
	require.Equal(t, 1, seen.Warned())
	s.OnAdd = func(context.Context, modcache.Key, *modcache.Artifact) error { return full }
	compile(t, newRuntime(t, c, nil), spellings(t)[0])
	require.Equal(t, 1, seen.Warned(), "an alias that doesn't fit either is no news")
	for _, err := range seen.Saw(modcache.EventStoreFailed) {
		var failed *modcache.Error
		require.ErrorAs(t, err, &failed)
		require.Equal(t, "add", failed.Op)
	}
}

// TestCacheShortensChainsOfAliases, so that those between may go.
func TestCacheShortensChainsOfAliases(t *testing.T) {
	needsCompiler(t)
	all := spellings(t)
	for _, n := range []int{0, 3} {
		chain, other := modcache.NewMemory(nil), &storetest.Fake{}
		first, _ := start(t, chain, nil, all[1])
		second, _ := start(t, other, nil, all[2])
		start(t, other, nil, all[1]) // an alias of the second
		require.NoError(t, chain.Delete(bg, first))
		for _, key := range []modcache.Key{first, second} {
			require.NoError(t, chain.Add(bg, key, other.Entry(key)))
		}
		_, m := start(t, chain, nil, all[n])
		require.Zero(t, m.Compiles)
		require.NoError(t, chain.Delete(bg, first))
		for _, n := range []int{n, 0, 3} {
			_, m = start(t, chain, nil, all[n])
			require.Zero(t, m.Compiles)
		}
	}
}

// TestCacheEndsCyclesOfAliases, which stores that were filled apart can make together.
func TestCacheEndsCyclesOfAliases(t *testing.T) {
	needsCompiler(t)
	all := spellings(t)
	for _, n := range []int{0, 1, 2, 3} {
		cycle, other := modcache.NewMemory(nil), &storetest.Fake{}
		first, _ := start(t, cycle, nil, all[1])
		start(t, cycle, nil, all[2]) // an alias of the first
		start(t, other, nil, all[2])
		start(t, other, nil, all[1])
		require.NoError(t, cycle.Delete(bg, first))
		require.NoError(t, cycle.Add(bg, first, other.Entry(first)))
		_, m := start(t, cycle, nil, all[n])
		require.EqualValues(t, 1, m.Compiles)
		for _, n := range []int{n, 0, 1, 2, 3, 1, 2} {
			_, m = start(t, cycle, nil, all[n])
			require.Zero(t, m.Compiles, "spelling %d", n)
		}
	}
}
