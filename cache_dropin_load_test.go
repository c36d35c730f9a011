package modcache_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestDropInLoadsLargeCode many times, from small to so large that it lies in huge pages, and drops
// it in all ways: wazero protects, unmaps and finalizes memory that was moved under it.
func TestDropInLoadsLargeCode(t *testing.T) {
	needsCompiler(t)
	for _, functions := range []int{300, 4000, 60_000} {
		if functions > 4000 && testing.Short() {
			continue
		}
		t.Run(fmt.Sprint(functions), func(t *testing.T) {
			wasm, want := wasmtest.Sum(functions, 7), uint64(functions*(functions+1)/2+7)
			dir := filepath.Join(t.TempDir(), "c")
			for i := range 12 {
				c, err := modcache.Open(dir, nil)
				require.NoError(t, err)
				cc := c.CompilationCache()
				r := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCompilationCache(cc))
				cm := compile(t, r, bytes.Clone(wasm))
				got, err := cachetest.Run(r, wasm)
				require.NoError(t, err)
				require.Equal(t, want, got)
				if i == 0 {
					t.Logf("%d KiB of machine code", c.Metrics().Store.Bytes>>10)
				} else {
					require.EqualValues(t, 1, c.Metrics().Hits)
				}
				switch i % 4 {
				case 0:
					require.NoError(t, cm.Close(bg))
				case 1:
					require.NoError(t, r.Close(bg))
					require.NoError(t, cc.Close(bg))
				case 2:
					require.NoError(t, r.Close(bg))
				}
				runtime.GC()
				require.NoError(t, c.Close(bg))
			}
			runtime.GC()
		})
	}
}
