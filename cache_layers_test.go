package modcache_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestCacheLooksBehindALayer whose entry it can't use: what is sound in another one is found, start after start, and stays.
func TestCacheLooksBehindALayer(t *testing.T) {
	needsCompiler(t)
	good := tempCacheDir(t)
	filled := openCache(t, good, nil)
	id := filled.EngineID()
	m := modcache.NewModule(chainWasm)
	snapshot := &modcache.TemplateOptions{ID: "1", Init: func(context.Context, api.Module) error { return nil }}
	for _, w := range ways {
		requireRuns(t, w, filled, chainWasm, chainWant)
	}
	r := newRuntime(t, filled, nil)
	tmpl, err := r.NewTemplate(bg, m, snapshot)
	require.NoError(t, err)
	require.NoError(t, tmpl.Close(bg))
	stub, err := filled.Stub(bg, wazero.NewRuntimeConfig(), m)
	require.NoError(t, err)
	require.NotEmpty(t, stub)
	require.NoError(t, filled.Close(bg))
	var keys []modcache.Key
	for e, err := range openDisk(t, good, nil).Walk(bg) {
		require.NoError(t, err)
		keys = append(keys, e.Key)
	}

	artifact := func(text string) *modcache.Artifact {
		return modcache.NewArtifact([]byte(text), modcache.Info{Engine: id})
	}
	alias := "modcache alias 1\x00" + string(make([]byte, 32)) + string(make([]byte, 32))
	files := func(text string) modcache.Store { // frames are sound
		d := openDisk(t, tempCacheDir(t), nil)
		for _, key := range keys {
			require.NoError(t, d.Add(bg, key, artifact(text)))
		}
		s, err := modcache.OpenFS(os.DirFS(d.Dir()), nil)
		require.NoError(t, err)
		return s
	}
	fake := &storetest.Fake{OnDelete: func(context.Context, modcache.Key) error { return modcache.ErrReadOnly }}
	for _, key := range keys {
		fake.Set(key, artifact("not sealed"))
	}
	unreadable := &storetest.Fake{OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
		src := storetest.Source{OnRead: func([]byte, int64) (int, error) { return 0, errors.New("input/output error") }}
		return modcache.NewArtifactFrom(src, 4000, modcache.Info{Engine: id}), true, nil
	}, OnDelete: func(context.Context, modcache.Key) error { panic("not called") }}
	for name, bad := range map[string]modcache.Store{
		"none": nil, "unreadable": unreadable, "no code": files("not sealed by a Cache, and longer than a seal"), "too short": files("short"), "an alias that leads nowhere": files(alias), "not sealed": fake,
	} {
		for _, o := range []modcache.Options{{RequireHit: true}, {RequireHit: true, ReadOnly: true}} {
			start := func(use func(c *modcache.Cache)) {
				disk := openDisk(t, good, nil)
				never := modcache.Layer{Store: bad, Write: modcache.WriteNever}
				memory := modcache.Layer{Store: modcache.NewMemory(nil)}
				nested := func(write modcache.WritePolicy, layers ...modcache.Layer) modcache.Layer {
					l := modcache.NewLayered(nil, layers...)
					t.Cleanup(func() { _ = l.Close() })
					return modcache.Layer{Store: l, Write: write}
				}
				for _, layers := range [][]modcache.Layer{
					{memory, never, never, {Store: disk}},
					{memory, nested(modcache.WriteThrough, never, never, modcache.Layer{Store: disk})},
					{nested(modcache.WriteNever, memory, never, nested(modcache.WriteNever, never)), {Store: disk}},
					{memory, nested(modcache.WriteNever, nested(modcache.WriteNever, never), modcache.Layer{Store: disk, Write: modcache.WriteNever}), never},
				} {
					l := modcache.NewLayered(nil, layers...)
					c := newCache(t, l, &o)
					use(c)
					use(c) // what was promoted, or found before
					require.NoError(t, c.Close(bg))
					require.NoError(t, l.Close())
					n := 0
					for _, err := range disk.Walk(bg) {
						require.NoError(t, err)
						n++
					}
					require.Equal(t, len(keys), n)
				}
				require.NoError(t, disk.Close())
			}
			for _, w := range ways {
				t.Run(name+" "+w.Name, func(t *testing.T) {
					start(func(c *modcache.Cache) { requireRuns(t, w, c, chainWasm, chainWant) })
				})
			}
			t.Run(name+" others", func(t *testing.T) {
				start(func(c *modcache.Cache) {
					r := newRuntime(t, c, nil)
					stored, err := r.Stored(bg, m)
					require.NoError(t, err)
					require.True(t, stored)
					require.NoError(t, c.Warm(bg, nil, m))
				})
				start(func(c *modcache.Cache) {
					tmpl, err := newRuntime(t, c, nil).NewTemplate(bg, m, &modcache.TemplateOptions{ID: "1", Init: func(context.Context, api.Module) error { panic("not called") }})
					require.NoError(t, err)
					require.NoError(t, tmpl.Close(bg))
				})
				start(func(c *modcache.Cache) {
					stub, err := c.Stub(bg, wazero.NewRuntimeConfig(), m)
					require.NoError(t, err)
					requireRuns(t, ways[0], c, stub, chainWant)
				})
			})
		}
	}
}

// brokenFS is a file system whose files can be opened, and their first bytes be read.
type brokenFS struct{ dirfs.FS }

type brokenFile struct{ dirfs.File }

func (b brokenFS) OpenFile(name string, flag int, perm os.FileMode) (dirfs.File, error) {
	f, err := b.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return brokenFile{f}, nil
}

func (b brokenFile) ReadAt(p []byte, off int64) (int, error) {
	if len(p) > 16<<10 { // more than the header, which Get reads
		return 0, errors.New("input/output error")
	}
	return b.File.ReadAt(p, off)
}

// TestCacheLooksBehindALayer that fails in the middle of an entry.
func TestCacheLooksBehindALayerThatFailsLate(t *testing.T) {
	needsCompiler(t)
	wasm := wasmtest.Sum(3000, 0)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			dirs := []string{tempCacheDir(t), tempCacheDir(t)}
			var want uint64
			for _, dir := range dirs {
				c := openCache(t, dir, nil)
				var err error
				want, err = w.Run(c, wasm)
				require.NoError(t, err)
				require.NoError(t, c.Close(bg))
			}
			broken, err := modcache.OpenDiskOn(dirs[0], func(tree dirfs.FS) dirfs.FS { return brokenFS{tree} }, nil)
			require.NoError(t, err)
			defer broken.Close()
			l := layered(t, nil, modcache.Layer{Store: broken}, modcache.Layer{Store: openDisk(t, dirs[1], nil)})
			c := newCache(t, l, &modcache.Options{RequireHit: true})
			for range 2 {
				requireRuns(t, w, c, wasm, int(want))
			}
			require.NotZero(t, c.Metrics().StoreErrors)
			require.Zero(t, c.Metrics().Corrupt)
			require.NoError(t, c.Close(bg))
			healed := newCache(t, openDisk(t, dirs[0], nil), &modcache.Options{RequireHit: true})
			requireRuns(t, w, healed, wasm, int(want))
		})
	}
}

// TestLayeredForgetsWhatItPasses: a layer that can't delete has no list that grows for ever.
func TestLayeredForgetsWhatItPasses(t *testing.T) {
	fake := &storetest.Fake{OnDelete: func(context.Context, modcache.Key) error { return modcache.ErrReadOnly }}
	l := modcache.NewLayered(nil, modcache.Layer{Store: fake, Write: modcache.WriteNever, Direct: true}, modcache.Layer{Store: modcache.NewMemory(nil)})
	defer l.Close()
	key := func(n int) modcache.Key { return modcache.Key{byte(n), byte(n >> 8)} }
	asked := func() (n int) {
		for i := range 10_000 {
			before := fake.Calls().Get
			_, ok, err := l.Get(bg, key(i))
			require.NoError(t, err)
			require.False(t, ok)
			n += fake.Calls().Get - before
		}
		return n
	}
	require.Equal(t, 10_000, asked())
	for i := range 10_000 {
		require.ErrorIs(t, l.Delete(bg, key(i)), modcache.ErrReadOnly)
		require.ErrorIs(t, l.Delete(bg, key(i)), modcache.ErrReadOnly)
	}
	n := asked()
	require.GreaterOrEqual(t, n, 10_000-5000)
	require.Less(t, n, 10_000-100)
}

// A Layered without layers is always empty, and costs a Cache nothing but compiles.
func TestCacheOverNoLayers(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		c := newCache(t, modcache.NewLayered(nil), nil)
		requireRuns(t, w, c, chainWasm, chainWant)
		require.NoError(t, c.Close(bg))
		require.EqualValues(t, 1, c.Metrics().Compiles)
	}
}
