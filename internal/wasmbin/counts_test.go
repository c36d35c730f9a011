package wasmbin

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/internal/wazerohook"
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
		"names behind a wrong size": func(n uint32) []byte {
			return announced(custom, n, 4, 'n', 'a', 'm', 'e', 1, 0, 1, 0, 1, 'f', 1, 9)
		},
		// What only wazero reads.
		"import behind a table of no type": func(n uint32) []byte {
			return announced(imports, n, 2, 0, 0, kindTable, 0x11, 0, 0)
		},
		"import behind a table with a value": func(n uint32) []byte {
			return announced(imports, n, 2, 0, 0, kindTable, 0x40, 0, funcref, 0, 0, opRefNull, funcref, opEnd)
		},
		"items behind a long constant": func(n uint32) []byte {
			return announced(elements, n, 1, 0, opI32Const, 0x80, 0x80, 0x80, 0x80, 0x38, opEnd)
		},
		"items behind a type's index": func(n uint32) []byte {
			return announced(elements, n, 1, 0, opRefNull, 0x6e, opEnd)
		},
		"results behind a long type": func(n uint32) []byte { return announced(types, n, 1, 0x60, 1, ref, 0xf0, 0x7f) },
		"results behind the longest type": func(n uint32) []byte {
			return announced(types, n, 1, 0x60, 1, ref, 0xf0, 0xff, 0xff, 0xff, 0xff)
		},
	} {
		require.ErrorContains(t, CheckCounts(module(1<<32-1), nil), "4294967295 ", name)
		require.NoError(t, CheckCounts(module(1000), nil), "%s: wazero says more", name)
	}
	for _, fine := range [][]byte{nil, []byte(header), wasmtest.Sum(1000, 0), announced(99, 1<<31), announced(custom, 1<<31, 3, 'n', 'o', 't')} {
		require.NoError(t, CheckCounts(fine, nil))
	}
	// A subsection that would end before it begins, where addresses have 32 bits.
	for _, size := range []uint32{1<<32 - 6, 1 << 31} {
		require.NoError(t, CheckCounts(announced(custom, size, 4, 'n', 'a', 'm', 'e', 99), nil))
	}
}

// TestCheckCountsReadsNamesLikeWazero, which goes on where the names end that it has read, whatever their size.
func TestCheckCountsReadsNamesLikeWazero(t *testing.T) {
	// At byte 3 of the first subsection, where the second should be, lies a name that looks like one with many entries.
	names := append([]byte{1, 3, 1, 0, 7}, "\x01\x09\u0080\u0080\x04"...)
	wasm := append([]byte(header), wasmtest.CustomSection("name", names)...)
	c, err := compile(decoder(t, allFeatures), wasm)
	require.NoError(t, err)
	c.Close(t.Context())
	require.NoError(t, CheckCounts(wasm, nil))
}

// TestCheckCountsOfRealModules: what wazero accepts is not refused.
func TestCheckCountsOfRealModules(t *testing.T) {
	for _, m := range wholeCorpus(t) {
		require.NoError(t, CheckCounts(m.wasm, nil), m.name)
	}
}

// TestCheckCountsToTheEnd looks behind all that wazero reads.
func TestCheckCountsToTheEnd(t *testing.T) {
	r := decoder(t, 0)
	last := announced(custom, 1<<32-1)[len(header):]
	n := 0
	for _, m := range wholeCorpus(t) {
		c, err := compile(r, m.wasm)
		if err != nil {
			continue
		}
		c.Close(context.Background())
		n++
		require.NoError(t, CheckCounts(m.wasm, nil), m.name)
		require.ErrorContains(t, CheckCounts(append(slices.Clip(m.wasm), last...), nil), "4294967295 ", m.name)
	}
	require.Greater(t, n, 1000)
}

// TestCheckCountsReadsOnce has sections whose content reads on behind their end: it takes hours to read that of each.
func TestCheckCountsReadsOnce(t *testing.T) {
	for _, section := range []string{
		"\x03\x03\xff\xff\x3f",                 // as many entries as there are bytes to the end
		"\x00\x0a\x04name\x01\x03\xdf\xbf\x01", // a name of ten bytes in each of the following ones
		"\x00\x04\xef\xbf\xbf\x01",             // a name of 3 MiB for a section of 4 bytes
	} {
		require.NoError(t, CheckCounts(append([]byte(header), strings.Repeat(section, 1<<20)...), nil))
	}
}

// TestCheckCountsOfTablesOfOldWazeros reads what looks like an absurd length only if a table's type is more than one byte.
func TestCheckCountsOfTablesOfOldWazeros(t *testing.T) {
	imports := "\x02" + "\x01a\x01b\x01\x63\x00\x01" + "\x06A\xf0\x9f\x98\x80\x01\x01c\x00\x00"
	wasm := module("\x01\x04\x01\x60\x00\x00", "\x02"+string(wasmtest.U32(uint32(len(imports))))+imports)
	require.Error(t, CheckCounts(wasm, func() bool { return false }))
	require.NoError(t, CheckCounts(wasm, func() bool { return true }))
	c, err := compile(decoder(t, allFeatures), wasm)
	if err == nil {
		c.Close(t.Context())
	}
	require.Equal(t, err == nil, CheckCounts(wasm, wazerohook.ByteTables) == nil, err)
}
