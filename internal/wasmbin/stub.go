package wasmbin

import "errors"

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
}

// Stub completes the draft, which can't be used again, with a tag of the length
// that it was made for.
func (d Draft) Stub(tag []byte) []byte {
	appendTagged(d.bytes[:d.tagAt], tag[:d.tagLen:d.tagLen])
	return d.bytes
}

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
	merged := segments.merge(wasm)
	if merged {
		total += uint64(1+ulebLen(segments.size)) + segments.size
		total -= uint64(segments.section.End - segments.section.Start)
	}
	if err := checkSize(section.Start, total); err != nil {
		return d, err
	}

	stub := make([]byte, 0, total)
	stub = append(stub, wasm[:section.Start]...)
	stub = append(stub, code)
	stub = uleb(stub, size)
	stub = uleb(stub, uint64(funcs))
	stub = uleb(stub, uint64(first))
	d.tagAt, d.tagLen = len(stub), tagLen
	stub = stub[:len(stub)+first]
	for range funcs - 1 {
		stub = append(stub, stubBody...)
	}
	rest := wasm[section.End:]
	if merged {
		stub = append(stub, wasm[section.End:segments.section.Start]...)
		stub = segments.appendTo(stub, wasm)
		rest = wasm[segments.section.End:]
	}
	d.bytes = append(stub, rest...)
	return d, nil
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
