package wasmbin

// editor reads parts of a module and notes what could be spelled shorter.
//
// Every edit makes its part shorter, so what needs none is canonical as it is.
type editor struct {
	reader
	wasm  []byte
	saved int // bytes by which the edits make the part shorter
	log   edits
}

func newEditor(wasm []byte, start, end int) *editor {
	e := &editor{wasm: wasm}
	e.turnTo(start, end)
	return e
}

// turnTo goes to another part, which lies behind those that were edited before.
func (e *editor) turnTo(start, end int) {
	e.reader, e.saved = newReader(e.wasm, start, end), 0
}

// finish checks that the part was read to its end.
func (e *editor) finish() error {
	if !e.done() {
		return errorAt(e.pos, "%d bytes left over", e.end-e.pos)
	}
	return nil
}

// edit notes that what was read since start is spelled in n bytes.
func (e *editor) edit(kind editKind, start, n int) {
	e.saved += e.pos - start - n
	e.log.add(kind, start, e.pos)
}

func (e *editor) u32() (uint32, error) {
	if e.pos < e.end {
		if c := e.b[e.pos]; c < 0x80 {
			e.pos++
			return uint32(c), nil
		}
	}
	return e.longU32()
}

func (e *editor) longU32() (uint32, error) {
	start := e.pos
	v, err := e.unsigned(32)
	// A superfluous last byte is zero.
	if err == nil && e.pos-start > 1 && e.b[e.pos-1] == 0 {
		e.edit(editUnsigned, start, ulebLen(v))
	}
	return uint32(v), err
}

func (e *editor) signed(bits uint) error {
	start := e.pos
	v, err := e.reader.signed(bits)
	e.shorten(start, v)
	return err
}

// shorten edits the signed integer v that was read since start.
func (e *editor) shorten(start int, v int64) {
	if e.pos-start < 2 {
		return
	}
	// A superfluous last byte says what the sign bit before it says.
	switch last, sign := e.b[e.pos-1], e.b[e.pos-2]&0x40; {
	case last == 0 && sign == 0, last == 0x7f && sign != 0:
		e.edit(editSigned, start, slebLen(v))
	}
}

// reserved reads a byte that has to be zero, spelled as one byte.
func (e *editor) reserved() error {
	at := e.pos
	c, err := e.byte()
	if err == nil && c != 0 {
		return errorAt(at, "reserved byte is %#x", c)
	}
	return err
}

// times calls f for each element of a vector.
func (e *editor) times(f func(*editor) error) error {
	n, err := e.u32()
	if err != nil {
		return err
	}
	if uint64(n) > uint64(e.end-e.pos) {
		return errorAt(e.pos, "%d entries announced, %d bytes left", n, e.end-e.pos)
	}
	for range n {
		if err := f(e); err != nil {
			return err
		}
	}
	return nil
}

// name reads a string. That it is UTF-8 matters: wazero refuses others.
func (e *editor) name() error {
	n, err := e.u32()
	if err != nil {
		return err
	}
	_, err = e.utf8(n)
	return err
}

func (e *editor) valueType() error {
	at := e.pos
	t, err := e.reader.valueType()
	if t.prefixed() {
		e.shorten(at+1, t.heap)
	}
	return err
}

func (e *editor) refType() error {
	at := e.pos
	t, err := e.reader.valueType()
	switch t.code {
	case i32, i64, f32, f64, v128:
		return errorAt(at, "not a reference type: %#x", t.code)
	}
	if t.prefixed() {
		e.shorten(at+1, t.heap)
	}
	return err
}

func (e *editor) heapType() error {
	at := e.pos
	v, err := e.reader.heapType()
	e.shorten(at, v)
	return err
}

// blockType reads a value type, the empty type or the index of a type. All but
// the last must be a single byte at first.
func (e *editor) blockType() error {
	at := e.pos
	if at >= e.end {
		return errorAt(at, "unexpected end")
	}
	switch c := e.b[at]; {
	case c == emptyType:
		e.pos++
		return nil
	case c < 0x80 && c&0x40 != 0: // a negative number
		return e.valueType()
	}
	v, err := e.reader.signed(33)
	if err == nil && v < 0 {
		return errorAt(at, "unknown block type")
	}
	e.shorten(at, v)
	return err
}

func (e *editor) limits() error {
	at := e.pos
	flags, err := e.byte()
	if err != nil {
		return err
	}
	if flags > 3 {
		return errorAt(at, "unknown limits %#x", flags)
	}
	if _, err = e.u32(); err == nil && flags&1 != 0 {
		_, err = e.u32()
	}
	return err
}

// constExpr reads a constant expression up to its end.
func (e *editor) constExpr() error {
	for {
		at := e.pos
		op, err := e.byte()
		if err != nil {
			return err
		}
		switch op {
		case opEnd:
			return nil
		case opI32Add, opI32Sub, opI32Mul, opI64Add, opI64Sub, opI64Mul:
		case opI32Const:
			err = e.signed(32)
		case opI64Const:
			err = e.signed(64)
		case opF32Const:
			err = e.skip(4)
		case opF64Const:
			err = e.skip(8)
		case opGlobalGet, opRefFunc:
			_, err = e.u32()
		case opRefNull:
			err = e.heapType()
		case opVector:
			if op, err = e.byte(); err == nil && op != vecConst {
				err = errorAt(at, "vector opcode %#x in a constant expression", op)
			}
			if err == nil {
				err = e.skip(16)
			}
		default:
			err = errorAt(at, "opcode %#x in a constant expression", op)
		}
		if err != nil {
			return err
		}
	}
}
