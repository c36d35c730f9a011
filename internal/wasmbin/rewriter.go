package wasmbin

// rewriter reads a part of a module and finds what could be spelled shorter.
// Without out it measures only; with out it writes the canonical spelling.
//
// Each change makes its part shorter, so what saves nothing is canonical as it
// stands and can be copied.
type rewriter struct {
	reader
	out   *sink
	saved int // bytes that the canonical spelling is shorter by
	from  int // everything before it has been written
}

func newRewriter(wasm []byte, start, end int, out *sink) rewriter {
	return rewriter{reader: newReader(wasm, start, end), out: out, from: start}
}

// finish writes what is left and checks that everything was read.
func (w *rewriter) finish() error {
	if !w.done() {
		return errorAt(w.pos, "%d bytes left over", w.end-w.pos)
	}
	if w.out != nil {
		w.out.write(w.b[w.from:w.end])
	}
	return nil
}

// replaces notes that what was read since start is spelled in n bytes. It
// reports whether the caller has to write these now.
func (w *rewriter) replaces(start, n int) bool {
	w.saved += w.pos - start - n
	if w.out == nil {
		return false
	}
	w.out.write(w.b[w.from:start])
	w.from = w.pos
	return true
}

func (w *rewriter) u32() (uint32, error) {
	if w.pos < w.end {
		if c := w.b[w.pos]; c < 0x80 {
			w.pos++
			return uint32(c), nil
		}
	}
	return w.longU32()
}

func (w *rewriter) longU32() (uint32, error) {
	start := w.pos
	v, err := w.unsigned(32)
	// A superfluous last byte is zero.
	if err == nil && w.pos-start > 1 && w.b[w.pos-1] == 0 && w.replaces(start, ulebLen(v)) {
		w.out.uleb(v)
	}
	return uint32(v), err
}

func (w *rewriter) signed(bits uint) error {
	start := w.pos
	v, err := w.reader.signed(bits)
	w.shorten(start, v)
	return err
}

// shorten rewrites the signed integer v that was read since start.
func (w *rewriter) shorten(start int, v int64) {
	if w.pos-start < 2 {
		return
	}
	// A superfluous last byte says what the sign bit before it says.
	switch last, sign := w.b[w.pos-1], w.b[w.pos-2]&0x40; {
	case last == 0 && sign == 0, last == 0x7f && sign != 0:
		if w.replaces(start, slebLen(v)) {
			w.out.sleb(v)
		}
	}
}

// reserved reads a byte that has to be zero, spelled as one byte.
func (w *rewriter) reserved() error {
	at := w.pos
	c, err := w.byte()
	if err == nil && c != 0 {
		return errorAt(at, "reserved byte is %#x", c)
	}
	return err
}

// times calls f for each element of a vector.
func (w *rewriter) times(f func(*rewriter) error) error {
	n, err := w.u32()
	if err != nil {
		return err
	}
	if uint64(n) > uint64(w.end-w.pos) {
		return errorAt(w.pos, "%d entries announced, %d bytes left", n, w.end-w.pos)
	}
	for range n {
		if err := f(w); err != nil {
			return err
		}
	}
	return nil
}

// name reads a string. That it is UTF-8 matters: wazero refuses others.
func (w *rewriter) name() error {
	n, err := w.u32()
	if err != nil {
		return err
	}
	_, err = w.utf8(n)
	return err
}

func (w *rewriter) valueType() error {
	at := w.pos
	t, err := w.reader.valueType()
	if t.prefixed() {
		w.shorten(at+1, t.heap)
	}
	return err
}

func (w *rewriter) refType() error {
	at := w.pos
	t, err := w.reader.valueType()
	switch t.code {
	case i32, i64, f32, f64, v128:
		return errorAt(at, "not a reference type: %#x", t.code)
	}
	if t.prefixed() {
		w.shorten(at+1, t.heap)
	}
	return err
}

func (w *rewriter) heapType() error {
	at := w.pos
	v, err := w.reader.heapType()
	w.shorten(at, v)
	return err
}

// blockType reads a value type, the empty type or the index of a type. All but
// the last must be a single byte at first.
func (w *rewriter) blockType() error {
	at := w.pos
	if at >= w.end {
		return errorAt(at, "unexpected end")
	}
	switch c := w.b[at]; {
	case c == emptyType:
		w.pos++
		return nil
	case c < 0x80 && c&0x40 != 0: // a negative number
		return w.valueType()
	}
	v, err := w.reader.signed(33)
	if err == nil && v < 0 {
		return errorAt(at, "unknown block type")
	}
	w.shorten(at, v)
	return err
}

func (w *rewriter) limits() error {
	at := w.pos
	flags, err := w.byte()
	if err != nil {
		return err
	}
	if flags > 3 {
		return errorAt(at, "unknown limits %#x", flags)
	}
	if _, err = w.u32(); err == nil && flags&1 != 0 {
		_, err = w.u32()
	}
	return err
}

// constExpr reads a constant expression up to its end.
func (w *rewriter) constExpr() error {
	for {
		at := w.pos
		op, err := w.byte()
		if err != nil {
			return err
		}
		switch op {
		case opEnd:
			return nil
		case opI32Add, opI32Sub, opI32Mul, opI64Add, opI64Sub, opI64Mul:
		case opI32Const:
			err = w.signed(32)
		case opI64Const:
			err = w.signed(64)
		case opF32Const:
			err = w.skip(4)
		case opF64Const:
			err = w.skip(8)
		case opGlobalGet, opRefFunc:
			_, err = w.u32()
		case opRefNull:
			err = w.heapType()
		case opVector:
			if op, err = w.byte(); err == nil && op != vecConst {
				err = errorAt(at, "vector opcode %#x in a constant expression", op)
			}
			if err == nil {
				err = w.skip(16)
			}
		default:
			err = errorAt(at, "opcode %#x in a constant expression", op)
		}
		if err != nil {
			return err
		}
	}
}
