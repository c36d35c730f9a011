package wasmbin

// editor reads parts of a module and notes what could be spelled shorter.
//
// Every edit makes its part shorter, so what needs none is canonical as it is.
type editor struct {
	reader
	wasm  []byte
	saved int // bytes by which the edits make the part shorter
	log   edits

	onGlobal func(index uint32) // if set, is told of each global that a constant expression depends on

	// byteTables reports whether the type of a table is one byte, whatever it is, as to wazero before v1.12. It is asked
	// where that matters.
	byteTables func() bool
}

func newEditor(wasm []byte, start, end int) *editor {
	e := &editor{wasm: wasm}
	e.turnTo(start, end)
	return e
}

// turnTo goes to another part, which lies behind those that were edited before.
func (e *editor) turnTo(start, end int) {
	e.saved = 0
	if e.err == nil {
		e.reader = newReader(e.wasm, start, end)
	}
}

// edit notes that what was read since start is spelled in n bytes.
func (e *editor) edit(kind editKind, start, n int) {
	e.saved += e.pos - start - n
	e.log.add(kind, start, e.pos)
}

func (e *editor) u32() uint32 {
	if e.pos < e.end {
		if c := e.b[e.pos]; c < 0x80 {
			e.pos++
			return uint32(c)
		}
	}
	return e.longU32()
}

func (e *editor) longU32() uint32 {
	start := e.pos
	v := e.unsigned(32)
	// A superfluous last byte is zero.
	if e.err == nil && e.pos-start > 1 && e.b[e.pos-1] == 0 {
		e.edit(editUnsigned, start, ulebLen(v))
	}
	return uint32(v)
}

func (e *editor) signed(bits uint) {
	start := e.pos
	e.shorten(start, e.reader.signed(bits))
}

// shorten edits the signed integer v that was read since start.
func (e *editor) shorten(start int, v int64) {
	if e.err != nil || e.pos-start < 2 {
		return
	}
	// A superfluous last byte says what the sign bit before it says.
	switch last, sign := e.b[e.pos-1], e.b[e.pos-2]&0x40; {
	case last == 0 && sign == 0, last == 0x7f && sign != 0:
		e.edit(editSigned, start, slebLen(v))
	}
}

// reserved reads a byte that has to be zero, spelled as one byte.
func (e *editor) reserved() {
	at := e.pos
	if c := e.byte(); c != 0 {
		e.fail(at, "reserved byte is %#x", c)
	}
}

// count reads the length of a vector, each of whose elements takes a byte or more.
func (e *editor) count() uint32 {
	n := e.u32()
	if !e.lenient || n >= absurdCount {
		e.need(n, "entries")
	}
	return n
}

// times calls f for each element of a vector.
func (e *editor) times(f func(*editor)) {
	n := e.count()
	for i := uint32(0); i < n && e.err == nil; i++ {
		f(e)
	}
}

// index reads an integer whose value is of no interest.
func (e *editor) index() { e.u32() }

// name reads a string. That it is UTF-8 matters: wazero refuses others.
func (e *editor) name() { e.utf8(e.u32()) }

func (e *editor) valueType() valueType {
	at := e.pos
	t := e.reader.valueType()
	if t.prefixed() {
		e.shorten(at+1, t.heap)
	}
	return t
}

func (e *editor) refType() {
	at := e.pos
	if e.lenient && at < e.end && e.b[at] != refNull && e.b[at] != ref {
		e.pos++ // whatever it is
		return
	}
	switch t := e.valueType(); t.code {
	case i32, i64, f32, f64, v128:
		e.fail(at, "not a reference type: %#x", t.code)
	}
}

func (e *editor) heapType() {
	at := e.pos
	e.shorten(at, e.reader.heapType())
}

// blockType reads a value type, the empty type or the index of a type. All but
// the last must be a single byte at first.
func (e *editor) blockType() {
	at := e.pos
	switch c := e.byte(); {
	case c == emptyType:
		return
	case c < 0x80 && c&0x40 != 0: // a negative number
		e.pos = at
		e.valueType()
		return
	}
	if e.err != nil {
		return
	}
	e.pos = at
	v := e.reader.signed(33)
	if v < 0 {
		e.fail(at, "unknown block type")
	}
	e.shorten(at, v)
}

func (e *editor) limits() {
	at := e.pos
	flags := e.byte()
	if flags > 3 {
		e.fail(at, "unknown limits %#x", flags)
	}
	e.index()
	if flags&1 != 0 {
		e.index()
	}
}

// constExpr reads a constant expression up to its end.
func (e *editor) constExpr() {
	for e.err == nil {
		at := e.pos
		switch op := e.byte(); op {
		case opEnd:
			return
		case opI32Add, opI32Sub, opI32Mul, opI64Add, opI64Sub, opI64Mul:
		case opI32Const:
			e.signed(32)
		case opI64Const:
			e.signed(64)
		case opF32Const:
			e.skip(4)
		case opF64Const:
			e.skip(8)
		case opGlobalGet:
			if i := e.u32(); e.onGlobal != nil && e.err == nil {
				e.onGlobal(i)
			}
		case opRefFunc:
			e.index()
		case opRefNull:
			e.heapType()
		case opVector:
			if op := e.byte(); op != vecConst {
				e.fail(at, "vector opcode %#x in a constant expression", op)
			}
			e.skip(16)
		default:
			e.fail(at, "opcode %#x in a constant expression", op)
		}
	}
}
