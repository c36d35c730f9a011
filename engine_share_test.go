package modcache_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// spellings are four builds of one program: as compact as it gets, with names and
// notes of two producers, and as a linker leaves it, with the size of the code
// section padded.
func spellings(t *testing.T) [][]byte {
	t.Helper()
	plain := wasmtest.Sum(300, 5)
	noted := func(producer string) []byte {
		name := []byte("\x00\x05\x04") // the module's name, of 4 bytes
		return slices.Concat(plain,
			wasmtest.CustomSection("name", append(name, producer...)),
			wasmtest.CustomSection("producers", []byte(producer)))
	}
	all := [][]byte{noted("left"), noted("righ"), padded(t, plain), plain} // the last one is the canonical encoding
	canonical, err := modcache.Canonical(plain)
	require.NoError(t, err)
	for _, wasm := range all {
		f, err := modcache.Canonical(wasm)
		require.NoError(t, err)
		require.Equal(t, canonical, f)
	}
	return all
}

// padded writes the size of the code section in five bytes.
func padded(t *testing.T, wasm []byte) []byte {
	t.Helper()
	for at := 8; at < len(wasm); {
		size, n := binary.Uvarint(wasm[at+1:])
		require.Positive(t, n)
		if wasm[at] == 10 {
			five := []byte{byte(size) | 0x80, byte(size>>7) | 0x80, byte(size>>14) | 0x80, byte(size>>21) | 0x80, byte(size >> 28)}
			return slices.Concat(wasm[:at+1], five, wasm[at+1+n:])
		}
		at += 1 + n + int(size)
	}
	t.Fatal("no code section")
	return nil
}

// TestRuntimeSpellingsShare: the first spelling is compiled, the others find its code, keep
// their own names, and find it directly from then on.
func TestRuntimeSpellingsShare(t *testing.T) {
	needsCompiler(t)
	for _, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0, 3, 1}} {
		s, all := &storetest.Fake{}, spellings(t)
		for round := range 2 {
			for i, n := range order {
				c := newCache(t, s, nil)
				r := newRuntime(t, c, wazero.NewRuntimeConfig().WithCustomSections(true))
				gets := s.Calls().Get
				compiled, err := r.CompileModule(bg, all[n])
				require.NoError(t, err)
				require.EqualValues(t, 300*301/2+5, call(t, r, compiled))

				m := c.Metrics()
				require.Equal(t, m.Hits+m.Misses, m.Lookups)
				if i == 0 && round == 0 {
					require.EqualValues(t, 1, m.Compiles)
				} else {
					require.Zero(t, m.Compiles, "spelling %d", n)
					require.EqualValues(t, 1, m.Hits)
				}
				if round > 0 {
					require.LessOrEqual(t, s.Calls().Get-gets, 2, "the code, and an alias before it")
				}
				require.EqualValues(t, 1, m.Stubbed)

				wantName := map[int]string{0: "left", 1: "righ"}[n]
				require.Equal(t, wantName, compiled.Name())
				sections := compiled.CustomSections()
				require.Len(t, sections, map[int]int{0: 1, 1: 1}[n], "producers; wazero keeps the names to itself")
				for _, section := range sections {
					require.True(t, bytes.HasSuffix(section.Data(), []byte(wantName)))
				}
			}
		}
	}
}

// TestRuntimeSpellingsInOne: code is shared, compiled modules are not.
func TestRuntimeSpellingsInOne(t *testing.T) {
	needsCompiler(t)
	c := newCache(t, &storetest.Fake{}, nil)
	r := newRuntime(t, c, nil)
	for range 2 {
		for n, wasm := range spellings(t) {
			compiled, err := r.CompileModule(bg, wasm)
			require.NoError(t, err)
			require.Equal(t, map[int]string{0: "left", 1: "righ"}[n], compiled.Name())
			require.EqualValues(t, 300*301/2+5, call(t, r, compiled))
		}
	}
	require.EqualValues(t, 1, c.Metrics().Compiles)
}

func TestRuntimeExactKeys(t *testing.T) {
	needsCompiler(t)
	c := newCache(t, &storetest.Fake{}, &modcache.Options{ExactKeys: true})
	r := newRuntime(t, c, nil)
	for _, wasm := range spellings(t) {
		_, err := r.CompileModule(bg, wasm)
		require.NoError(t, err)
	}
	require.EqualValues(t, len(spellings(t)), c.Metrics().Compiles)
}

// TestRuntimeConfigurationsDoNotShare: an alias names a module, and so never leads out of
// its configuration.
func TestRuntimeConfigurationsDoNotShare(t *testing.T) {
	needsCompiler(t)
	s, all := &storetest.Fake{}, spellings(t)
	c := newCache(t, s, nil)
	for i, config := range []wazero.RuntimeConfig{
		wazero.NewRuntimeConfig(),
		wazero.NewRuntimeConfig().WithCloseOnContextDone(true),
		wazero.NewRuntimeConfig().WithMemoryLimitPages(7),
		wazero.NewRuntimeConfig().WithDebugInfoEnabled(false),
	} {
		_, err := newRuntime(t, c, config).CompileModule(bg, all[i])
		require.NoError(t, err)
		require.EqualValues(t, i+1, c.Metrics().Compiles)
	}
}

// TestRuntimeDWARFKeepsItsSpelling: line numbers refer to places in the very bytes.
func TestRuntimeDWARFKeepsItsSpelling(t *testing.T) {
	needsCompiler(t)
	plain := wasmtest.Sum(20, 0)
	debug := slices.Concat(plain, wasmtest.CustomSection(".debug_line", []byte{0}))
	for _, enabled := range []bool{true, false} {
		c := newCache(t, &storetest.Fake{}, nil)
		r := newRuntime(t, c, wazero.NewRuntimeConfig().WithDebugInfoEnabled(enabled))
		for _, wasm := range [][]byte{plain, debug} {
			_, err := r.CompileModule(bg, wasm)
			require.NoError(t, err)
		}
		require.EqualValues(t, map[bool]int{true: 2, false: 1}[enabled], c.Metrics().Compiles)
	}
}

// TestRuntimeInvalidSpellingIsRefused: an alias must not make an invalid module valid. The
// body differs from that of a valid one in nothing the canonical encoding keeps, if
// that were wrong; here the store lies outright.
func TestRuntimeInvalidSpellingIsRefused(t *testing.T) {
	needsCompiler(t)
	valid := wasmtest.Const(1)
	invalid := bytes.Replace(valid, []byte{0x41, 1}, []byte{0x42, 1}, 1) // i64.const, where an i32 is due
	require.NotEqual(t, valid, invalid)
	plain := wazero.NewRuntime(bg)
	defer plain.Close(bg)
	_, want := plain.CompileModule(bg, invalid)
	require.Error(t, want)

	s := &storetest.Fake{}
	r := newRuntime(t, newCache(t, s, nil), nil)
	_, err := r.CompileModule(bg, valid)
	require.NoError(t, err)
	for range 2 {
		_, err = r.CompileModule(bg, invalid)
		require.EqualError(t, err, want.Error())
	}
	require.Equal(t, 1, s.Calls().Add, "nothing about the invalid module is kept")

	// Nobody has compiled these yet. The second has the body of its canonical encoding, which is compiled for it.
	s = &storetest.Fake{}
	r = newRuntime(t, newCache(t, s, nil), nil)
	for _, invalid := range [][]byte{padded(t, invalid), append(invalid, wasmtest.CustomSection("note", nil)...)} {
		_, want := plain.CompileModule(bg, invalid)
		_, err = r.CompileModule(bg, invalid)
		require.EqualError(t, err, want.Error())
	}
	require.Zero(t, s.Calls().Add)
}

// TestRuntimeLyingAliases: an alias that leads nowhere, to itself or to what isn't code, is a
// miss, and the module is compiled.
func TestRuntimeLyingAliases(t *testing.T) {
	needsCompiler(t)
	all := spellings(t)
	for name, lie := range map[string]func(s *storetest.Fake, code, alias modcache.Key){
		"target is gone": func(s *storetest.Fake, code, _ modcache.Key) { s.Set(code, nil) },
		"target is an alias": func(s *storetest.Fake, code, alias modcache.Key) {
			s.Set(code, s.Entry(alias))
		},
		"alias of another key": func(s *storetest.Fake, code, alias modcache.Key) {
			b, err := s.Entry(alias).Bytes()
			require.NoError(t, err)
			b = bytes.Clone(b)
			b[20] ^= 1
			s.Set(alias, modcache.NewArtifact(b, s.Entry(alias).Info()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &storetest.Fake{}
			first := newRuntime(t, newCache(t, s, nil), nil)
			for _, wasm := range all[:2] {
				_, err := first.CompileModule(bg, wasm)
				require.NoError(t, err)
			}
			lie(s, first.Key(modcache.NewModule(all[0])), first.Key(modcache.NewModule(all[1])))

			c := newCache(t, s, nil)
			r := newRuntime(t, c, nil)
			compiled, err := r.CompileModule(bg, all[1])
			require.NoError(t, err)
			require.EqualValues(t, 300*301/2+5, call(t, r, compiled))
			require.LessOrEqual(t, c.Metrics().Compiles, uint64(1))
		})
	}
}

// undeletable is a store that refuses to delete, as some servers do.
type undeletable struct{ modcache.Store }

func (undeletable) Delete(context.Context, modcache.Key) error { return fs.ErrPermission }

// TestCacheStoresWhereAliasesLead: the code that an alias led to goes, in whatever way, and the next start compiles. All later ones
// find what it has stored, which the alias must not keep out.
func TestCacheStoresWhereAliasesLead(t *testing.T) {
	needsCompiler(t)
	all := spellings(t)
	stores := map[string]func(dir string) modcache.Store{
		"disk":            func(dir string) modcache.Store { return openDisk(t, dir, nil) },
		"refuses deletes": func(dir string) modcache.Store { return undeletable{openDisk(t, dir, nil)} },
		"layers": func(dir string) modcache.Store {
			return layered(t, nil, modcache.Layer{Store: modcache.NewMemory(nil)}, modcache.Layer{Store: openDisk(t, dir, nil)})
		},
		"behind what is only read": func(dir string) modcache.Store {
			if _, err := os.Stat(dir + "/own"); err != nil { // it is yet to be filled
				return openDisk(t, dir, nil)
			}
			return layered(t, nil, modcache.Layer{Store: openDisk(t, dir, &modcache.DiskOptions{ReadOnly: true}), Write: modcache.WriteNever},
				modcache.Layer{Store: openDisk(t, dir+"/own", nil)})
		},
	}
	for over, open := range stores {
		for i := range 4 {
			warm, first := i%2 > 0, 1+i/2*2
			t.Run(fmt.Sprint(over, " warm=", warm, " spelling ", first), func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "cache")
				start := func(n int) (key modcache.Key, compiles uint64) {
					c := newCache(t, open(dir), nil)
					r := newRuntime(t, c, nil)
					m := modcache.NewModule(all[n])
					if warm {
						require.NoError(t, c.Warm(bg, nil, m))
					}
					compiled, err := r.Compile(bg, m)
					require.NoError(t, err)
					require.EqualValues(t, 300*301/2+5, call(t, r, compiled))
					require.NoError(t, c.Flush(bg))
					require.Zero(t, c.Metrics().StoreErrors)
					require.Zero(t, c.Metrics().Corrupt)
					return r.Key(m), c.Metrics().Compiles
				}
				code, _ := start(0)
				_, compiles := start(first)
				require.Zero(t, compiles, "there is an alias")
				require.NoError(t, openDisk(t, dir, nil).Delete(bg, code))
				if over == "behind what is only read" {
					require.NoError(t, os.Mkdir(dir+"/own", 0o700))
				}
				_, compiles = start(first)
				require.EqualValues(t, 1, compiles)
				for _, n := range []int{first, 0, 1, 2, 3, 1} {
					_, compiles = start(n)
					require.Zero(t, compiles, "spelling %d", n)
				}
			})
		}
	}
}

// TestCacheWithExactKeysReplacesIdleAliases that others have left, for whom the code of an odd spelling isn't.
func TestCacheWithExactKeysReplacesIdleAliases(t *testing.T) {
	needsCompiler(t)
	all, disk := spellings(t), openDisk(t, t.TempDir(), nil)
	exact := &modcache.Options{ExactKeys: true}
	code, _ := start(t, disk, nil, all[0])
	_, m := start(t, disk, nil, all[1])
	require.Zero(t, m.Compiles, "it is an alias")
	require.NoError(t, disk.Delete(bg, code))
	_, m = start(t, disk, exact, all[1])
	require.EqualValues(t, 1, m.Compiles)
	_, m = start(t, disk, exact, all[1])
	require.Zero(t, m.Compiles)
	_, m = start(t, disk, nil, all[0])
	require.EqualValues(t, 1, m.Compiles, "the other is of this spelling alone")
	_, m = start(t, disk, nil, all[2])
	require.Zero(t, m.Compiles)
}

// TestCacheWithExactKeysDeletesNoMoreThanTheAlias where a layer behind it couldn't answer for a moment.
func TestCacheWithExactKeysDeletesNoMoreThanTheAlias(t *testing.T) {
	needsCompiler(t)
	all, local, server := spellings(t), openDisk(t, t.TempDir(), nil), &storetest.Fake{}
	exact := &modcache.Options{ExactKeys: true}
	key, _ := start(t, server, exact, all[1])
	code, _ := start(t, local, nil, all[0])
	start(t, local, nil, all[1])
	require.NoError(t, local.Delete(bg, code))
	server.OnGet = func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
		return nil, false, errors.New("status 500")
	}
	start(t, layered(t, nil, modcache.Layer{Store: local}, modcache.Layer{Store: server, Write: modcache.WriteNever}), exact, all[1])
	require.Zero(t, server.Calls().Delete)
	require.NotNil(t, server.Entry(key))
	a, ok, err := local.Get(bg, key)
	require.NoError(t, err)
	require.True(t, ok)
	defer a.Close()
	require.Greater(t, a.Size(), int64(1000), "it is the code")
}
