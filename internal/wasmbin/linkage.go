package wasmbin

import "slices"

// Linkage is what a module shares with others, and the memory that it has of its own.
type Linkage struct {
	ImportsMemory bool
	ImportsTable  bool
	From          []string   // the modules that it imports these from, each once
	Starts        bool       // an instance runs before it is complete
	Memory        MemoryType // the zero value if the module defines none
}

// Imports reports whether instances have a part in the state of others.
func (l Linkage) Imports() bool { return l.ImportsMemory || l.ImportsTable }

// Mappable reports whether the memory of an instance ends with the instance and those that
// import it. An instance that never gets complete is nobody's, but its functions may be called through an imported
// table, and a start section may have shown it to the host.
func (l Linkage) Mappable() bool { return l.Memory.Max > 0 && !l.ImportsTable && !l.Starts }

// MemoryType is a memory's size, in bytes.
type MemoryType struct {
	Defined  bool
	Shared   bool
	Min, Max uint64
}

// maxMemory is how large a memory may grow that has no maximum.
const maxMemory = 1 << 32

// ScanLinkage reads the sections of a module that say so. It fails if sections are out of order, which wazero 1.10 takes.
func ScanLinkage(wasm []byte) (l Linkage, err error) {
	sc, err := newScanner(wasm)
	if err != nil {
		return l, err
	}
	for sc.next() {
		switch s := sc.section; s.ID {
		case imports:
			e := newEditor(wasm, s.Body, s.End)
			for left := e.u32(); left > 0 && e.err == nil; left-- {
				from := newReader(wasm, e.pos, s.End)
				switch e.importDef() {
				case kindMemory:
					l.ImportsMemory = true
				case kindTable:
					l.ImportsTable = true
				default:
					continue
				}
				l.From = append(l.From, string(from.utf8(from.u32())))
			}
			slices.Sort(l.From)
			l.From = slices.Compact(l.From)
			if err := e.finish(); err != nil {
				return l, err
			}
		case memories:
			r := newReader(wasm, s.Body, s.End)
			if n := r.u32(); n > 1 {
				return l, errorAt(s.Body, "%d memories", n)
			} else if n == 1 {
				l.Memory = readMemoryType(&r)
			}
			if err := r.finish(); err != nil {
				return l, err
			}
		case start:
			l.Starts = true
		}
	}
	return l, sc.err
}

func readMemoryType(r *reader) MemoryType {
	const hasMax, shared, known = 1, 2, 3
	at := r.pos
	flags := r.byte()
	if flags&^known != 0 {
		r.fail(at, "unknown limits %#x", flags)
	}
	m := MemoryType{Defined: true, Shared: flags&shared != 0, Max: maxMemory}
	m.Min = uint64(r.u32()) * page
	if flags&hasMax != 0 {
		m.Max = uint64(r.u32()) * page
	}
	return m
}
