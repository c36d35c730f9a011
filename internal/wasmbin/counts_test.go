package wasmbin

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/wasmtest"
)

// announced is a section of its own whose content begins with so many entries.
func announced(id byte, n uint32, before ...byte) []byte {
	content := append(slices.Clone(before), wasmtest.U32(n)...)
	return slices.Concat([]byte(header), []byte{id}, wasmtest.U32(uint32(len(content))), content)
}

func TestCheckCounts(t *testing.T) {
	for name, module := range map[string]func(n uint32) []byte{
		"types":           func(n uint32) []byte { return announced(types, n) },
		"parameters":      func(n uint32) []byte { return announced(types, n, 1, 0x60) },
		"imports":         func(n uint32) []byte { return announced(imports, n) },
		"functions":       func(n uint32) []byte { return announced(functions, n) },
		"tables":          func(n uint32) []byte { return announced(tables, n) },
		"globals":         func(n uint32) []byte { return announced(globals, n) },
		"exports":         func(n uint32) []byte { return announced(exports, n) },
		"elements":        func(n uint32) []byte { return announced(elements, n) },
		"element's items": func(n uint32) []byte { return announced(elements, n, 1, 0, 0x41, 0, 0x0b) },
		"bodies":          func(n uint32) []byte { return announced(code, n) },
		"data":            func(n uint32) []byte { return announced(data, n) },
		"names":           func(n uint32) []byte { return announced(custom, n, 4, 'n', 'a', 'm', 'e', 1, 5) },
		"locals' names":   func(n uint32) []byte { return announced(custom, n, 4, 'n', 'a', 'm', 'e', 2, 9) },
		"names of locals": func(n uint32) []byte { return announced(custom, n, 4, 'n', 'a', 'm', 'e', 2, 9, 1, 0) },
		"names behind others": func(n uint32) []byte {
			return announced(custom, n, 4, 'n', 'a', 'm', 'e', 99, 2, 7, 7, 1, 5)
		},
		"cut short": func(n uint32) []byte { return slices.Concat([]byte(header), []byte{types, 99}, wasmtest.U32(n)) },
		"behind others": func(n uint32) []byte {
			return append(wasmtest.Sum(3, 0), announced(types, n)[len(header):]...)
		},
		"import's name":  func(n uint32) []byte { return announced(imports, n, 1) },
		"export's name":  func(n uint32) []byte { return announced(exports, n, 1) },
		"body's bytes":   func(n uint32) []byte { return announced(code, n, 2, 2, 0, 0x0b) },
		"data's bytes":   func(n uint32) []byte { return announced(data, n, 1, 1) },
		"module's name":  func(n uint32) []byte { return announced(custom, n, 4, 'n', 'a', 'm', 'e', 0, 5) },
		"section's name": func(n uint32) []byte { return announced(custom, n) },
		// wazero makes room for a thousand, and reads on.
		"name behind too many imports":       func(n uint32) []byte { return announced(imports, n, 0xe8, 7) },
		"items behind too many elements":     func(n uint32) []byte { return announced(elements, n, 0xe8, 7, 0, 0x41, 0, 0x0b) },
		"parameters behind too many types":   func(n uint32) []byte { return announced(types, n, 0xe8, 7, 0x60) },
		"results behind too many parameters": func(n uint32) []byte { return announced(types, n, 1, 0x60, 2, 0x7f, 0x7f) },
		"names behind too many names":        func(n uint32) []byte { return announced(custom, n, 4, 'n', 'a', 'm', 'e', 2, 9, 0xe8, 7, 0) },
		"bytes behind too many bodies":       func(n uint32) []byte { return announced(code, n, 0xe8, 7) },
		"section": func(n uint32) []byte {
			return slices.Concat([]byte(header), []byte{custom}, wasmtest.U32(n), []byte{1, 'x'})
		},
	} {
		require.ErrorContains(t, CheckCounts(module(1<<32-1)), "4294967295 ", name)
		require.NoError(t, CheckCounts(module(1000)), "%s: wazero says more", name)
	}
	for _, fine := range [][]byte{nil, []byte(header), wasmtest.Sum(1000, 0), announced(99, 1<<31), announced(custom, 1<<31, 3, 'n', 'o', 't')} {
		require.NoError(t, CheckCounts(fine))
	}
	// A subsection that would end before it begins, where addresses have 32 bits.
	for _, size := range []uint32{1<<32 - 6, 1 << 31} {
		require.NoError(t, CheckCounts(announced(custom, size, 4, 'n', 'a', 'm', 'e', 99)))
	}
}

// TestCheckCountsOfRealModules: what wazero accepts is not refused.
func TestCheckCountsOfRealModules(t *testing.T) {
	for _, m := range wholeCorpus(t) {
		require.NoError(t, CheckCounts(m.wasm), m.name)
	}
}
