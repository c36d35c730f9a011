package modcache_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

func over(cc wazero.CompilationCache) wazero.RuntimeConfig {
	return wazero.NewRuntimeConfig().WithCompilationCache(cc)
}

func runOver(t testing.TB, cc wazero.CompilationCache, wasm []byte) uint64 {
	t.Helper()
	r := wazero.NewRuntimeWithConfig(bg, over(cc))
	defer r.Close(bg)
	got, err := cachetest.Run(r, wasm)
	require.NoError(t, err)
	return got
}

func TestCacheDropInAttach(t *testing.T) {
	needsCompiler(t)
	s := &storetest.Fake{}
	c := newCache(t, s, nil)
	cc := wazero.NewCompilationCache()
	require.NoError(t, c.Attach(cc))
	require.EqualValues(t, chainWant, runOver(t, cc, chainWasm))
	require.Equal(t, 1, s.Len())

	// What CompilationCache returns finds what Attach stored.
	requireRuns(t, ways[0], newCache(t, s, &modcache.Options{RequireHit: true}), chainWasm, chainWant)
}

func TestCacheDropInAttachRefuses(t *testing.T) {
	needsCompiler(t)
	s := &storetest.Fake{}
	c := newCache(t, s, nil)

	used := wazero.NewCompilationCache()
	r := wazero.NewRuntimeWithConfig(bg, over(used))
	defer r.Close(bg)
	err := c.Attach(used)
	require.ErrorContains(t, err, "before the first runtime")
	require.NotErrorIs(t, err, modcache.ErrUnsupportedWazero)
	_, err = r.CompileModule(bg, chainWasm)
	require.NoError(t, err)
	require.Zero(t, s.Len())

	twice := wazero.NewCompilationCache()
	require.NoError(t, c.Attach(twice))
	other := &storetest.Fake{}
	require.ErrorContains(t, c.Attach(twice), "attached to this compilation cache already")
	require.ErrorContains(t, newCache(t, other, nil).Attach(twice), "attached to this compilation cache already")
	require.EqualValues(t, chainWant, runOver(t, twice, chainWasm))
	require.Equal(t, 1, s.Len(), "the first one must stay attached")
	require.Zero(t, other.Len())

	require.ErrorContains(t, c.Attach(c.CompilationCache()), "already")

	for _, foreign := range []wazero.CompilationCache{nil, struct{ wazero.CompilationCache }{wazero.NewCompilationCache()}} {
		err := c.Attach(foreign)
		require.ErrorContains(t, err, "wazero.NewCompilationCache")
		require.NotErrorIs(t, err, modcache.ErrUnsupportedWazero)
	}
}

func attachDirectory(t testing.TB, c *modcache.Cache, dir string) wazero.CompilationCache {
	cc, err := wazero.NewCompilationCacheWithDir(dir)
	require.NoError(t, err)
	require.NoError(t, c.Attach(cc))
	return cc
}

func TestCacheDropInTrustsADirectory(t *testing.T) {
	needsCompiler(t)
	dir, files := cachetest.PlainDirectory(t, chainWasm)
	original, err := os.ReadFile(files[0])
	require.NoError(t, err)

	// Not without being told to.
	var seen witness
	wary := newCache(t, &storetest.Fake{}, seen.Options(modcache.Options{RequireHit: true}))
	r := wazero.NewRuntimeWithConfig(bg, over(attachDirectory(t, wary, dir)))
	_, err = r.CompileModule(bg, chainWasm)
	require.ErrorIs(t, err, modcache.ErrMiss)
	require.NoError(t, r.Close(bg))

	// What is taken over is kept, for those who don't have the directory.
	s := &storetest.Fake{}
	c := newCache(t, s, &modcache.Options{RequireHit: true, TrustDirectory: true})
	require.EqualValues(t, chainWant, runOver(t, attachDirectory(t, c, dir), chainWasm))
	require.Equal(t, 1, s.Len())
	requireRuns(t, ways[0], newCache(t, s, &modcache.Options{RequireHit: true}), chainWasm, chainWant)

	// Read-only, it is used and not kept.
	empty := &storetest.Fake{OnAdd: func(context.Context, modcache.Key, *modcache.Artifact) error {
		return errors.New("must not be called")
	}}
	c = newCache(t, empty, &modcache.Options{RequireHit: true, TrustDirectory: true, ReadOnly: true})
	require.EqualValues(t, chainWant, runOver(t, attachDirectory(t, c, dir), chainWasm))
	require.Zero(t, empty.Calls().Add)

	// The directory is never written.
	require.EqualValues(t, otherWant, runOver(t, attachDirectory(t, newCache(t, s, &modcache.Options{TrustDirectory: true}), dir), otherWasm))
	now, err := filepath.Glob(dir + "/*/*")
	require.NoError(t, err)
	require.Equal(t, files, now)
	left, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.Equal(t, original, left)
}

func TestCacheDropInTrustsADirectoryWithDamage(t *testing.T) {
	needsCompiler(t)
	for name, damage := range map[string]func(b []byte) []byte{
		"empty":       func([]byte) []byte { return nil },
		"magic":       func(b []byte) []byte { b[0] ^= 1; return b },
		"version":     func(b []byte) []byte { b[7] ^= 1; return b },
		"count":       func(b []byte) []byte { b[7+int(b[6])] ^= 1; return b },
		"huge count":  func(b []byte) []byte { b[7+int(b[6])+3] = 0xff; return b },
		"far offset":  func(b []byte) []byte { b[7+int(b[6])+4+8*chainLen-1] = 0x7f; return b },
		"code":        func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"truncated":   func(b []byte) []byte { return b[:len(b)-1] },
		"without end": func(b []byte) []byte { return append(b, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, files := cachetest.PlainDirectory(t, chainWasm)
			b, err := os.ReadFile(files[0])
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(files[0], damage(b), 0o600))
			var seen witness
			s := &storetest.Fake{}
			c := newCache(t, s, seen.Options(modcache.Options{TrustDirectory: true}))
			require.EqualValues(t, chainWant, runOver(t, attachDirectory(t, c, dir), chainWasm))
			require.EqualValues(t, 1, c.Metrics().Corrupt)
			require.Len(t, seen.Saw(modcache.EventCorrupt), 1)
			require.Equal(t, 1, s.Len(), "what was compiled instead is stored")
		})
	}
	t.Run("unreadable", func(t *testing.T) {
		dir, files := cachetest.PlainDirectory(t, chainWasm)
		require.NoError(t, os.Remove(files[0]))
		require.NoError(t, os.Mkdir(files[0], 0o700))
		var seen witness
		c := newCache(t, &storetest.Fake{}, seen.Options(modcache.Options{TrustDirectory: true}))
		require.EqualValues(t, chainWant, runOver(t, attachDirectory(t, c, dir), chainWasm))
		require.EqualValues(t, 1, c.Metrics().StoreErrors)
		require.Len(t, seen.Saw(modcache.EventStoreFailed), 1)
	})
}

// Everything that wazero accepts runs from the cache as it does without.
func TestCacheDropInIsTransparent(t *testing.T) {
	needsCompiler(t)
	var imports, empty, memory, trap wasmtest.Module
	g := imports.Import("env", "g", imports.Type(nil, []byte{wasmtest.I32}))
	imports.Func(0, "f", 0x10, byte(g))
	memory.Memory(1)
	memory.Data([]byte{42})
	memory.Func(memory.Type(nil, []byte{wasmtest.I32}), "f", 0x41, 0, 0x28, 2, 0)
	trap.Func(trap.Type(nil, []byte{wasmtest.I32}), "f", 0x00)
	s := &storetest.Fake{}
	for pass := range 2 {
		c := newCache(t, s, &modcache.Options{RequireHit: pass == 1})
		for _, m := range []*wasmtest.Module{&imports, &empty, &memory, &trap} {
			for _, config := range []wazero.RuntimeConfig{
				over(c.CompilationCache()),
				over(c.CompilationCache()).WithCloseOnContextDone(true),
				over(c.CompilationCache()).WithCustomSections(true).WithDebugInfoEnabled(false),
			} {
				var got, want [2]any
				for i, config := range []wazero.RuntimeConfig{config, config.WithCompilationCache(nil)} {
					func() {
						r := wazero.NewRuntimeWithConfig(bg, config)
						defer r.Close(bg)
						_, err := r.NewHostModuleBuilder("env").NewFunctionBuilder().WithFunc(func() uint32 { return 7 }).Export("g").Instantiate(bg)
						require.NoError(t, err)
						mod, err := r.Instantiate(bg, m.Bytes())
						require.NoError(t, err)
						if f := mod.ExportedFunction("f"); f != nil {
							res, err := f.Call(bg)
							if err != nil {
								err = errors.New(err.Error())
							}
							[]*[2]any{&got, &want}[i][0], []*[2]any{&got, &want}[i][1] = res, err
						}
					}()
				}
				require.Equal(t, want, got)
			}
		}
	}
}

// counting listens to every function.
type counting struct{ calls int }

func (l *counting) NewFunctionListener(api.FunctionDefinition) experimental.FunctionListener {
	return experimental.FunctionListenerFunc(func(context.Context, api.Module, api.FunctionDefinition, []uint64, experimental.StackIterator) {
		l.calls++
	})
}

func TestCacheDropInWithListeners(t *testing.T) {
	needsCompiler(t)
	s := &storetest.Fake{}
	for pass := range 3 {
		c := newCache(t, s, &modcache.Options{RequireHit: pass == 2})
		var l counting
		ctx := experimental.WithFunctionListenerFactory(bg, &l)
		r := wazero.NewRuntimeWithConfig(ctx, over(c.CompilationCache()))
		mod, err := r.Instantiate(ctx, chainWasm)
		require.NoError(t, err)
		_, err = mod.ExportedFunction("f").Call(bg)
		require.NoError(t, err)
		require.Equal(t, chainLen, l.calls)
		require.NoError(t, r.Close(bg))
		// Code with calls to listeners is never served to a compile without.
		if pass == 0 {
			requireRuns(t, ways[0], c, chainWasm, chainWant)
			require.Zero(t, c.Metrics().Hits)
			require.Equal(t, 2, s.Len())
		}
	}
}

// wazero gives modules with and without debug info one name, so that the drop-in can't
// tell them apart. What must hold is that they run, and trap as they should.
func TestCacheDropInSharesAcrossDebugInfo(t *testing.T) {
	needsCompiler(t)
	wasm, err := os.ReadFile(filepath.Join(cachetest.WazeroDir(t), "internal/testing/dwarftestdata/testdata/tinygo/main.wasm"))
	require.NoError(t, err)
	for _, first := range []bool{true, false} {
		s := &storetest.Fake{}
		for pass, debug := range []bool{first, !first} {
			c := newCache(t, s, nil)
			r := wazero.NewRuntimeWithConfig(bg, over(c.CompilationCache()).WithDebugInfoEnabled(debug))
			_, err := r.NewHostModuleBuilder("wasi_snapshot_preview1").NewFunctionBuilder().
				WithFunc(func(_, _, _, _ uint32) uint32 { return 0 }).Export("fd_write").Instantiate(bg)
			require.NoError(t, err)
			_, err = r.Instantiate(bg, wasm)
			require.ErrorContains(t, err, "wasm stack trace:")
			if pass == 0 {
				require.Equal(t, debug, strings.Contains(err.Error(), ".go:"), "%v", err)
			} else {
				require.EqualValues(t, 1, c.Metrics().Hits)
			}
			require.NoError(t, r.Close(bg))
		}
	}
}
