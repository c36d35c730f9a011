package modcache_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
)

// This file writes small WebAssembly modules, for guests that no compiler would produce.

const (
	wasmTypeI32 = 0x7f
	wasmTypeI64 = 0x7e
)

type wasmImport struct {
	module, name    string
	params, results []byte
}

// wasmFunc is a function of a guest; its index counts from the last import. Names that
// are empty are not exported.
type wasmFunc struct {
	name            string
	params, results []byte
	locals          int // of type i64
	body            []byte
}

const wasmNoStart = -1

func wasmModule(imports []wasmImport, funcs []wasmFunc, start int) []byte {
	var types, imps, decls, exports, bodies []byte
	n := 0
	typ := func(params, results []byte) []byte {
		types = append(types, 0x60)
		types = append(append(types, wasmLeb(len(params))...), params...)
		types = append(append(types, wasmLeb(len(results))...), results...)
		n++
		return wasmLeb(n - 1)
	}
	name := func(s string) []byte { return append(wasmLeb(len(s)), s...) }
	for _, im := range imports {
		imps = slices.Concat(imps, name(im.module), name(im.name), []byte{0}, typ(im.params, im.results))
	}
	exported := 0
	for i, f := range funcs {
		decls = append(decls, typ(f.params, f.results)...)
		if f.name != "" {
			exports = slices.Concat(exports, name(f.name), []byte{0}, wasmLeb(len(imports)+i))
			exported++
		}
		code := []byte{0}
		if f.locals > 0 {
			code = append([]byte{1}, append(wasmLeb(f.locals), wasmTypeI64)...)
		}
		code = append(append(code, f.body...), 0x0b)
		bodies = slices.Concat(bodies, wasmLeb(len(code)), code)
	}
	wasm := []byte("\x00asm\x01\x00\x00\x00")
	section := func(id byte, count int, b []byte) {
		if count > 0 {
			b = append(wasmLeb(count), b...)
			wasm = slices.Concat(wasm, []byte{id}, wasmLeb(len(b)), b)
		}
	}
	section(1, n, types)
	section(2, len(imports), imps)
	section(3, len(funcs), decls)
	section(7, exported, exports)
	if start != wasmNoStart {
		s := wasmLeb(start)
		wasm = slices.Concat(wasm, []byte{8}, wasmLeb(len(s)), s)
	}
	section(10, len(funcs), bodies)
	return wasm
}

func wasmLeb(n int) []byte {
	var b []byte
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// The few instructions that the guests need.
var (
	wasmUnreachable = []byte{0x00}
	wasmDrop        = []byte{0x1a}
	wasmForever     = []byte{0x03, 0x40, 0x0c, 0x00, 0x0b} // loop br 0 end
)

func wasmCall(f int) []byte { return append([]byte{0x10}, wasmLeb(f)...) }
func wasmGet(i int) []byte  { return append([]byte{0x20}, wasmLeb(i)...) }
func wasmI64(n byte) []byte { return []byte{0x42, n & 0x3f} }

// passOn is a function that calls the import f with its own parameters.
func wasmPassOn(name string, f int, params, results []byte) wasmFunc {
	var body []byte
	for i := range params {
		body = append(body, wasmGet(i)...)
	}
	return wasmFunc{name: name, params: params, results: results, body: append(body, wasmCall(f)...)}
}

// TestSlotHostMaliciousGuest lets a guest try all that it can do with integers: it shares a runtime
// with a victim whose handles it knows.
func TestSlotHostMaliciousGuest(t *testing.T) {
	eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
		const (
			from = iota
			n
			hits
		)
		// scan counts the hits among n integers from a given one on.
		scan := wasmFunc{name: "scan", params: []byte{wasmTypeI64, wasmTypeI64}, results: slotWord, locals: 1, body: slices.Concat(
			[]byte{0x03, 0x40},                                                      // loop
			wasmGet(hits), wasmGet(from), wasmCall(fnGet), []byte{0x7c, 0x21, hits}, // hits += get(from)
			wasmGet(from), wasmI64(1), []byte{0x7c, 0x21, from}, // from++
			wasmGet(n), wasmI64(1), []byte{0x7d, 0x22, n}, // n--
			[]byte{0x50, 0x45, 0x0d, 0x00, 0x0b}, // while n != 0
			wasmGet(hits))}
		compiled := e.compile(wasmNoStart, slotOpener, scan,
			wasmPassOn("get", fnGet, slotWord, slotWord), wasmPassOn("clone", fnClone, slotWord, slotWord),
			wasmPassOn("drop", fnDrop, slotWord, []byte{wasmTypeI32}), wasmPassOn("child", fnChild, slotWord, slotWord))
		victim, victims, err := e.instantiate(e.ctx, "victim", compiled)
		require.NoError(t, err)
		quota := modcache.NewSlotQuota(1000)
		table := modcache.NewSlotTable(&modcache.SlotOptions[*slotCloser]{MaxSlots: 64, Quota: quota})
		guest, err := e.host.Instantiate(e.ctx, compiled, wazero.NewModuleConfig().WithName("guest"), table)
		require.NoError(t, err)
		call := func(mod api.Module, name string, args ...uint64) uint64 {
			t.Helper()
			res, err := mod.ExportedFunction(name).Call(e.ctx, args...)
			require.NoError(t, err)
			if name == "drop" {
				return uint64(uint32(res[0])) // an i32's upper half says nothing
			}
			return res[0]
		}
		for range 5 {
			stolen := call(victim, "open")
			require.Zero(t, call(guest, "get", stolen))
			require.Zero(t, call(guest, "clone", stolen))
			require.EqualValues(t, modcache.SlotNoHandle, call(guest, "drop", stolen))
		}
		h := call(guest, "open")
		for _, around := range []uint64{h, 0, 1 << 31, 1 << 32, 1 << 63, ^uint64(0) - 5000, h &^ (1<<32 - 1)} {
			hits := call(guest, "scan", around-5000, 10_000)
			mine := uint64(0)
			if h-(around-5000) < 10_000 {
				mine = 1
			}
			require.Equal(t, mine, hits)
		}
		for gen := range uint64(64) { // other generations of its own slot
			if forged := h + (gen-32)<<32; forged != h {
				require.Zero(t, call(guest, "get", forged))
			}
		}

		// Clones: as many as there are slots, and not one more.
		var clones []uint64
		for c := call(guest, "clone", h); c != 0; c = call(guest, "clone", h) {
			clones = append(clones, c)
			require.LessOrEqual(t, len(clones), 64)
		}
		require.Len(t, clones, 63)
		require.Equal(t, 64, quota.Used())
		require.Zero(t, call(guest, "open"), "full")
		mine := e.opened[len(e.opened)-1]
		for _, c := range append(clones, h) {
			require.Zero(t, mine.closed.Load())
			require.EqualValues(t, modcache.SlotDropped, call(guest, "drop", c))
			require.EqualValues(t, modcache.SlotNoHandle, call(guest, "drop", c), "dropped twice")
			require.Zero(t, call(guest, "get", c), "used after it was dropped")
		}
		require.EqualValues(t, 1, mine.closed.Load())

		// A reused slot has a new handle.
		again := call(guest, "open")
		require.NotContains(t, append(clones, h), again)
		for _, old := range append(clones, h) {
			require.Zero(t, call(guest, "get", old))
		}
		// A parent outlives its children.
		child := call(guest, "child", again)
		require.EqualValues(t, modcache.SlotInUse, call(guest, "drop", again))
		require.Zero(t, call(guest, "child", h))
		require.EqualValues(t, modcache.SlotDropped, call(guest, "drop", child))
		require.EqualValues(t, modcache.SlotDropped, call(guest, "drop", again))

		require.Equal(t, 5, victims.Len(), "the victim has lost nothing")
	})
}
