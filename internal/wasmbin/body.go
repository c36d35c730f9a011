package wasmbin

import "math"

// body reads the locals and instructions of a function up to the end that
// closes it, which must be the last byte.
func (e *editor) body() error {
	if err := e.locals(); err != nil {
		return err
	}
	depth := 1
	for depth > 0 {
		var at int
		at, depth = e.simple(depth)
		op, err := e.byte()
		if err != nil {
			return err
		}
		switch opcodes[op] {
		case closes:
			depth--
		case opens:
			depth++
			err = e.blockType()
		case tryTable:
			depth++
			err = e.tryTable()
		default:
			err = e.immediates(at, op)
		}
		if err != nil {
			return err
		}
	}
	return e.finish()
}

// simple reads instructions for as long as they are of the kinds that modules
// are full of, and spelled as short as can be: those with up to two immediates
// of one byte each or with one of two bytes, the beginning of a block without a
// type, and its end.
func (e *editor) simple(depth int) (pos, newDepth int) {
	const more = 0x80 // an integer goes on
	pos = e.pos
	for b := e.b; pos+2 < len(b); {
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
	e.pos = pos
	return pos, depth
}

// immediates reads what follows the opcode at a position.
func (e *editor) immediates(at int, op byte) (err error) {
	switch kind := opcodes[op]; {
	case op == opI32Const:
		return e.signed(32)
	case op == opI64Const:
		return e.signed(64)
	case kind == oneInteger:
		_, err = e.u32()
		return err
	case kind == misc:
		// One byte each, though the opcodes are integers by the specification:
		// not every wazero reads a longer spelling as we would.
		return e.prefixed(at, miscOpcodes)
	case kind == vector:
		return e.vector(at)
	case kind == atomic:
		return e.prefixed(at, atomicOpcodes)
	default:
		return e.operands(at, kind)
	}
}

// operands reads the immediates of an instruction, with or without a prefix.
func (e *editor) operands(at int, kind byte) (err error) {
	switch kind {
	case bare:
	case oneInteger:
		err = e.indexes(1)
	case twoIndexes:
		err = e.indexes(2)
	case fourBytes:
		err = e.skip(4)
	case eightBytes:
		err = e.skip(8)
	case vecBytes:
		err = e.skip(16)
	case lane:
		err = e.skip(1)
	case memLane:
		if err = e.indexes(2); err == nil {
			err = e.skip(1)
		}
	case oneZero:
		err = e.reserved()
	case twoZeros:
		if err = e.reserved(); err == nil {
			err = e.reserved()
		}
	case indexZero:
		if err = e.indexes(1); err == nil {
			err = e.reserved()
		}
	case brTable:
		err = e.brTable()
	case selectType:
		err = e.selectType()
	case refType:
		err = e.heapType()
	default:
		err = errorAt(at, "unknown opcode %#x", e.b[at])
	}
	return err
}

func (e *editor) indexes(n uint32) error {
	for range n {
		if _, err := e.u32(); err != nil {
			return err
		}
	}
	return nil
}

func (e *editor) brTable() error {
	n, err := e.u32()
	if err != nil {
		return err
	}
	if err := e.indexes(n); err != nil {
		return err
	}
	_, err = e.u32() // the default label
	return err
}

// selectType reads the type of a typed select. It must be one byte: for longer
// ones wazero's compiler takes the rest for instructions.
func (e *editor) selectType() error {
	at := e.pos
	n, err := e.byte()
	if err != nil {
		return err
	}
	t, err := e.byte()
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

func (e *editor) tryTable() error {
	if err := e.blockType(); err != nil {
		return err
	}
	return e.times(func(e *editor) error {
		at := e.pos
		kind, err := e.byte()
		switch {
		case err != nil:
			return err
		case kind < 2: // with a tag
			return e.indexes(2)
		case kind < 4:
			return e.indexes(1)
		}
		return errorAt(at, "unknown catch clause %#x", kind)
	})
}

// prefixed reads the rest of an opcode with a prefix.
func (e *editor) prefixed(at int, table string) error {
	op, err := e.byte()
	if err != nil {
		return err
	}
	if int(op) >= len(table) || table[op] == unknown {
		return errorAt(at, "unknown opcode %#x %#x", e.b[at], op)
	}
	return e.operands(at, table[op])
}

// vector reads the rest of a vector opcode. wazero looks at the first byte
// only, and takes the 0x01 behind those from 0x80 on for a nop.
func (e *editor) vector(at int) error {
	op, err := e.byte()
	if err != nil {
		return err
	}
	if op >= 0x80 {
		if second, err := e.byte(); err != nil || second != 1 {
			return errorAt(at, "vector opcode %#x is not spelled as two bytes", op)
		}
	}
	kind := vectorOpcodes[op]
	if kind == unknown {
		return errorAt(at, "unknown vector opcode %#x", op)
	}
	return e.operands(at, kind)
}

// locals reads the declarations of locals. They are edited as a whole if
// neighbours have the same type, or one declares none or is padded.
func (e *editor) locals() error {
	start := e.pos
	if start < e.end && e.b[start] == 0 {
		e.pos++
		return nil
	}
	groups, size, err := e.measureLocals()
	if err != nil {
		return err
	}
	size += ulebLen(uint64(groups))
	if size == e.pos-start {
		return nil
	}
	e.edit(editLocals, start, size)
	return nil
}

// measureLocals reads the locals and returns how many merged groups there are
// and how many bytes they take.
func (e *editor) measureLocals() (groups, size int, err error) {
	l := localReader{r: e.reader}
	total := uint64(0)
	for l.next() {
		groups++
		size += ulebLen(l.n) + l.typ.size()
		if total += l.n; total > math.MaxUint32 {
			return 0, 0, errorAt(e.pos, "more than %d locals", uint32(math.MaxUint32))
		}
	}
	e.pos = l.r.pos
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
