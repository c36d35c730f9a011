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
	for names, want := range map[string]int{
		"":                                      0,
		functions:                               2,
		locals:                                  3,
		module + functions + locals + others:    5,
		others + locals + functions:             5,
		"\x02\x00\x02\x00\x01\x00\x01x\x01\x00": 3, // without the size
		"\x01\x80":                              0,
	} {
		n := m
		n.Custom("name", []byte(names))
		n.Custom("other", []byte(functions))
		o, err := Scan(n.Bytes())
		require.NoError(t, err)
		require.Equal(t, want, o.Names, "%q", names)
		require.EqualValues(t, 3, o.DataSegments)
		require.Equal(t, 6, o.ElementsSize())
		described, copied := o.Described()
		require.Equal(t, []int{1, 7 + o.Custom}, []int{described, copied})
	}
}
