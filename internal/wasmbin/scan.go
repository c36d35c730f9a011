// Package wasmbin reads and rewrites WebAssembly binaries without running or
// validating them: sections, stubs and the canonical encoding. It is strict:
// what it doesn't know, or what wazero could read in another way, is an error.
// Nothing here modifies the bytes it is given.
package wasmbin

import (
	"bytes"
	"unicode/utf8"
)

// Section ids.
const (
	custom    = 0
	types     = 1
	imports   = 2
	functions = 3
	tables    = 4
	memories  = 5
	globals   = 6
	exports   = 7
	start     = 8
	elements  = 9
	code      = 10
	data      = 11
	dataCount = 12
	tags      = 13
)

// header is the magic number and the version.
const header = "\x00asm\x01\x00\x00\x00"

// HasHeader reports whether b begins as a module does.
func HasHeader(b []byte) bool { return bytes.HasPrefix(b, []byte(header)) }

// Section is the place of one section within a module.
type Section struct {
	ID    byte
	Start int // of the id byte
	Body  int // of the content, behind id and size
	End   int
	Name  []byte // of a custom section; aliases the module
	Data  int    // of a custom section's content behind the name, else Body
}

// Outline is what the section headers tell about a module.
type Outline struct {
	Sections      []Section // in the order of the module, without custom ones, of which there may be millions
	Custom        int       // bytes in those
	Customs       int       // how many those are
	Types         uint32
	ImportedFuncs uint32
	DefinedFuncs  uint32
	DataSegments  uint32
	HasDebug      bool // there is a custom section whose name starts with ".debug_"
}

// CodeSize returns the length of all bodies.
func (o *Outline) CodeSize() int { return o.size(code) }

// ElementsSize returns the length of what fills tables.
func (o *Outline) ElementsSize() int { return o.size(elements) }

// TypesSize returns the length of the section of types.
func (o *Outline) TypesSize() int { return o.size(types) }

func (o *Outline) size(id byte) (n int) {
	for _, s := range o.Sections {
		if s.ID == id {
			n += s.End - s.Body
		}
	}
	return n
}

// Described returns how many bytes of the module say what is in it, and how many are copied
// as they are: data and custom sections. The rest is code, and elements.
func (o *Outline) Described() (described, copied int) {
	copied = o.Custom
	for _, s := range o.Sections {
		switch n := s.End - s.Body; s.ID {
		case code, elements:
		case data:
			copied += n
		default:
			described += n
		}
	}
	return described, copied
}

// Scan reads the section headers of a module, its imports and the length of its
// type and function sections. Everything else may be malformed without Scan noticing. All
// errors are of type [*Error].
func Scan(wasm []byte) (Outline, error) {
	o := Outline{Sections: make([]Section, 0, 16)}
	sc, err := newScanner(wasm)
	if err != nil {
		return o, err
	}
	codes := uint32(0)
	for sc.next() {
		s := sc.section
		if s.ID == custom {
			o.HasDebug = o.HasDebug || bytes.HasPrefix(s.Name, []byte(".debug_"))
			o.Custom += s.End - s.Body
			o.Customs++
			continue
		}
		r := newReader(wasm, s.Body, s.End)
		switch s.ID {
		case types:
			o.Types = r.u32()
		case imports:
			o.ImportedFuncs, r.err = countImports(wasm, s, kindFunc)
		case functions:
			o.DefinedFuncs = r.u32()
		case code:
			codes = r.u32()
		case data:
			o.DataSegments = r.u32()
		}
		if r.err != nil {
			return o, r.err
		}
		o.Sections = append(o.Sections, s)
	}
	if sc.err == nil && codes != o.DefinedFuncs {
		return o, errorAt(len(wasm), "%d functions but %d bodies", o.DefinedFuncs, codes)
	}
	return o, sc.err
}

// Names is what sections of names have.
type Names struct {
	Entries   int // functions, locals, and functions that have named locals
	Functions int // bytes of their names
	Module    int // bytes of the longest of its name
}

// NamesIn returns what the sections of names in a module have, as far as they can be read.
func NamesIn(wasm []byte) (n Names) {
	eachCustom(wasm, func(name []byte, start, end int) {
		if string(name) == "name" {
			n.add(newReader(wasm, start, end))
		}
	})
	return n
}

// add adds what a section of names has. Like wazero, it looks for the next subsection where
// the names of the last one end, whatever size that has.
func (n *Names) add(r reader) {
	const module, functions, locals = 0, 1, 2
	for !r.done() && r.err == nil {
		switch id, size := r.byte(), r.u32(); id {
		case module:
			n.Module = max(n.Module, r.name())
		case functions:
			n.Functions += n.addMap(&r)
		case locals:
			for f := r.u32(); f > 0 && r.err == nil; f-- {
				r.u32()
				n.Entries++
				n.addMap(&r)
			}
		default:
			r.skip(size)
		}
	}
}

// addMap adds the entries of a map, and returns the bytes of their names.
func (n *Names) addMap(r *reader) (size int) {
	for i := r.u32(); i > 0 && r.err == nil; i-- {
		r.u32()
		size += r.name()
		n.Entries++
	}
	return size
}

// name skips a name, and returns its length.
func (r *reader) name() int {
	size := r.u32()
	start := r.pos
	r.skip(size)
	return r.pos - start
}

// eachSection calls f for all sections that can be read, in whatever order they are: some releases of wazero take any.
func eachSection(wasm []byte, f func(id byte, start, end int)) {
	for r := newReader(wasm, min(len(header), len(wasm)), len(wasm)); !r.done(); {
		id, size := r.byte(), r.u32()
		start := r.pos
		if r.skip(size); r.err != nil {
			return
		}
		f(id, start, r.pos)
	}
}

// eachCustom calls f for the content of each custom section that can be read.
func eachCustom(wasm []byte, f func(name []byte, start, end int)) {
	eachSection(wasm, func(id byte, start, end int) {
		if id == custom {
			name, data, _ := readName(wasm, start, end)
			f(name, data, end)
		}
	})
}

// DeclaredLocals counts the locals that functions declare, as far as they can be read.
func DeclaredLocals(wasm []byte) (n int64) {
	eachSection(wasm, func(id byte, start, end int) {
		if id == code {
			n += localsOf(newReader(wasm, start, end))
		}
	})
	return n
}

// localsOf counts those of a code section.
func localsOf(r reader) (n int64) {
	for bodies := r.u32(); bodies > 0; bodies-- {
		size := r.u32()
		start := r.pos
		if r.skip(size); r.err != nil {
			break
		}
		body := newReader(r.b, start, r.pos)
		for groups := body.u32(); groups > 0; groups-- {
			of := body.u32()
			if body.valueType(); body.err != nil {
				break
			}
			n += int64(of)
		}
	}
	return n
}

// SameCode reports whether two modules have the same bodies and the same data, byte for byte.
func SameCode(a, b []byte) bool {
	ofA, errA := hidden(a)
	ofB, errB := hidden(b)
	return errA == nil && errB == nil && bytes.Equal(ofA[0], ofB[0]) && bytes.Equal(ofA[1], ofB[1])
}

// hidden returns the contents of the sections that a stub has others of: code and data.
func hidden(wasm []byte) (contents [2][]byte, err error) {
	sc, err := newScanner(wasm)
	if err != nil {
		return contents, err
	}
	for sc.next() {
		switch s := sc.section; s.ID {
		case code:
			contents[0] = wasm[s.Body:s.End]
		case data:
			contents[1] = wasm[s.Body:s.End]
		}
	}
	return contents, sc.err
}

// scanner steps from section to section.
type scanner struct {
	reader
	section Section
	last    byte // id of the last section that isn't custom
}

func newScanner(wasm []byte) (scanner, error) {
	if !bytes.HasPrefix(wasm, []byte(header)) {
		return scanner{}, errorAt(0, "not a WebAssembly module of version 1")
	}
	return scanner{reader: newReader(wasm, len(header), len(wasm))}, nil
}

// next reads one more section header. At the end, and at an error, it returns
// false.
func (s *scanner) next() bool {
	if s.done() || s.err != nil {
		return false
	}
	sec := &s.section
	*sec = Section{Start: s.pos}
	sec.ID = s.byte()
	switch {
	case sec.ID > tags:
		s.fail(sec.Start, "unknown section %d", sec.ID)
	case sec.ID == custom:
	case rank(sec.ID) <= rank(s.last):
		s.fail(sec.Start, "section %d after section %d", sec.ID, s.last)
	default:
		s.last = sec.ID
	}
	size := s.u32()
	sec.Body = s.pos
	s.skip(size)
	sec.End, sec.Data = s.pos, sec.Body
	if sec.ID == custom && s.err == nil {
		sec.Name, sec.Data, s.err = readName(s.b, sec.Body, sec.End)
	}
	return s.err == nil
}

// readName reads the name that a custom section begins with, and returns where that ends. There may be millions.
func readName(b []byte, start, end int) (name []byte, next int, err error) {
	if start < end && b[start] < 0x80 {
		if next = start + 1 + int(b[start]); next <= end {
			if name = b[start+1 : next : next]; utf8.Valid(name) {
				return name, next, nil
			}
		}
	}
	r := newReader(b, start, end)
	name = r.utf8(r.u32())
	return name, r.pos, r.err
}

// rank orders the sections as they must follow each other: tags stand between
// memories and globals, the data count between elements and code.
func rank(id byte) byte {
	switch id {
	case tags:
		return 2*memories + 1
	case dataCount:
		return 2*elements + 1
	}
	return 2 * id
}
