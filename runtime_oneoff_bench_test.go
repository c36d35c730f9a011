package modcache_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// oneOff returns a module of about size bytes of code, in functions of some 100 bytes,
// unlike that of any other seed.
func oneOff(size int, seed int32) []byte {
	const function = 100
	var m wasmtest.Module
	t := m.Type([]byte{wasmtest.I32}, []byte{wasmtest.I32})
	for at := 0; at < size; at += function {
		export := ""
		if at == 0 {
			export = "f"
		}
		body := []byte{0x20, 0}
		for len(body)+8 < min(size, function) {
			constant := wasmtest.S32(1<<20 + seed + int32(at+len(body)))
			body = slices.Concat(body, []byte{0x41}, constant, []byte{0x6a, 0x20, 0, 0x6c})
		}
		m.Func(t, export, body...)
	}
	return m.Bytes()
}

// BenchmarkRuntimeOneOff compiles modules that nobody asks for again, and beside them one
// that is in the store: at each size a hit takes less than the compile, and above 16 KiB of
// code storing takes little beside it.
func BenchmarkRuntimeOneOff(b *testing.B) {
	seed := int32(0)
	run := func(r wazero.Runtime, next func() []byte) func(b *testing.B) {
		return func(b *testing.B) {
			for b.Loop() {
				compiled, err := r.CompileModule(bg, next())
				if err != nil {
					b.Fatal(err)
				}
				_ = compiled.Close(bg)
			}
		}
	}
	for _, size := range []int{50, 1 << 10, 4 << 10, 16 << 10, 64 << 10} {
		fresh := func() []byte { seed++; return oneOff(size, seed) }
		open := func(o modcache.Options) *modcache.Cache { return openCache(b, b.TempDir(), &o) }
		plain := wazero.NewRuntime(bg)
		defer plain.Close(bg)
		direct := newRuntime(b, open(modcache.Options{SmallModules: 1}), nil)
		require.NoError(b, compile(b, direct, fresh()).Close(bg))
		stored := newRuntime(b, open(modcache.Options{SmallModules: -1, Retain: forget}), nil)
		again := fresh()
		require.NoError(b, compile(b, stored, again).Close(bg))
		dropIn := func(small int) wazero.Runtime {
			cc := open(modcache.Options{SmallModules: small}).CompilationCache()
			return wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCompilationCache(cc))
		}
		for _, side := range []struct {
			name string
			run  func(b *testing.B)
		}{
			{"plain", run(plain, fresh)},
			{"direct", run(direct, fresh)},
			{"stored", run(stored, fresh)},
			{"hit", run(stored, func() []byte { return again })},
			{"drop-in direct", run(dropIn(1), fresh)},
			{"drop-in stored", run(dropIn(-1), fresh)},
		} {
			b.Run(fmt.Sprintf("%d/%s", size, side.name), side.run)
		}
	}
}
