package wasmbin

import (
	"context"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
)

// artifact compiles a module and returns the native code as wazero stores it,
// without the source map, or nil if wazero refuses the module.
func artifact(t *testing.T, dir string, wasm []byte, debugInfo bool) []byte {
	ctx := context.Background()
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	require.NoError(t, err)
	defer cache.Close(ctx)
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigCompiler().WithCompilationCache(cache).
		WithCoreFeatures(allFeatures).WithDebugInfoEnabled(debugInfo))
	defer r.Close(ctx)
	if c, err := compile(r, wasm); err != nil {
		return nil
	} else {
		defer c.Close(ctx)
	}
	var entry []byte
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
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
	if !compilerSupported() {
		t.Skip("NOT TESTED: wazero has no compiler here")
	}
	dir := t.TempDir()
	modules, respelled := 0, 0
	for i, m := range sampledCorpus(t, 25) {
		canonical, err := Canonical(m.wasm, nil)
		if err != nil {
			continue
		}
		debugInfo := i%2 == 0
		want := artifact(t, dir, m.wasm, debugInfo)
		if want == nil {
			continue
		}
		modules++
		require.Equal(t, want, artifact(t, dir, canonical, debugInfo), m.name)
		require.Equal(t, want, artifact(t, dir, mangle(m.wasm, uint64(i)), debugInfo), m.name)
		if len(canonical) != len(m.wasm) {
			respelled++
			require.Equal(t, want, artifact(t, dir, stripped(t, m.wasm), debugInfo), m.name)
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
