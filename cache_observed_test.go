package modcache_test

import (
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestCacheOverAnObservedMemory compiles whatever the Memory's observer does: end its goroutine, or compile in the Cache, with the
// only slot there is.
func TestCacheOverAnObservedMemory(t *testing.T) {
	needsCompiler(t)
	for name, observe := range map[string]func(*modcache.Runtime){
		"ends":     func(*modcache.Runtime) { runtime.Goexit() },
		"compiles": func(r *modcache.Runtime) { _, _ = r.CompileModule(bg, wasmtest.Sum(300, 2)) },
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name == "compiles" {
				t.Skip("takes as long as a store may take")
			}
			var r *modcache.Runtime
			var inside atomic.Bool
			s := modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: 1, OnEvent: func(modcache.Event) {
				if !inside.Swap(true) {
					observe(r)
				}
			}})
			c := newCache(t, s, &modcache.Options{MaxCompiles: 1, SmallModules: -1})
			r = newRuntime(t, c, nil)
			require.EqualValues(t, 300*301/2+1, call(t, r, compile(t, r, wasmtest.Sum(300, 1))))
			inside.Store(false)
			plain := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCompilationCache(c.CompilationCache()))
			defer plain.Close(bg)
			require.EqualValues(t, 300*301/2+3, call(t, plain, compile(t, plain, wasmtest.Sum(300, 3))))
		})
	}
}
