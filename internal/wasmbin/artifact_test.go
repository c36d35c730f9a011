package wasmbin

import (
	"context"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
)

// codeMaker compiles modules to native code, with a directory cache to see it.
type codeMaker struct {
	t   *testing.T
	dir string
	r   wazero.Runtime
}

func newCodeMaker(t *testing.T, debugInfo bool) *codeMaker {
	if !compilerSupported() {
		t.Skip("NOT TESTED: wazero has no compiler here")
	}
	ctx := context.Background()
	m := &codeMaker{t: t, dir: t.TempDir()}
	cache, err := wazero.NewCompilationCacheWithDir(m.dir)
	require.NoError(t, err)
	m.r = wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigCompiler().WithCompilationCache(cache).
		WithCoreFeatures(allFeatures).WithDebugInfoEnabled(debugInfo))
	t.Cleanup(func() {
		m.r.Close(ctx)
		cache.Close(ctx)
	})
	return m
}

// artifact returns the native code of a module as wazero stores it, without the
// source map, or nil if wazero refuses the module.
func (m *codeMaker) artifact(wasm []byte) []byte {
	t := m.t
	c, err := compile(m.r, wasm)
	if err != nil {
		return nil
	}
	defer c.Close(context.Background())
	var entry []byte
	err = filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			require.Nil(t, entry, "more than one entry")
			entry, err = os.ReadFile(path)
			os.Remove(path)
		}
		return err
	})
	require.NoError(t, err)
	require.NotNil(t, entry, "nothing was stored")
	return withoutSourceMap(entry)
}

func withoutSourceMap(entry []byte) []byte {
	at := len("WAZEVO")
	at += 1 + int(entry[at])
	at += 4 + 8*int(binary.LittleEndian.Uint32(entry[at:]))
	at += 8 + int(binary.LittleEndian.Uint64(entry[at:]))
	at += 4
	end := at + 1
	if entry[at] != 0 {
		end += 8 + 16*int(binary.LittleEndian.Uint64(entry[end:]))
	}
	return append(entry[:at:at], entry[end:]...)
}

// wazero makes the same native code of a module, of another spelling of it, of
// its canonical encoding and of its stripped form.
func TestArtifactsEqual(t *testing.T) {
	makers := []*codeMaker{newCodeMaker(t, false), newCodeMaker(t, true)}
	modules, respelled := 0, 0
	for i, m := range sampledCorpus(t, 80) {
		if len(m.wasm) > 50_000 && strings.Contains(m.name, "/") && !thorough() {
			continue // takes too long for every day
		}
		canonical, err := Canonical(m.wasm)
		if err != nil {
			continue
		}
		maker := makers[i%2]
		want := maker.artifact(m.wasm)
		if want == nil {
			continue
		}
		modules++
		require.Equal(t, want, maker.artifact(canonical), m.name)
		require.Equal(t, want, maker.artifact(mangle(m.wasm, uint64(i))), m.name)
		if len(canonical) != len(m.wasm) {
			respelled++
			require.Equal(t, want, maker.artifact(stripped(t, m.wasm)), m.name)
		}
	}
	t.Logf("%d modules, %d of them not canonical as they are", modules, respelled)
}

func compilerSupported() (ok bool) {
	defer func() { ok = recover() == nil }()
	ctx := context.Background()
	wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigCompiler()).Close(ctx)
	return true
}
