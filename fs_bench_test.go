package modcache_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// BenchmarkFSStoreStart is a warm start of a program from where its machine code may be. The
// module is the file that MODCACHE_BENCH_WASM names, if any.
func BenchmarkFSStoreStart(b *testing.B) {
	needsCompiler(b)
	wasm := wasmtest.Sum(20_000, 0)
	if file := os.Getenv("MODCACHE_BENCH_WASM"); file != "" {
		var err error
		wasm, err = os.ReadFile(file)
		require.NoError(b, err)
	}
	m := modcache.NewModule(wasm)
	filled := func(o modcache.DiskOptions) string {
		dir := tempCacheDir(b)
		c := openCache(b, dir, &modcache.Options{Disk: o})
		require.NoError(b, c.Warm(bg, nil, m))
		require.NoError(b, c.Close(bg))
		return dir
	}
	raw, compressed := filled(modcache.DiskOptions{}), filled(modcache.DiskOptions{Compress: true})
	plain, small := string(bundleOf(b, raw)), string(bundleOf(b, compressed))
	start := func(b *testing.B, store modcache.Store) {
		c, err := modcache.New(store, &modcache.Options{RequireHit: true, ReadOnly: true})
		require.NoError(b, err)
		r, err := c.NewRuntime(bg, nil)
		require.NoError(b, err)
		_, err = r.Compile(bg, m)
		require.NoError(b, err)
		require.NoError(b, r.Close(bg))
		require.NoError(b, c.Close(bg))
	}
	b.Run("disk", func(b *testing.B) {
		for b.Loop() {
			d, err := modcache.OpenDisk(raw, &modcache.DiskOptions{ReadOnly: true})
			require.NoError(b, err)
			start(b, d)
			require.NoError(b, d.Close())
		}
	})
	for name, bundle := range map[string]string{"bundle": plain, "compressed": small} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				s, err := modcache.OpenBundle(strings.NewReader(bundle), int64(len(bundle)), nil)
				require.NoError(b, err)
				start(b, s)
			}
			b.ReportMetric(float64(len(bundle)), "bundle-bytes")
		})
	}
}
