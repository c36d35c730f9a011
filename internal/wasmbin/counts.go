package wasmbin

import "errors"

// absurdCount is from where on a count is worth an error of ours: below, wazero's says more,
// and costs it little.
const absurdCount = 1 << 20

// CheckCounts finds what the module announces with more entries or bytes than there are
// bytes to its end: nobody can accept that. But wazero allocates room for all of a vector, a name, a body or a
// section before it reads the first, up to hundreds of gigabytes. Bodies aren't looked into, and at anything
// else that is wrong, the search ends without an error: that is for wazero to tell.
func CheckCounts(wasm []byte) error {
	if len(wasm) < len(header) {
		return nil
	}
	// Like wazero, and unlike Scan, this believes neither the order of sections nor their ends.
	for r := newReader(wasm, len(header), len(wasm)); !r.done(); {
		id, size := r.byte(), r.u32()
		if r.err != nil {
			return nil
		}
		e := newEditor(wasm, r.pos, len(wasm))
		switch id {
		case custom:
			e.countNames(size)
			if e.err == nil {
				e.pos = r.pos
				e.skip(size)
			}
		case code:
			e.times(func(e *editor) { e.skip(e.reader.u32()) })
		default:
			_ = e.section(id)
		}
		var wrong *Error
		if errors.As(e.err, &wrong) && wrong.Count >= absurdCount {
			return wrong
		}
		r.skip(size)
	}
	return nil
}

// countNames reads a custom section of so many bytes, if it is the one with names.
func (e *editor) countNames(size uint32) {
	start := e.pos
	if string(e.utf8(e.u32())) != "name" {
		return
	}
	for e.err == nil && uint64(e.pos-start) < uint64(size) {
		id, size := e.byte(), e.reader.u32()
		next := uint64(e.pos) + uint64(size)
		e.names(id)
		if next > uint64(e.end) {
			return
		}
		e.pos = int(next)
	}
}
