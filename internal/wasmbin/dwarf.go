package wasmbin

import (
	"encoding/binary"
	"math"
)

// What package debug/dwarf takes to describe them, before anybody asks.
const (
	dwarfUnit   = 160
	dwarfAbbrev = 128
	dwarfField  = 24

	tooMuch = int64(1 << 50)
)

// DebugSize returns about how much memory wazero takes to prepare the DWARF of a module, beside its sections. Abbreviations that are
// in several tables, as no compiler makes them, may take millions of times their bytes: more than anybody wants to keep.
func DebugSize(wasm []byte) int64 {
	var info, abbrevs []byte
	eachCustom(wasm, func(name []byte, start, end int) {
		switch string(name) { // wazero takes the last
		case ".debug_info":
			info = wasm[start:end]
		case ".debug_abbrev":
			abbrevs = wasm[start:end]
		}
	})
	if len(info) < 6 {
		return 0
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if info[4] == 0 { // of the version
		order = binary.BigEndian
	}
	size, read := int64(0), 0
	tables := map[uint64]bool{}
	for len(info) > 0 {
		at, rest, ok := unit(info, order)
		if !ok {
			return tooMuch
		}
		info = rest
		size += dwarfUnit
		if tables[at] || at >= uint64(len(abbrevs)) {
			continue
		}
		tables[at] = true
		r := newReader(abbrevs, int(at), len(abbrevs))
		size += r.abbrevs()
		if read += r.pos - int(at); read > 2*len(abbrevs) || r.err != nil { // in whose place another reader may go on
			return tooMuch
		}
	}
	return size
}

// unit returns where the abbreviations of the first unit are, and what is behind the unit. ok is false where another reader may
// see another unit.
func unit(info []byte, order binary.ByteOrder) (abbrevs uint64, rest []byte, ok bool) {
	offset := func(b []byte) uint64 { return uint64(order.Uint32(b)) }
	wide := 4
	if len(info) >= 4 && order.Uint32(info) == math.MaxUint32 {
		info, offset, wide = info[4:], order.Uint64, 8
	}
	if len(info) < wide {
		return 0, nil, false
	}
	size := offset(info) // once: the bytes may change meanwhile
	if size > uint64(len(info)-wide) {
		return 0, nil, false
	}
	u, rest := info[wide:][:size], info[wide:][size:]
	if size == 0 { // padding
		return math.MaxUint64, rest, true
	}
	at := 2
	if len(u) >= 2 && order.Uint16(u) >= 5 {
		at = 4 // behind a type and the size of an address
	}
	if len(u) < at+wide {
		return 0, nil, false
	}
	return offset(u[at:]), rest, true
}

// abbrevs reads one table and returns about what it takes.
func (r *reader) abbrevs() (size int64) {
	const implicit = 0x21 // a form whose value is in the table
	uleb := func() uint64 { return r.unsigned(64) }
	for uleb() != 0 && r.err == nil {
		size += dwarfAbbrev
		uleb()   // tag
		r.byte() // whether it has children
		for r.err == nil {
			name, form := uleb(), uleb()
			if form == implicit {
				uleb()
			}
			if name == 0 && form == 0 {
				break
			}
			size += dwarfField
		}
	}
	return size
}
