package wasmbin

// maxGap is how many zeros may stand between two data segments that become
// one. To wazero, reading them is cheaper than another segment.
const maxGap = 64

// maxGrowth bounds what the zeros add to a section, if somebody has made one of
// nothing but gaps.
const maxGrowth = 2

// maxRuns bounds the search for what a gap could overwrite.
const maxRuns = 4096

// page is the unit of the size of memories.
const page = 1 << 16

// dataRun is a few data segments, one behind the other in memory.
type dataRun struct {
	start, end uint64 // addresses
	segments   int
}

// dataSection is the data section of a module, with neighbouring segments put
// together. Go's linker cuts a program's data into tens of thousands of them, to
// leave out a few zeros each time.
//
// Nobody can tell the difference: the zeros are those of a fresh memory, nothing
// that an earlier segment wrote is overwritten, no segment can fail, and without a
// data count section no instruction can refer to one.
type dataSection struct {
	section Section
	memory  uint64 // initial bytes of the memory that the module defines
	fixed   bool   // must stay as it is
	runs    []dataRun
	size    uint64 // of the merged content
}

// see takes note of a section, in the order of the module.
func (d *dataSection) see(wasm []byte, s Section) {
	switch s.ID {
	case imports:
		n, err := countImports(wasm, s, kindMemory)
		d.fixed = d.fixed || err != nil || n > 0 // its owner may have written to it
	case memories:
		d.memory = minMemory(wasm, s)
	case dataCount:
		d.fixed = true
	case data:
		d.section = s
	}
}

// merge reports false if the segments can't be put together, or needn't be.
func (d *dataSection) merge(wasm []byte) bool {
	if d.fixed || d.memory == 0 || d.section.ID != data {
		return false
	}
	segments := 0
	free := uint64(0) // up to here, a gap hides nothing that an earlier run wrote
	sound := d.each(wasm, func(address uint64, b []byte) {
		segments++
		if n := len(d.runs); n > 0 {
			run := &d.runs[n-1]
			if gap := address - run.end; address >= run.end && gap <= maxGap && (gap == 0 || address <= free) {
				run.end = address + uint64(len(b))
				run.segments++
				return
			}
		}
		free = freeFrom(address, d.runs)
		d.runs = append(d.runs, dataRun{address, address + uint64(len(b)), 1})
	})
	if !sound || len(d.runs) == segments {
		return false
	}
	d.size = uint64(ulebLen(uint64(len(d.runs))))
	for _, run := range d.runs {
		n := run.end - run.start
		d.size += 3 + uint64(slebLen(int64(run.start))+ulebLen(n)) + n
	}
	return d.size <= maxGrowth*uint64(d.section.End-d.section.Body)
}

// freeFrom returns up to where memory from start on is untouched by runs; it is
// less than start if one covers that.
func freeFrom(start uint64, runs []dataRun) uint64 {
	if len(runs) > maxRuns {
		return start
	}
	free := ^uint64(0)
	for _, run := range runs {
		if run.end > start {
			free = min(free, run.start)
		}
	}
	return free
}

// minMemory returns the initial bytes of the only memory that a module defines, or 0.
func minMemory(wasm []byte, s Section) uint64 {
	const known = 0x03 // flags: has a maximum, is shared
	r := newReader(wasm, s.Body, s.End)
	n, flags, pages := r.u32(), r.byte(), r.u32()
	if n != 1 || r.err != nil || flags&^known != 0 {
		return 0
	}
	return uint64(pages) * page
}

// each calls f for each segment. It returns false as soon as one isn't at a constant
// address within the initial memory. To wazero, addresses from 2 GiB on are negative,
// and out of bounds.
func (d *dataSection) each(wasm []byte, f func(address uint64, b []byte)) bool {
	const activeInFirst = 0
	r := newReader(wasm, d.section.Body, d.section.End)
	for range r.u32() {
		kind, op, v, end, size := r.byte(), r.byte(), r.signed(32), r.byte(), r.u32()
		address := uint64(v)
		r.skip(size)
		if r.err != nil || kind != activeInFirst || op != opI32Const || end != opEnd || v < 0 || address+uint64(size) > d.memory {
			return false
		}
		f(address, r.b[r.pos-int(size):r.pos])
	}
	return r.err == nil && r.done()
}

// appendTo appends the whole section.
func (d *dataSection) appendTo(dst, wasm []byte) []byte {
	var zeros [maxGap]byte
	dst = append(dst, data)
	dst = uleb(dst, d.size)
	dst = uleb(dst, uint64(len(d.runs)))
	runs, left, end := d.runs, 0, uint64(0)
	d.each(wasm, func(address uint64, b []byte) {
		if left == 0 {
			run := runs[0]
			runs, left, end = runs[1:], run.segments, run.start
			dst = append(dst, 0, opI32Const)
			dst = sleb(dst, int64(run.start))
			dst = append(dst, opEnd)
			dst = uleb(dst, run.end-run.start)
		}
		left--
		dst = append(dst, zeros[:address-end]...)
		dst = append(dst, b...)
		end = address + uint64(len(b))
	})
	return dst
}
