package modcache_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestRuntimeRefusesAbsurdCounts before wazero, which would allocate hundreds of gigabytes to
// refuse them.
func TestRuntimeRefusesAbsurdCounts(t *testing.T) {
	absurd := []byte("\x00asm\x01\x00\x00\x00\x01\x05\xff\xff\xff\xff\x0f")
	listening := experimental.WithFunctionListenerFactory(bg, experimental.FunctionListenerFactoryFunc(
		func(api.FunctionDefinition) experimental.FunctionListener { return nil }))
	for _, o := range []modcache.Options{{}, {ExactKeys: true}, {FullDecode: true}} {
		c := newCache(t, &storetest.Fake{}, &o)
		r := newRuntime(t, c, nil)
		for _, ctx := range []context.Context{bg, listening} {
			_, err := r.CompileModule(ctx, absurd)
			require.ErrorContains(t, err, "4294967295 entries announced, 0 bytes left")
		}
		require.Zero(t, c.Metrics().Compiles)
	}
}

// TestRuntimeAllocatesLittleForMutants: modules with counts and lengths that can't be, of every size and in
// every place, take no more than what a smaller count than the least that is refused does.
func TestRuntimeAllocatesLittleForMutants(t *testing.T) {
	const most = 64 << 20
	r := newRuntime(t, newCache(t, &storetest.Fake{}, &modcache.Options{Retain: -1}), nil)
	rnd := rand.New(rand.NewPCG(1, 2))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 1000 {
		wasm := inflate(rnd, announcer)
		if m, err := r.CompileModule(bg, wasm); err == nil {
			m.Close(bg)
		}
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(most), "%x", wasm)
		before = after
	}
}

// announcer has a section of each kind that has counts or lengths, and each kind of entry that has some within. It
// has no bodies, whose locals may be as many as they say.
var announcer = func() []byte {
	section := func(id byte, entries ...string) []byte {
		content := wasmtest.U32(uint32(len(entries)))
		for _, e := range entries {
			content = append(content, e...)
		}
		return slices.Concat([]byte{id}, wasmtest.U32(uint32(len(content))), content)
	}
	return slices.Concat([]byte("\x00asm\x01\x00\x00\x00"),
		wasmtest.CustomSection("name", []byte("\x00\x02\x01m\x01\x06\x02\x00\x01f\x01\x01g\x02\x09\x01\x00\x02\x00\x01x\x01\x01y")),
		section(1, "\x60\x00\x00", "\x60\x02\x7f\x7e\x02\x7d\x7c", "\x60\x01\x70\x00"),
		section(2, "\x01m\x01f\x00\x00", "\x01m\x01t\x01\x70\x01\x02\x03", "\x01m\x01u\x03\x7f\x00", "\x01m\x01g\x00\x01"),
		section(4, "\x70\x00\x05", "\x6f\x01\x05\x06"),
		section(5, "\x00\x01"),
		section(6, "\x7f\x00\x41\xe4\x00\x0b", "\x7e\x01\x42\x00\x0b", "\x70\x00\xd2\x00\x0b"),
		section(7, "\x01a\x00\x00", "\x01b\x00\x01", "\x01c\x01\x00"),
		section(9, "\x00\x41\x00\x0b\x02\x00\x01", "\x01\x00\x01\x00", "\x05\x70\x02\xd2\x00\x0b\xd0\x70\x0b", "\x02\x00\x41\x00\x0b\x00\x01\x01"),
		section(11, "\x00\x41\x00\x0b\x03abc", "\x01\x02de", "\x02\x00\x41\x00\x0b\x01f"))
}()

// inflate changes a module in up to three places: bits, bytes, numbers that were something else, its end.
func inflate(rnd *rand.Rand, wasm []byte) []byte {
	const header = 8
	wasm = bytes.Clone(wasm)
	for range 1 + rnd.IntN(3) {
		at := header + rnd.IntN(len(wasm)-header)
		switch rnd.IntN(6) {
		case 0:
			wasm[at] ^= 1 << rnd.IntN(8)
		case 1:
			wasm[at] = byte(rnd.Uint32())
		case 2:
			wasm = wasm[:max(at, header+1)]
		default: // as many small ones as large ones
			n := wasmtest.U32(rnd.Uint32() >> rnd.IntN(32))
			wasm = slices.Replace(wasm, at, at+1, n...)
		}
	}
	return wasm
}
