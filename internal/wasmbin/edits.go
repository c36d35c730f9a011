package wasmbin

import (
	"encoding/binary"
	"math"
)

// editKind says what an edit respells.
type editKind byte

const (
	editUnsigned editKind = iota
	editSigned
	editLocals // the declarations of a function's locals

	editKinds = 2 // bits
)

// edits is a list of places in a module, in ascending order. It takes about two
// bytes for each.
type edits struct {
	b    []byte
	last int // where the last one ends
}

func (l *edits) add(kind editKind, start, end int) {
	l.b = binary.AppendUvarint(l.b, uint64(start-l.last)<<editKinds|uint64(kind))
	l.last = end
}

// replay writes parts of a module with the edits in them. It must be given the
// parts in ascending order, and none that has edits may be left out.
type replay struct {
	wasm []byte
	out  *sink
	log  []byte
	at   int // where the next edit begins
	kind editKind
}

func newReplay(wasm []byte, log []byte, out *sink) *replay {
	r := &replay{wasm: wasm, log: log, out: out}
	r.next(0)
	return r
}

// next finds the edit behind the one that ends at a position.
func (r *replay) next(end int) {
	if len(r.log) == 0 {
		r.at = math.MaxInt
		return
	}
	v, n := binary.Uvarint(r.log)
	r.log = r.log[n:]
	r.at, r.kind = end+int(v>>editKinds), editKind(v&(1<<editKinds-1))
}

func (r *replay) part(start, end int) {
	for r.at < end {
		r.out.write(r.wasm[start:r.at])
		old := newReader(r.wasm, r.at, end)
		switch r.kind {
		case editUnsigned:
			r.out.uleb(old.unsigned(64))
		case editSigned:
			r.out.sleb(old.signed(64))
		case editLocals:
			old.pos = r.locals(old)
		}
		start = old.pos
		r.next(start)
	}
	r.out.write(r.wasm[start:end])
}

// locals writes merged declarations and returns where the old ones end.
func (r *replay) locals(old reader) int {
	l := localReader{r: old}
	groups := uint64(0)
	for l.next() {
		groups++
	}
	r.out.uleb(groups)
	l = localReader{r: old}
	for l.next() {
		r.out.uleb(l.n)
		r.out.valueType(l.typ)
	}
	return l.r.pos
}
