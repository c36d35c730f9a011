package wasmbin

// absurdCount is from where on a count is worth an error of ours: below, wazero's says more,
// and costs it some megabytes at most.
const absurdCount = 1 << 16

// CheckCounts finds what the module announces with more entries or bytes than there are
// bytes to its end: nobody can accept that. But wazero allocates room for all of a vector, a name, a body or a
// section before it reads the first, up to hundreds of gigabytes. Bodies aren't looked into, and at anything
// else at which wazero stops, the search ends without an error: that is for wazero to tell. Where wazero
// reads on, behind a smaller count that can't be or a spelling that nobody else accepts, so does this.
//
// byteTables reports whether wazero takes one byte for the type of a table, whatever it is, as it did before v1.12.
func CheckCounts(wasm []byte, byteTables func() bool) error {
	if len(wasm) < len(header) {
		return nil
	}
	// Like wazero, and unlike Scan, this reads a section without regard to where it is to end, but no further section if it
	// ends elsewhere, so that all takes no longer than to read each byte twice; and not all wazeros look at their order.
	for r := newReader(wasm, len(header), len(wasm)); !r.done(); {
		id, size := r.byte(), r.u32()
		if r.err != nil {
			return nil
		}
		start, at, err := r.pos, 0, error(nil)
		if id == custom {
			at, err = countCustom(newReader(wasm, start, len(wasm)), size)
		} else {
			e := newLenient(wasm, start)
			e.byteTables = byteTables
			if id == code {
				e.times(func(e *editor) { e.skip(e.reader.u32()) })
			} else {
				e.content(id)
			}
			at, err = e.pos, e.err
		}
		if wrong, ok := err.(*Error); ok && wrong.Count >= absurdCount {
			return wrong
		}
		if r.skip(size); err != nil || r.err != nil || at != r.pos {
			return nil
		}
	}
	return nil
}

// newLenient reads from a position to the end of the module as wazero does.
func newLenient(wasm []byte, start int) *editor {
	e := newEditor(wasm, start, len(wasm))
	e.lenient = true
	return e
}

// countCustom reads a custom section of so many bytes.
func countCustom(r reader, size uint32) (end int, err error) {
	start := r.pos
	n := r.u32()
	beforeData := uint64(r.pos-start) + uint64(n)
	if r.need(n, "bytes") && beforeData > uint64(size) {
		// wazero stops behind this name. To go on with the next section, whose name could again reach to the end of the
		// module, would take quadratic time.
		return r.pos + int(n), nil
	}
	if name := r.utf8(n); string(name) == "name" {
		e := newLenient(r.b, r.pos)
		e.countNames(uint64(size) - beforeData)
		return e.pos, e.err
	}
	if r.err == nil {
		r.pos = start
		r.skip(size)
	}
	return r.pos, r.err
}

// countNames reads the content of a custom section with names, of so many bytes. Like wazero, it looks for the next
// subsection where the names of the last one end, whatever size that has, and counts below zero.
func (e *editor) countNames(left uint64) {
	const locals = 2 // the last kind that wazero reads
	for left > 0 && !e.done() {
		start := e.pos
		id, size := e.byte(), e.reader.u32()
		left -= uint64(e.pos-start) + uint64(size)
		if id <= locals {
			e.names(id)
		} else if uint64(size) <= uint64(e.end-e.pos) {
			e.pos += int(size)
		} else {
			return
		}
	}
}
