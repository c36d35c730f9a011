// Package wasmbin reads and rewrites WebAssembly binaries without running or
// validating them: sections, stubs and the canonical encoding. It is strict:
// what it doesn't know, or what wazero could read in another way, is an error.
// Nothing here modifies the bytes it is given.
package wasmbin

import "bytes"

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
	Sections      []Section // in the order of the module
	ImportedFuncs uint32
	DefinedFuncs  uint32
	HasDebug      bool // there is a custom section whose name starts with ".debug_"
}

// CodeSize returns the length of all bodies.
func (o *Outline) CodeSize() (n int) {
	for _, s := range o.Sections {
		if s.ID == code {
			n += s.End - s.Body
		}
	}
	return n
}

// Scan reads the section headers of a module, its imports and the length of its
// function section. Everything else may be malformed without Scan noticing. All
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
		r := newReader(wasm, s.Body, s.End)
		switch s.ID {
		case custom:
			o.HasDebug = o.HasDebug || bytes.HasPrefix(s.Name, []byte(".debug_"))
		case imports:
			o.ImportedFuncs, err = countImports(wasm, s, kindFunc)
		case functions:
			o.DefinedFuncs, err = r.u32()
		case code:
			codes, err = r.u32()
		}
		if err != nil {
			return o, err
		}
		o.Sections = append(o.Sections, s)
	}
	if sc.err == nil && codes != o.DefinedFuncs {
		return o, errorAt(len(wasm), "%d functions but %d bodies", o.DefinedFuncs, codes)
	}
	return o, sc.err
}

// scanner steps from section to section.
type scanner struct {
	r       reader
	section Section
	last    byte // id of the last section that isn't custom
	err     error
}

func newScanner(wasm []byte) (scanner, error) {
	if !bytes.HasPrefix(wasm, []byte(header)) {
		return scanner{}, errorAt(0, "not a WebAssembly module of version 1")
	}
	return scanner{r: newReader(wasm, len(header), len(wasm))}, nil
}

// next reads one more section header. At the end, and at an error, it returns
// false.
func (s *scanner) next() bool {
	if s.r.done() || s.err != nil {
		return false
	}
	s.section, s.err = s.read()
	return s.err == nil
}

func (s *scanner) read() (Section, error) {
	sec := Section{Start: s.r.pos}
	sec.ID, _ = s.r.byte()
	if sec.ID > tags {
		return sec, errorAt(sec.Start, "unknown section %d", sec.ID)
	}
	if sec.ID != custom {
		if rank(sec.ID) <= rank(s.last) {
			return sec, errorAt(sec.Start, "section %d after section %d", sec.ID, s.last)
		}
		s.last = sec.ID
	}
	size, err := s.r.u32()
	if err != nil {
		return sec, err
	}
	sec.Body = s.r.pos
	if err := s.r.skip(size); err != nil {
		return sec, err
	}
	sec.End, sec.Data = s.r.pos, sec.Body
	if sec.ID == custom {
		r := newReader(s.r.b, sec.Body, sec.End)
		if sec.Name, err = r.name(); err != nil {
			return sec, err
		}
		sec.Data = r.pos
	}
	return sec, nil
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
