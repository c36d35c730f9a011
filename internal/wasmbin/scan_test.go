package wasmbin

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/wasmtest"
)

// TestScanCountsWhatTakesMemory in wazero, however small it is in a module.
func TestScanCountsWhatTakesMemory(t *testing.T) {
	var m wasmtest.Module
	m.Section(12, []byte{3})
	m.Section(11, []byte{3, 1, 0, 1, 0, 1, 0})
	m.Section(9, []byte{1, 1, 0, 2, 0, 0})
	const module, functions, locals, others = "\x00\x02\x01m", "\x01\x07\x02\x00\x01a\x01\x01b", "\x02\x09\x02\x00\x01\x00\x01x\x01\x00", "\x07\x02\x00\x00"
	for names, want := range map[string]Names{
		"":                                      {},
		functions:                               {2, 2, 0},
		locals:                                  {3, 0, 0},
		module + functions + locals + others:    {5, 2, 1},
		module + others + "\x00\x04\x03mod":     {0, 0, 3},
		others + locals + functions:             {5, 2, 0},
		"\x02\x00\x02\x00\x01\x00\x01x\x01\x00": {3, 0, 0}, // without the size
		"\x01\x80":                              {},
	} {
		n := m
		n.Custom("name", []byte(names))
		n.Custom("other", []byte(functions))
		o, err := Scan(n.Bytes())
		require.NoError(t, err)
		require.Equal(t, want, NamesIn(n.Bytes()), "%q", names)
		require.EqualValues(t, 3, o.DataSegments)
		require.Equal(t, 6, o.ElementsSize())
		require.Zero(t, DeclaredLocals(n.Bytes()))
		described, copied := o.Described()
		require.Equal(t, []int{1, 7 + o.Custom}, []int{described, copied})
	}
}

func TestDeclaredLocals(t *testing.T) {
	var m wasmtest.Module
	typ := m.Type(nil, nil)
	m.Body(typ, "", []byte{0, 0x0b})
	m.Body(typ, "", []byte{2, 3, wasmtest.I32, 4, wasmtest.I64, 0x0b})
	m.Body(typ, "", append(append([]byte{1}, wasmtest.U32(10_000_000)...), 0x6f, 0x0b)) // references
	wasm := m.Bytes()
	require.EqualValues(t, 10_000_007, DeclaredLocals(wasm))
	require.EqualValues(t, 10_000_007, DeclaredLocals(append(wasm, "\x01\x00"...)), "whatever the order")
	for n := range wasm {
		require.LessOrEqual(t, DeclaredLocals(wasm[:n]), int64(10_000_007))
	}
	require.EqualValues(t, 1, DeclaredLocals([]byte(header+"\x0a\x07\x05\x04\x09\x01\x7f\x0b\x00")), "of groups, there is one")
}
