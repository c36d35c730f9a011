package wasmbin

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
		var err error
		if id == custom {
			err = countCustom(newReader(wasm, r.pos, len(wasm)), size)
		} else {
			e := newEditor(wasm, r.pos, len(wasm))
			e.absurd = absurdCount // wazero reads on as well
			if id == code {
				e.times(func(e *editor) { e.skip(e.reader.u32()) })
			} else {
				_ = e.section(id)
			}
			err = e.err
		}
		if wrong, ok := err.(*Error); ok && wrong.Count >= absurdCount {
			return wrong
		}
		r.skip(size)
	}
	return nil
}

// countCustom reads a custom section of so many bytes.
func countCustom(r reader, size uint32) error {
	start := r.pos
	if string(r.utf8(r.u32())) == "name" {
		e := newEditor(r.b, r.pos, r.end)
		e.absurd = absurdCount
		e.countNames(start, size)
		r.err = e.err
	}
	if r.err == nil {
		r.pos = start
		r.skip(size)
	}
	return r.err
}

// countNames reads a custom section with names, of so many bytes from start on.
func (e *editor) countNames(start int, size uint32) {
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
