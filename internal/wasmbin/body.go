package wasmbin

import "math"

// body reads the locals and instructions of a function up to the end that
// closes it, which must be the last byte.
func (w *rewriter) body() error {
	if err := w.locals(); err != nil {
		return err
	}
	depth := 1
	for depth > 0 {
		var at int
		if at, depth = w.simple(depth); depth == 0 {
			break
		}
		op, err := w.byte()
		if err != nil {
			return err
		}
		switch opcodes[op] {
		case closes:
			depth--
		case opens:
			depth++
			err = w.blockType()
		case tryTable:
			depth++
			err = w.tryTable()
		default:
			err = w.immediates(at, op)
		}
		if err != nil {
			return err
		}
	}
	return w.finish()
}

// simple reads instructions for as long as they are of the kinds that modules
// are full of, and spelled as short as can be: those with up to two immediates
// of one byte each or with one of two bytes, the beginning of a block without a
// type, and its end.
func (w *rewriter) simple(depth int) (pos, newDepth int) {
	const more = 0x80 // an integer goes on
	pos = w.pos
	for b := w.b; pos+2 < len(b); {
		switch kind := opcodes[b[pos]]; {
		case kind == bare:
			pos++
			continue
		case kind == oneInteger && b[pos+1] < more:
			pos += 2
			continue
		case kind == twoIndexes && b[pos+1]|b[pos+2] < more:
			pos += 3
			continue
		case kind == oneInteger && b[pos+2]-1 < more-2: // last bytes 00 and 7f could be padding
			pos += 3
			continue
		case kind == opens && b[pos+1] == emptyType:
			pos += 2
			depth++
			continue
		case kind == closes && depth > 1:
			pos++
			depth--
			continue
		}
		break
	}
	w.pos = pos
	return pos, depth
}

// immediates reads what follows the opcode at a position.
func (w *rewriter) immediates(at int, op byte) (err error) {
	switch kind := opcodes[op]; {
	case op == opI32Const:
		return w.signed(32)
	case op == opI64Const:
		return w.signed(64)
	case kind == oneInteger:
		_, err = w.u32()
		return err
	case kind == misc:
		// One byte each, though the opcodes are integers by the specification:
		// not every wazero reads a longer spelling as we would.
		return w.prefixed(at, miscOpcodes)
	case kind == vector:
		return w.vector(at)
	case kind == atomic:
		return w.prefixed(at, atomicOpcodes)
	default:
		return w.operands(at, kind)
	}
}

// operands reads the immediates of an instruction, with or without a prefix.
func (w *rewriter) operands(at int, kind byte) (err error) {
	switch kind {
	case bare:
	case oneInteger:
		err = w.indexes(1)
	case twoIndexes:
		err = w.indexes(2)
	case fourBytes:
		err = w.skip(4)
	case eightBytes:
		err = w.skip(8)
	case vecBytes:
		err = w.skip(16)
	case lane:
		err = w.skip(1)
	case memLane:
		if err = w.indexes(2); err == nil {
			err = w.skip(1)
		}
	case oneZero:
		err = w.reserved()
	case twoZeros:
		if err = w.reserved(); err == nil {
			err = w.reserved()
		}
	case indexZero:
		if err = w.indexes(1); err == nil {
			err = w.reserved()
		}
	case brTable:
		err = w.brTable()
	case selectType:
		err = w.selectType()
	case refType:
		err = w.heapType()
	default:
		err = errorAt(at, "unknown opcode %#x", w.b[at])
	}
	return err
}

func (w *rewriter) indexes(n uint32) error {
	for range n {
		if _, err := w.u32(); err != nil {
			return err
		}
	}
	return nil
}

func (w *rewriter) brTable() error {
	n, err := w.u32()
	if err != nil {
		return err
	}
	if err := w.indexes(n); err != nil {
		return err
	}
	_, err = w.u32() // the default label
	return err
}

// selectType reads the type of a typed select. It must be one byte: for longer
// ones wazero's compiler takes the rest for instructions.
func (w *rewriter) selectType() error {
	at := w.pos
	n, err := w.byte()
	if err != nil {
		return err
	}
	t, err := w.byte()
	if err != nil {
		return err
	}
	switch t {
	case i32, i64, f32, f64, v128, funcref, externref:
		if n == 1 {
			return nil
		}
	}
	return errorAt(at, "select of types %#x %#x", n, t)
}

func (w *rewriter) tryTable() error {
	if err := w.blockType(); err != nil {
		return err
	}
	return w.times(func(w *rewriter) error {
		at := w.pos
		kind, err := w.byte()
		switch {
		case err != nil:
			return err
		case kind < 2: // with a tag
			return w.indexes(2)
		case kind < 4:
			return w.indexes(1)
		}
		return errorAt(at, "unknown catch clause %#x", kind)
	})
}

// prefixed reads the rest of an opcode with a prefix.
func (w *rewriter) prefixed(at int, table string) error {
	op, err := w.byte()
	if err != nil {
		return err
	}
	if int(op) >= len(table) || table[op] == unknown {
		return errorAt(at, "unknown opcode %#x %#x", w.b[at], op)
	}
	return w.operands(at, table[op])
}

// vector reads the rest of a vector opcode. wazero looks at the first byte
// only, and takes the 0x01 behind those from 0x80 on for a nop.
func (w *rewriter) vector(at int) error {
	op, err := w.byte()
	if err != nil {
		return err
	}
	if op >= 0x80 {
		if second, err := w.byte(); err != nil || second != 1 {
			return errorAt(at, "vector opcode %#x is not spelled as two bytes", op)
		}
	}
	kind := vectorOpcodes[op]
	if kind == unknown {
		return errorAt(at, "unknown vector opcode %#x", op)
	}
	return w.operands(at, kind)
}

// locals reads the declarations of locals and rewrites them if neighbours have
// the same type, or declare none, or are padded.
func (w *rewriter) locals() error {
	start := w.pos
	if start < w.end && w.b[start] == 0 {
		w.pos++
		return nil
	}
	groups, size, err := w.measureLocals()
	if err != nil {
		return err
	}
	size += ulebLen(uint64(groups))
	if size == w.pos-start {
		return nil
	}
	if w.replaces(start, size) {
		w.out.uleb(uint64(groups))
		l := localReader{r: newReader(w.b, start, w.end)}
		for l.next() {
			w.out.uleb(l.n)
			w.out.valueType(l.typ)
		}
	}
	return nil
}

// measureLocals reads the locals and returns how many merged groups there are
// and how many bytes they take.
func (w *rewriter) measureLocals() (groups, size int, err error) {
	l := localReader{r: w.reader}
	total := uint64(0)
	for l.next() {
		groups++
		size += ulebLen(l.n) + l.typ.size()
		if total += l.n; total > math.MaxUint32 {
			return 0, 0, errorAt(w.pos, "more than %d locals", uint32(math.MaxUint32))
		}
	}
	w.pos = l.r.pos
	return groups, size, l.err
}

// localReader merges declarations of locals.
type localReader struct {
	r       reader
	started bool
	left    uint32 // declarations not read yet
	ahead   uint64 // of the declaration that was read last
	aheadT  valueType
	n       uint64 // of the current group
	typ     valueType
	err     error
}

// next reads one more group. At the end, and at an error, it returns false.
func (l *localReader) next() bool {
	if !l.started {
		l.started = true
		l.left, l.err = l.r.u32()
	}
	l.n, l.typ, l.ahead = l.ahead, l.aheadT, 0
	for l.left > 0 && l.err == nil {
		l.left--
		n, err := l.r.u32()
		if err != nil {
			l.err = err
			break
		}
		t, err := l.r.valueType()
		switch {
		case err != nil:
			l.err = err
		case n == 0:
		case l.n == 0:
			l.n, l.typ = uint64(n), t
		case t == l.typ:
			l.n += uint64(n)
		default:
			l.ahead, l.aheadT = uint64(n), t
			return true
		}
	}
	return l.n > 0 && l.err == nil
}
