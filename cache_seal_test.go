package modcache_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// A bit that flips in the memory of a store after an artifact was used is found before
// wazero gets it, wherever it is.
func TestBitsThatFlipAfterTheFirstUse(t *testing.T) {
	needsCompiler(t)
	wasm := wasmtest.Sum(4, 0)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			seen := &witness{}
			store := modcache.NewMemory(nil)
			open := func() *modcache.Cache {
				return cacheOver(t, store, seen.options(modcache.Options{Retain: -1}))
			}
			want, err := w.run(open(), wasm)
			require.NoError(t, err)
			key := seen.keys()[0]
			for i := range 40 {
				a, ok, err := store.Get(bg, key)
				require.NoError(t, err)
				require.True(t, ok)
				got, err := w.run(open(), wasm) // which checks it once
				require.NoError(t, err)
				require.Equal(t, want, got)

				b, err := a.Bytes()
				require.NoError(t, err)
				before := len(seen.saw(modcache.EventCorrupt))
				b[(i*len(b))/40] ^= 1 << (i % 8)
				got, err = w.run(open(), wasm)
				require.NoError(t, err)
				require.Equal(t, want, got)
				require.Len(t, seen.saw(modcache.EventCorrupt), before+1, "byte %d", (i*len(b))/40)
			}
		})
	}
}
