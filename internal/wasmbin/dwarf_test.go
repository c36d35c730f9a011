package wasmbin

import (
	"debug/dwarf"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/wasmtest"
)

// withDWARF has units whose abbreviations are at these offsets.
func withDWARF(order binary.AppendByteOrder, abbrevs string, offsets ...uint32) []byte {
	var info []byte
	for i, at := range offsets {
		version, head := uint16(4), []byte{}
		if i%2 == 1 {
			version, head = 5, []byte{1, 8}
		}
		info = order.AppendUint32(info, uint32(8+len(head)))
		info = append(order.AppendUint16(info, version), head...)
		info = append(order.AppendUint32(info, at), 8, 0)
	}
	var m wasmtest.Module
	m.Custom(".debug_info", []byte("of an earlier one"))
	m.Custom(".debug_info", info)
	m.Custom(".debug_abbrev", []byte(abbrevs))
	return m.Bytes()
}

func TestDebugSize(t *testing.T) {
	const one = "\x01\x11\x00\x03\x08\x03\x21\x7f\x00\x00" // an abbreviation with two fields
	const abbrev, table = dwarfAbbrev + 2*dwarfField, one + one + "\x00"
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		require.EqualValues(t, dwarfUnit+2*abbrev, DebugSize(withDWARF(order, table, 0)))
		require.EqualValues(t, 3*dwarfUnit+4*abbrev, DebugSize(withDWARF(order, table+table, 0, uint32(len(table)), 0)))
		require.EqualValues(t, 2*dwarfUnit+2*abbrev, DebugSize(withDWARF(order, table, 0, 1000)), "one of none")

		overlapping, offsets := "", []uint32(nil)
		for i := range uint32(20) {
			overlapping, offsets = overlapping+one, append(offsets, i*uint32(len(one)))
		}
		require.EqualValues(t, tooMuch, DebugSize(withDWARF(order, overlapping+"\x00", offsets...)))
		padded := "\x81\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00" + one[1:]
		require.EqualValues(t, tooMuch, DebugSize(withDWARF(order, padded+"\x00", 0)), "another reader goes on")
	}
	require.EqualValues(t, dwarfUnit+2*abbrev, DebugSize(append([]byte(header+"\x03\x00\x01\x00"), withDWARF(binary.LittleEndian, table, 0)[len(header):]...)), "in whatever order")
	whole := withDWARF(binary.LittleEndian, table, 0, 0)
	for n := range whole {
		DebugSize(whole[:n])
	}
	require.Zero(t, DebugSize(nil))

	// What a compiler makes is none of that.
	dir, err := wasmtest.WazeroDir()
	require.NoError(t, err)
	wasm, err := os.ReadFile(filepath.Join(dir, "examples/basic/testdata/add.wasm"))
	require.NoError(t, err)
	require.Greater(t, DebugSize(wasm), int64(10_000))
	require.Less(t, DebugSize(wasm), int64(len(wasm)))
}

// FuzzDebugSize: whoever else reads it in whatever way, it has a size, and at least that of an entry that is found.
func FuzzDebugSize(f *testing.F) {
	f.Add([]byte("\x08\x00\x00\x00\x04\x00\x00\x00\x00\x00\x08\x00"), []byte("\x01\x11\x00\x03\x08\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x0a\x00\x05\x01\x08\x00\x00\x00\x00\x08\x00"), []byte("\x01\x11\x00\x03\x21\x7f\x00\x00\x00"))
	f.Add([]byte("\xff\xff\xff\xff\x0c\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08\x00"), []byte{0})
	f.Add([]byte("\xff\xff\xff\xff\x0c\x00\x00\x000000\x04\x00\x00\x00\x00\x00\x00\x00\x00\x0000"), []byte("000"))
	f.Fuzz(func(t *testing.T, info, abbrevs []byte) {
		var m wasmtest.Module
		m.Custom(".debug_info", info)
		m.Custom(".debug_abbrev", abbrevs)
		size := DebugSize(m.Bytes())
		require.GreaterOrEqual(t, size, int64(0))
		require.LessOrEqual(t, size, tooMuch)
		d, err := dwarf.New(abbrevs, nil, nil, info, nil, nil, nil, nil)
		if err != nil {
			return
		}
		if e, _ := d.Reader().Next(); e != nil && e.Tag != 0 {
			require.GreaterOrEqual(t, size, int64(dwarfUnit+dwarfAbbrev))
		}
	})
}
