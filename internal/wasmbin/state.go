package wasmbin

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// State is what of a module's state its binary says: how its instances begin.
type State struct {
	wasm     []byte
	sections []Section

	Linkage
	ImportedGlobals     int
	ImportsMutable      bool // a mutable global
	Globals             []Global
	HasTable, HasTag    bool
	TablesVary          bool  // what tables begin with depends on globals, and so maybe on imports
	VariesWith          []int // the module's own globals on which what other globals and tables begin with depends
	hasDataCount, start bool
	memoryAt            Section
}

// Global is a global that the module defines.
type Global struct {
	Mutable bool
	Type    byte // I32 and so on; 0 if it isn't a number
	initAt  int  // its constant expression
	end     int
}

// Types of numbers.
const (
	I32  = i32
	I64  = i64
	F32  = f32
	F64  = f64
	V128 = v128
)

// Value is that of a number: floats as their bits, the low half first.
type Value struct{ Low, High uint64 }

// ReadState reads a module that is known to be valid.
func ReadState(wasm []byte) (*State, error) {
	l, err := ScanLinkage(wasm)
	if err != nil {
		return nil, err
	}
	s := &State{wasm: wasm, Linkage: l}
	sc, err := newScanner(wasm)
	if err != nil {
		return nil, err
	}
	for sc.next() {
		sec := sc.section
		s.sections = append(s.sections, sec)
		e := newEditor(wasm, sec.Body, sec.End)
		e.onGlobal = func(index uint32) {
			s.TablesVary = s.TablesVary || sec.ID != globals
			if own := int(index) - s.ImportedGlobals; own >= 0 {
				s.VariesWith = append(s.VariesWith, own)
			}
		}
		switch sec.ID {
		case imports:
			for left := e.u32(); left > 0 && e.err == nil; left-- {
				if e.importDef() == kindGlobal {
					s.ImportedGlobals++
					s.ImportsMutable = s.ImportsMutable || e.b[e.pos-1] == 1
				}
			}
			err = e.finish()
		case globals:
			e.times(func(e *editor) { s.Globals = append(s.Globals, e.readGlobal()) })
			err = e.finish()
		case tables, elements:
			s.HasTable = s.HasTable || sec.ID == tables
			err = e.section(sec.ID)
		case tags:
			s.HasTag = true
		case memories:
			s.memoryAt = sec
		case start:
			s.start = true
		case dataCount:
			s.hasDataCount = true
		}
		if err != nil {
			return nil, err
		}
	}
	return s, sc.err
}

func (e *editor) readGlobal() (g Global) {
	switch t := e.valueType(); t.code {
	case i32, i64, f32, f64, v128:
		g.Type = t.code
	}
	g.Mutable = e.byte() == 1
	g.initAt = e.pos
	e.constExpr()
	g.end = e.pos
	return g
}

// Initial returns what the memory holds when the module has been instantiated, but for zeros
// at its end. It fails if that depends on imports, or can't be written.
func (s *State) Initial() ([]byte, error) {
	d := dataSection{memory: s.Memory.Min}
	for _, sec := range s.sections {
		if sec.ID == data {
			d.section = sec
		}
	}
	if d.section.ID != data {
		return nil, nil
	}
	end := uint64(0)
	if err := d.active(s.wasm, func(address uint64, b []byte) { end = max(end, address+uint64(len(b))) }); err != nil {
		return nil, err
	}
	content := make([]byte, end)
	err := d.active(s.wasm, func(address uint64, b []byte) { copy(content[address:], b) })
	return content, err
}

// active calls f for each segment that is written when a module is instantiated.
func (d *dataSection) active(wasm []byte, f func(address uint64, b []byte)) error {
	const passive, explicit = 1, 2
	r := newReader(wasm, d.section.Body, d.section.End)
	for range r.u32() {
		at := r.pos
		flags := r.u32()
		if flags > explicit || flags == explicit && r.u32() != 0 {
			return errorAt(at, "a data segment of an unknown kind")
		}
		address := int64(0)
		if flags != passive {
			op := r.byte()
			address = r.signed(32)
			if op != opI32Const || r.byte() != opEnd {
				return errorAt(at, "a data segment whose address is not a constant")
			}
		}
		size := r.u32()
		r.skip(size)
		switch {
		case r.err != nil:
			return r.err
		case flags == passive:
		case address < 0 || uint64(address)+uint64(size) > d.memory:
			return errorAt(at, "a data segment out of bounds")
		default:
			f(uint64(address), wasm[r.pos-int(size):r.pos])
		}
	}
	return r.finish()
}

// Snapshot is the state of an instance.
type Snapshot struct {
	Globals    []Value // of all that are mutable, in the order of their definition
	MemorySize uint64  // in bytes
	Memory     []byte  // but for zeros at its end
}

// Bare returns a module of the same code, whose memory is empty when it begins: its active data segments
// are passive, or left out where no instruction can tell. With a snapshot, its mutable
// globals have the values in it, the memory has its size, and there is no start function.
func (s *State) Bare(snap *Snapshot) ([]byte, error) { return s.write(snap, false) }

// Module returns a module whose instances begin as the snapshot says.
func (s *State) Module(snap *Snapshot) ([]byte, error) { return s.write(snap, true) }

func (s *State) write(snap *Snapshot, withMemory bool) ([]byte, error) {
	var segments []span
	if withMemory {
		segments = nonZero(snap.Memory)
		if n := len(segments); n > 0 && segments[n-1].at+uint64(len(segments[n-1].b)) > math.MaxInt32 {
			return nil, errors.New("the memory is in use beyond 2 GiB, where wazero has no data segments")
		}
	}
	out := append(make([]byte, 0, len(s.wasm)), header...)
	wroteData := false
	for _, sec := range s.sections {
		r := newReader(s.wasm, sec.Body, sec.End)
		switch {
		case sec.ID == globals && snap != nil:
			b, err := s.globals(snap.Globals)
			if err != nil {
				return nil, err
			}
			out = appendSection(out, globals, b)
		case sec.ID == memories && snap != nil && s.Memory.Defined:
			out = appendSection(out, memories, memorySection(&r, snap.MemorySize/page))
		case sec.ID == start && snap != nil:
		case sec.ID == dataCount:
			out = appendSection(out, dataCount, uleb(nil, uint64(r.u32())+uint64(len(segments))))
		case sec.ID == data:
			wroteData = true
			old := s.passive(sec)
			if old != nil || len(segments) > 0 {
				out = appendSection(out, data, appendSegments(old, segments))
			}
		default:
			out = append(out, s.wasm[sec.Start:sec.End]...)
		}
		if r.err != nil {
			return nil, r.err
		}
	}
	if !wroteData && len(segments) > 0 {
		out = appendSection(out, data, appendSegments(nil, segments))
	}
	return out, checkSize(0, uint64(len(out)))
}

func appendSection(dst []byte, id byte, content []byte) []byte {
	dst = uleb(append(dst, id), uint64(len(content)))
	return append(dst, content...)
}

// globals writes the section with new values.
func (s *State) globals(values []Value) ([]byte, error) {
	b := uleb(nil, uint64(len(s.Globals)))
	from := 0
	for _, sec := range s.sections {
		if sec.ID == globals {
			r := newReader(s.wasm, sec.Body, sec.End)
			_ = r.u32()
			from = r.pos
		}
	}
	for i, g := range s.Globals {
		if !g.Mutable {
			b = append(b, s.wasm[from:g.end]...)
			from = g.end
			continue
		}
		if len(values) == 0 {
			return nil, fmt.Errorf("the snapshot has no value for global %d", i)
		}
		v := values[0]
		values = values[1:]
		b = append(b, s.wasm[from:g.initAt]...)
		from = g.end
		switch g.Type {
		case i32:
			b = sleb(append(b, opI32Const), int64(int32(v.Low)))
		case i64:
			b = sleb(append(b, opI64Const), int64(v.Low))
		case f32:
			b = binary.LittleEndian.AppendUint32(append(b, opF32Const), uint32(v.Low))
		case f64:
			b = binary.LittleEndian.AppendUint64(append(b, opF64Const), v.Low)
		case v128:
			b = binary.LittleEndian.AppendUint64(append(b, opVector, vecConst), v.Low)
			b = binary.LittleEndian.AppendUint64(b, v.High)
		default:
			return nil, fmt.Errorf("global %d is not a number", i)
		}
		b = append(b, opEnd)
	}
	if len(values) > 0 {
		return nil, fmt.Errorf("the snapshot has %d values too many", len(values))
	}
	return b, nil
}

// memorySection writes the section with another minimum.
func memorySection(r *reader, pages uint64) []byte {
	_ = r.u32()
	flags := r.byte()
	_ = r.u32()
	b := uleb([]byte{1, flags}, pages)
	return append(b, r.b[r.pos:r.end]...)
}

// passive writes the data section with all segments passive, or returns nil if no
// instruction refers to any.
func (s *State) passive(sec Section) []byte {
	if !s.hasDataCount {
		return nil
	}
	e := newEditor(s.wasm, sec.Body, sec.End)
	n := e.u32()
	b := uleb(nil, uint64(n))
	for range n {
		if flags := e.u32(); flags != 1 {
			if flags == 2 {
				e.index()
			}
			e.constExpr()
		}
		size := e.u32()
		e.skip(size)
		if e.err != nil {
			return nil // the module isn't valid
		}
		b = uleb(append(b, 1), uint64(size))
		b = append(b, s.wasm[e.pos-int(size):e.pos]...)
	}
	return b
}

// span is a part of a memory.
type span struct {
	at uint64
	b  []byte
}

// nonZero cuts a memory into parts without long runs of zeros, at addresses that
// a constant can have which wazero doesn't take for negative.
func nonZero(memory []byte) (segments []span) {
	const step = 64
	from, last := -1, 0
	flush := func() {
		if from >= 0 {
			segments = append(segments, span{uint64(from), memory[from:last]})
		}
		from = -1
	}
	for at := 0; at < len(memory); at += step {
		end := min(at+step, len(memory))
		if allZero(memory[at:end]) {
			if from >= 0 && at-last >= 4*step {
				flush()
			}
			continue
		}
		if from < 0 {
			from = at
		}
		last = end
	}
	flush()
	return limit(segments, memory)
}

// limit joins segments until there are no more than wazero and others allow.
func limit(segments []span, memory []byte) []span {
	const most = 50_000
	for gap := uint64(512); len(segments) > most; gap *= 2 {
		joined := segments[:0]
		for _, s := range segments {
			if n := len(joined); n > 0 {
				if end := joined[n-1].at + uint64(len(joined[n-1].b)); s.at-end <= gap {
					joined[n-1].b = memory[joined[n-1].at : s.at+uint64(len(s.b))]
					continue
				}
			}
			joined = append(joined, s)
		}
		segments = joined
	}
	return segments
}

// TrimZeros returns b without the zeros at its end.
func TrimZeros(b []byte) []byte {
	for n := len(b) / 4096; n > 0 && len(b) > 4096 && allZero(b[len(b)-4096:]); n-- {
		b = b[:len(b)-4096]
	}
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return b
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// appendSegments appends active segments to the content of a data section, nil for none.
func appendSegments(old []byte, segments []span) []byte {
	n := uint64(len(segments))
	if old != nil {
		r := newReader(old, 0, len(old))
		n += uint64(r.u32())
		old = old[r.pos:]
	}
	b := append(uleb(nil, n), old...)
	for _, s := range segments {
		b = sleb(append(b, 0, opI32Const), int64(int32(uint32(s.at))))
		b = uleb(append(b, opEnd), uint64(len(s.b)))
		b = append(b, s.b...)
	}
	return b
}
