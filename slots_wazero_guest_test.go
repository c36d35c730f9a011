package modcache_test

import "slices"

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
