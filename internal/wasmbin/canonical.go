package wasmbin

import "io"

// plan is what measuring finds out.
type plan struct {
	wasm     []byte
	sections []measured
	edits    []byte
	bodies   []uint32 // how many bytes each body loses, or nil: none does
	size     uint64
}

type measured struct {
	Section
	saved int
}

// WriteCanonical writes the canonical encoding of the module to w, in pieces and
// without building it in memory: it needs two bytes for each place where the
// module is spelled differently. Nothing is written if the module has no
// canonical encoding, because it is malformed or contains something unknown.
//
// Modules with the same canonical encoding differ in nothing but custom sections,
// padded integers, how declarations of locals are grouped, and sections without entries. The encoding of a canonical encoding is itself.
func WriteCanonical(w io.Writer, wasm []byte) error {
	p, err := measure(wasm)
	if err != nil {
		return err
	}
	out := &sink{w: w, buf: make([]byte, 0, sinkSize)}
	p.write(out)
	return out.flush()
}

// Canonical returns the canonical encoding in a slice of its own, exactly as
// long as needed.
func Canonical(wasm []byte) ([]byte, error) {
	p, err := measure(wasm)
	if err != nil {
		return nil, err
	}
	out := &sink{buf: make([]byte, 0, p.size)}
	p.write(out)
	return out.buf, nil
}

// measure reads the whole module.
func measure(wasm []byte) (*plan, error) {
	sc, err := newScanner(wasm)
	if err != nil {
		return nil, err
	}
	p := &plan{wasm: wasm, sections: make([]measured, 0, 16), size: uint64(len(header))}
	e := newEditor(wasm, 0, 0)
	var names, funcs, bodies uint32
	for sc.next() {
		s := measured{Section: sc.section}
		if s.ID == custom && string(s.Name) == "name" {
			if names++; names > 1 {
				return nil, errorAt(s.Start, "more than one name section")
			}
			if err := checkNames(wasm, s.Section); err != nil {
				return nil, err
			}
		}
		if s.ID == custom && s.Data == s.End && s.End == len(wasm) {
			// wazero refuses it when custom sections are to be stored.
			return nil, errorAt(s.Start, "the last section is an empty custom section")
		}
		if s.ID == custom {
			continue
		}
		before := e.log
		e.turnTo(s.Body, s.End)
		if s.ID == code {
			bodies, e.saved, err = p.measureBodies(e)
		} else {
			err = e.section(s.ID)
		}
		if err != nil {
			return nil, err
		}
		if s.ID == functions {
			r := newReader(wasm, s.Body, s.End)
			funcs = r.u32()
		}
		if droppable(wasm, s.Section) {
			e.log = before
			continue
		}
		s.saved = e.saved
		p.sections = append(p.sections, s)
		size := uint64(s.End - s.Body - s.saved)
		p.size += 1 + uint64(ulebLen(size)) + size
	}
	p.edits = e.log.b
	if sc.err != nil {
		return nil, sc.err
	}
	if funcs != bodies {
		return nil, errorAt(len(wasm), "%d functions but %d bodies", funcs, bodies)
	}
	return p, nil
}

// droppable reports whether a section has no entries and says nothing by being
// there. Those left out do: code makes wazero validate more, tags need a feature,
// a data count lets bodies refer to data.
func droppable(wasm []byte, s Section) bool {
	switch s.ID {
	case types, imports, functions, tables, memories, globals, exports, elements, data:
		r := newReader(wasm, s.Body, s.End)
		return r.u32() == 0 && r.err == nil
	}
	return false
}

// measureBodies reads a code section. It returns the number of bodies and how
// much shorter the section becomes.
func (p *plan) measureBodies(e *editor) (n uint32, saved int, err error) {
	r := e.reader
	n = r.u32()
	saved = r.pos - e.pos - ulebLen(uint64(n))
	for i := uint32(0); i < n && r.err == nil; i++ {
		at := r.pos
		size := r.u32()
		start := r.pos
		r.skip(size)
		if r.err != nil {
			break
		}
		e.turnTo(start, r.pos)
		if err := e.body(); err != nil {
			return 0, 0, err
		}
		saved += e.saved + start - at - ulebLen(uint64(int(size)-e.saved))
		if e.saved > 0 {
			if p.bodies == nil {
				// There are that many only if the section is long enough.
				if uint64(n-i) > uint64(r.end-at) {
					return 0, 0, errorAt(at, "%d bodies announced, %d bytes left", n-i, r.end-at)
				}
				p.bodies = make([]uint32, n)
			}
			p.bodies[i] = uint32(e.saved)
		}
	}
	return n, saved, r.finish()
}

// write writes what measure found. It can't fail but in out.
func (p *plan) write(out *sink) {
	out.write(p.wasm[:len(header)])
	edits := newReplay(p.wasm, p.edits, out)
	for _, s := range p.sections {
		out.byte(s.ID)
		out.uleb(uint64(s.End - s.Body - s.saved))
		if s.ID == code && s.saved > 0 {
			p.writeBodies(s.Section, edits)
		} else {
			edits.part(s.Body, s.End)
		}
	}
}

func (p *plan) writeBodies(s Section, edits *replay) {
	r := newReader(p.wasm, s.Body, s.End)
	n := r.u32()
	edits.out.uleb(uint64(n))
	for i := range n {
		size := r.u32()
		start := r.pos
		r.pos += int(size)
		if p.bodies != nil {
			size -= p.bodies[i]
		}
		edits.out.uleb(uint64(size))
		edits.part(start, r.pos)
	}
}

// checkNames makes sure that wazero would accept a name section, which it reads
// even if nobody asks for names.
func checkNames(wasm []byte, s Section) error {
	r := newReader(wasm, s.Data, s.End)
	e := newEditor(wasm, s.Data, s.End)
	for !r.done() {
		id, size := r.byte(), r.u32()
		start := r.pos
		r.skip(size)
		if r.err != nil {
			break
		}
		e.turnTo(start, r.pos)
		e.names(id)
		if err := e.finish(); err != nil {
			return err
		}
	}
	return r.err
}

// names reads the subsection id of a name section.
func (e *editor) names(id byte) {
	const module, functions, locals = 0, 1, 2
	switch id {
	case module:
		e.name()
	case functions:
		e.times((*editor).nameAssoc)
	case locals:
		e.times(func(e *editor) {
			e.index()
			e.times((*editor).nameAssoc)
		})
	default:
		e.pos = e.end
	}
}

func (e *editor) nameAssoc() {
	e.index()
	e.name()
}
