package modcache_test

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// BenchmarkRuntimeCompileAgain is what a module costs that the runtime has in use.
func BenchmarkRuntimeCompileAgain(b *testing.B) {
	r := newRuntime(b, newCache(b, &storetest.Fake{}, nil), nil)
	m := modcache.NewModule(wasmtest.Sum(3000, 0))
	defer compile(b, r, m.Bytes()).Close(bg)
	b.Run("Module", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			compiled, err := r.Compile(bg, m)
			if err != nil {
				b.Fatal(err)
			}
			_ = compiled.Close(bg)
		}
	})
	b.Run("bytes", func(b *testing.B) {
		b.SetBytes(int64(len(m.Bytes())))
		for b.Loop() {
			compiled, err := r.CompileModule(bg, m.Bytes())
			if err != nil {
				b.Fatal(err)
			}
			_ = compiled.Close(bg)
		}
	})
	b.Run("hash alone", func(b *testing.B) {
		b.SetBytes(int64(len(m.Bytes())))
		for b.Loop() {
			_ = modcache.Sum(m.Bytes())
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				compiled, err := r.Compile(bg, m)
				if err != nil {
					b.Error(err)
					return
				}
				_ = compiled.Close(bg)
			}
		})
	})
}

// BenchmarkRuntimePerRequest makes a runtime, loads one module, and closes both.
func BenchmarkRuntimePerRequest(b *testing.B) {
	m := modcache.NewModule(wasmtest.Sum(3000, 0))
	for name, retain := range map[string]int64{"retained": 0, "from the store": -1} {
		b.Run(name, func(b *testing.B) {
			c := warmCache(b, nil, &modcache.Options{Retain: retain}, m.Bytes())
			for b.Loop() {
				r, err := c.NewRuntime(bg, nil)
				require.NoError(b, err)
				_, err = r.Compile(bg, m)
				require.NoError(b, err)
				require.NoError(b, r.Close(bg))
			}
		})
	}
}

// BenchmarkRuntimeData loads a module that is nearly all data: what wazero compiles in no time has to be hashed.
func BenchmarkRuntimeData(b *testing.B) {
	const size = 32 << 20
	var m wasmtest.Module
	m.Memory(size>>16 + 1)
	m.Data(make([]byte, size))
	wasm := m.Bytes()
	for name, r := range map[string]wazero.Runtime{
		"wazero":  wazero.NewRuntime(bg),
		"Runtime": newRuntime(b, warmCache(b, nil, &modcache.Options{Retain: forget}, wasm), nil),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				compiled, err := r.CompileModule(bg, wasm)
				require.NoError(b, err)
				_ = compiled.Close(bg)
			}
		})
	}
}

// BenchmarkRuntimeWarmStart is what a new process does to have a module ready, in one
// process. MODCACHE_WASM names the module.
func BenchmarkRuntimeWarmStart(b *testing.B) {
	file := os.Getenv("MODCACHE_WASM")
	if file == "" {
		b.Skip("set MODCACHE_WASM to the file of a module")
	}
	wasm, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	ctx, dir := context.Background(), b.TempDir()
	start := map[string]func() error{
		"wazero directory": func() error {
			cc, err := wazero.NewCompilationCacheWithDir(dir + "/wazero")
			if err != nil {
				return err
			}
			defer cc.Close(ctx)
			r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCompilationCache(cc))
			_, err = r.CompileModule(ctx, wasm)
			return err
		},
		"Runtime": func() error {
			c, err := modcache.Open(dir+"/modcache", nil)
			if err != nil {
				return err
			}
			defer c.Close(ctx)
			r, err := c.NewRuntime(ctx, nil)
			if err != nil {
				return err
			}
			defer r.Close(ctx)
			_, err = r.CompileModule(ctx, wasm)
			return err
		},
	}
	for name, start := range start {
		b.Run(name, func(b *testing.B) {
			require.NoError(b, start()) // which compiles
			for b.Loop() {
				require.NoError(b, start())
			}
		})
	}
}
