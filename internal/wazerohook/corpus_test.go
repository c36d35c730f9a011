package wazerohook

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache/internal/wasmtest"
)

// TestReadEntryAcceptsWhatWazeroWrites compiles the modules that wazero's source comes
// with: a check that is too strict would refuse sound entries for ever. With
// MODCACHE_THOROUGH set it takes all of them, in a minute or two.
func TestReadEntryAcceptsWhatWazeroWrites(t *testing.T) {
	w := probed(t)
	dir, err := wasmtest.WazeroDir()
	if err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	const features = wasmtest.AllFeatures &^ wasmtest.TypedFunctionReferences
	thorough := os.Getenv("MODCACHE_THOROUGH") != ""
	seen, tables, maps, n := 0, 0, 0, 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".wasm" {
			return err
		}
		n++
		// These have source maps and catch tables.
		special := strings.Contains(path, "dwarftestdata") || strings.Contains(path, "xception")
		if !thorough && !special && n%100 != 0 {
			return nil
		}
		wasm, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		stored := &files{}
		func() {
			defer func() { _ = recover() }() // some of them make wazero panic
			rc := wazero.NewRuntimeConfig().WithCoreFeatures(features)
			err = compileOver(t, experimental.WithCompilationWorkers(bg, 2), rc, stored, wasm)
		}()
		if err != nil || len(stored.entries) == 0 {
			return nil // not valid, by intent
		}
		_, b := stored.only(t)
		e, err := read(b, w.Version, AnyFunctions)
		require.NoError(t, err, path)
		require.NoError(t, e.CheckCode(), path)
		seen++
		if e.tail[4] == 1 {
			maps++
		}
		if hasCatchTables(w) && string(e.tail[len(e.tail)-4:]) != "\x00\x00\x00\x00" {
			tables++
		}
		return nil
	})
	require.NoError(t, err)
	t.Logf("%d of %d modules compile; %d have source maps, %d catch tables", seen, n, maps, tables)
	require.Greater(t, seen, 20)
	require.Positive(t, maps)
	require.True(t, tables > 0 || !hasCatchTables(w))
}
