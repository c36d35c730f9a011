package wasmbin

import (
	"bytes"
	"errors"
	"io"
)

// ErrNoFunctions is returned by [Stub] for a module that defines no function.
var ErrNoFunctions = errors.New("the module defines no function")

// MaxTag is the length of the longest tag that [Stub] takes.
const MaxTag = 255

const (
	stubBody  = "\x03\x00\x00\x0b" // size, no locals, unreachable, end
	tagStride = 1 + 8 + 1          // f64.const, its immediate, drop
)

// Stub returns the module with each body replaced by one that only traps. Every
// byte outside the code section is kept, and where it was in the order, but
// for data segments, which are put together where nobody can tell.
//
// The tag lies in the dead code of the first function that the module defines.
// Stubs with different tags are different.
//
// A runtime that refuses the module for anything but the content of a body
// refuses the stub as well, or Stub returns an error.
func Stub(wasm, tag []byte) ([]byte, error) {
	d, err := NewDraft(wasm, len(tag))
	if err != nil {
		return nil, err
	}
	return d.Stub(tag), nil
}

// Draft is a stub that lacks its tag.
type Draft struct {
	bytes  []byte
	tagAt  int // where the body with the tag is
	tagLen int

	omissions [2]omission
	omit      int // how many there are
}

// Stub completes the draft, which can't be used again, with a tag of the length
// that it was made for.
func (d Draft) Stub(tag []byte) []byte {
	appendTagged(d.bytes[:d.tagAt], tag[:d.tagLen:d.tagLen])
	return d.bytes
}

// omission is a section that a draft has with another content: stubs of its bodies, or data segments that are put together.
type omission struct {
	module     Section // where it is there
	start, end int     // in the draft
	header     [1 + maxU32]byte
	content    []byte // as it was read; nil for bodies, of which the draft has nothing
}

// maxU32 is the length of the longest encoding of a size.
const maxU32 = 5

// omitted lists them, in the order of the module.
func (d *Draft) omitted() []omission { return d.omissions[:d.omit] }

// replace notes that the draft has its own section in the place of one of the module, from start to its end.
func (d *Draft) replace(wasm []byte, section Section, start, end int, content []byte) {
	o := omission{module: section, start: start, end: end, content: content}
	copy(o.header[:], wasm[section.Start:section.Body])
	d.omissions[d.omit] = o
	d.omit++
}

// headerBytes are those of the section in the module, as they were read.
func (o *omission) headerBytes() []byte { return o.header[:o.module.Body-o.module.Start] }

// WriteModule writes the module that the draft was made of, as the draft has read it, but for the bodies, which it takes
// from wasm. Should wasm have changed meanwhile, so that this isn't what was there before or after, then it is
// still a module that differs in nothing but its bodies from the one that the draft stands for.
func (d *Draft) WriteModule(w io.Writer, wasm []byte) {
	at := 0
	for i := range d.omitted() {
		o := &d.omissions[i]
		w.Write(d.bytes[at:o.start])
		w.Write(o.headerBytes())
		if o.content != nil {
			w.Write(o.content)
		} else {
			w.Write(wasm[o.module.Body:o.module.End])
		}
		at = o.end
	}
	w.Write(d.bytes[at:])
}

// check finds out whether the sections of the draft are where they were looked for, and let data segments be put together
// as they did then: the module may have changed between that and when they were copied.
func (d *Draft) check(then *dataSection) error {
	sc, err := newScanner(d.bytes)
	if err != nil {
		return err
	}
	met := 0
	var now dataSection
	for sc.next() {
		now.see(d.bytes, sc.section)
		for _, o := range d.omitted() {
			if s := sc.section; s.ID == o.module.ID && s.Start == o.start && s.End == o.end {
				met++
			}
		}
	}
	if sc.err != nil {
		return sc.err
	}
	for i := range d.omitted() {
		o := &d.omissions[i]
		header := o.headerBytes()
		r := newReader(header, 0, len(header))
		if r.byte() != o.module.ID || int(r.u32()) != o.module.End-o.module.Body || r.finish() != nil {
			return errChanged
		}
	}
	if met != d.omit || now.fixed != then.fixed || now.memory != then.memory {
		return errChanged
	}
	return nil
}

var errChanged = errors.New("the module changes while it is read")

// NewDraft is the work of [Stub] that needs no tag yet.
func NewDraft(wasm []byte, tagLen int) (d Draft, err error) {
	if tagLen > MaxTag {
		return d, errors.New("the tag of a stub is too long")
	}
	sc, err := newScanner(wasm)
	if err != nil {
		return d, err
	}
	var section Section
	var funcs, bodies uint32
	var segments dataSection
	for sc.next() {
		segments.see(wasm, sc.section)
		switch s := sc.section; s.ID {
		case functions:
			r := newReader(wasm, s.Body, s.End)
			if funcs = r.u32(); r.err != nil {
				return d, r.err
			}
		case code:
			section = s
			if bodies, err = checkBodies(wasm, s); err != nil {
				return d, err
			}
		}
	}
	switch {
	case sc.err != nil:
		return d, sc.err
	case bodies != funcs:
		return d, errorAt(section.Start, "%d functions but %d bodies", funcs, bodies)
	case funcs == 0:
		return d, ErrNoFunctions
	}

	first := 3 + tagConsts(tagLen)*tagStride
	size := uint64(ulebLen(uint64(funcs))+ulebLen(uint64(first))+first) + uint64(funcs-1)*uint64(len(stubBody))
	if err := checkSize(section.Start, size); err != nil {
		return d, err
	}
	total := uint64(section.Start+1+ulebLen(size)) + size + uint64(len(wasm)-section.End)
	old, content, merged := segments.section, []byte(nil), segments.merge(wasm)
	if merged {
		content = bytes.Clone(wasm[old.Body:old.End])
		segments.section, segments.runs = Section{ID: data, End: len(content)}, segments.runs[:0]
		if !segments.merge(content) {
			return d, errChanged
		}
		total += uint64(1+ulebLen(segments.size)) + segments.size
		total -= uint64(old.End - old.Start)
	}
	if err := checkSize(section.Start, total); err != nil {
		return d, err
	}

	stub := make([]byte, 0, total)
	stub = append(stub, wasm[:section.Start]...)
	codeAt := len(stub)
	stub = append(stub, code)
	stub = uleb(stub, size)
	stub = uleb(stub, uint64(funcs))
	stub = uleb(stub, uint64(first))
	d.tagAt, d.tagLen = len(stub), tagLen
	stub = stub[:len(stub)+first]
	for range funcs - 1 {
		stub = append(stub, stubBody...)
	}
	d.replace(wasm, section, codeAt, len(stub), nil)
	rest := wasm[section.End:]
	if merged {
		stub = append(stub, wasm[section.End:old.Start]...)
		dataAt := len(stub)
		stub = segments.appendTo(stub, content)
		d.replace(wasm, old, dataAt, len(stub), content)
		rest = wasm[old.End:]
	}
	d.bytes = append(stub, rest...)
	return d, d.check(&segments)
}

// tagConsts returns how many constants hold a tag. The first byte of them is its
// length, so that tags which differ only in trailing zeros stay different.
func tagConsts(tagLen int) int { return (1 + tagLen + 7) / 8 }

// appendTagged appends a body whose dead code holds the tag in constants.
func appendTagged(dst, tag []byte) []byte {
	consts := tagConsts(len(tag))
	dst = append(dst, 0, opUnreachable)
	var word [8]byte
	word[0] = byte(len(tag))
	n := 1
	for range consts {
		tag = tag[copy(word[n:], tag):]
		dst = append(dst, opF64Const)
		dst = append(dst, word[:]...)
		dst = append(dst, opDrop)
		word, n = [8]byte{}, 0
	}
	return append(dst, opEnd)
}

// checkBodies walks over the sizes in a code section and returns how many bodies
// there are. They must fill the section to its last byte.
func checkBodies(wasm []byte, s Section) (uint32, error) {
	r := newReader(wasm, s.Body, s.End)
	n := r.u32()
	for i := uint32(0); i < n && r.err == nil; i++ {
		size := r.u32()
		at := r.pos
		r.skip(size)
		if r.err == nil && (size < 2 || r.b[r.pos-1] != opEnd) {
			r.fail(at, "body doesn't end with end")
		}
	}
	return n, r.finish()
}
