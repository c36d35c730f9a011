package wasmbin

import "math"

// body reads the locals and instructions of a function up to the end that
// closes it, which must be the last byte.
func (e *editor) body() error {
	e.locals()
	for depth := 1; depth > 0 && e.err == nil; {
		var at int
		at, depth = e.simple(depth)
		op := e.byte()
		switch opcodes[op] {
		case closes:
			depth--
		case opens:
			depth++
			e.blockType()
		case tryTable:
			depth++
			e.tryTable()
		default:
			e.immediates(at, op)
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
func (e *editor) immediates(at int, op byte) {
	switch kind := opcodes[op]; {
	case op == opI32Const:
		e.signed(32)
	case op == opI64Const:
		e.signed(64)
	case kind == oneInteger:
		e.u32()
	case kind == misc:
		// One byte each, though the opcodes are integers by the specification:
		// not every wazero reads a longer spelling as we would.
		e.prefixed(at, miscOpcodes)
	case kind == vector:
		e.vector(at)
	case kind == atomic:
		e.prefixed(at, atomicOpcodes)
	default:
		e.operands(at, kind)
	}
}

// operands reads the immediates of an instruction, with or without a prefix.
func (e *editor) operands(at int, kind byte) {
	switch kind {
	case bare:
	case oneInteger:
		e.index()
	case twoIndexes:
		e.index()
		e.index()
	case fourBytes:
		e.skip(4)
	case eightBytes:
		e.skip(8)
	case vecBytes:
		e.skip(16)
	case lane:
		e.skip(1)
	case memLane:
		e.index()
		e.index()
		e.skip(1)
	case oneZero:
		e.reserved()
	case twoZeros:
		e.reserved()
		e.reserved()
	case indexZero:
		e.index()
		e.reserved()
	case brTable:
		e.brTable()
	case selectType:
		e.selectType()
	case refType:
		e.heapType()
	default:
		e.fail(at, "unknown opcode %#x", e.b[at])
	}
}

func (e *editor) brTable() {
	e.times((*editor).index)
	e.index() // the default label
}

// selectType reads the type of a typed select. It must be one byte: for longer
// ones wazero's compiler takes the rest for instructions.
func (e *editor) selectType() {
	at := e.pos
	n, t := e.byte(), e.byte()
	switch t {
	case i32, i64, f32, f64, v128, funcref, externref:
		if n == 1 {
			return
		}
	}
	e.fail(at, "select of types %#x %#x", n, t)
}

func (e *editor) tryTable() {
	e.blockType()
	e.times(func(e *editor) {
		at := e.pos
		kind := e.byte()
		if kind > 3 {
			e.fail(at, "unknown catch clause %#x", kind)
		}
		if kind < 2 {
			e.index() // the tag
		}
		e.index()
	})
}

// prefixed reads the rest of an opcode with a prefix.
func (e *editor) prefixed(at int, table string) {
	op := e.byte()
	if int(op) >= len(table) || table[op] == unknown {
		e.fail(at, "unknown opcode %#x %#x", e.b[at], op)
		return
	}
	e.operands(at, table[op])
}

// vector reads the rest of a vector opcode. wazero looks at the first byte
// only, and takes the 0x01 behind those from 0x80 on for a nop.
func (e *editor) vector(at int) {
	op := e.byte()
	if op >= 0x80 && e.byte() != 1 {
		e.fail(at, "vector opcode %#x is not spelled as two bytes", op)
	}
	kind := vectorOpcodes[op]
	if kind == unknown {
		e.fail(at, "unknown vector opcode %#x", op)
		return
	}
	e.operands(at, kind)
}

// locals reads the declarations of locals. They are edited as a whole if
// neighbours have the same type, or one declares none or is padded.
func (e *editor) locals() {
	start := e.pos
	if start < e.end && e.b[start] == 0 {
		e.pos++
		return
	}
	groups, size := e.measureLocals()
	size += ulebLen(uint64(groups))
	if e.err == nil && size != e.pos-start {
		e.edit(editLocals, start, size)
	}
}

// measureLocals reads the locals and returns how many merged groups there are
// and how many bytes they take.
func (e *editor) measureLocals() (groups, size int) {
	l := localReader{r: e.reader}
	total := uint64(0)
	for l.next() {
		groups++
		size += ulebLen(l.n) + l.typ.size()
		if total += l.n; total > math.MaxUint32 {
			l.r.fail(e.pos, "more than %d locals", uint32(math.MaxUint32))
		}
	}
	e.reader = l.r
	return groups, size
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
}

// next reads one more group. At the end, and at an error, it returns false.
func (l *localReader) next() bool {
	if !l.started {
		l.started = true
		l.left = l.r.u32()
	}
	l.n, l.typ, l.ahead = l.ahead, l.aheadT, 0
	for l.left > 0 && l.r.err == nil {
		l.left--
		n, t := uint64(l.r.u32()), l.r.valueType()
		switch {
		case n == 0:
		case l.n == 0:
			l.n, l.typ = n, t
		case t == l.typ:
			l.n += n
		default:
			l.ahead, l.aheadT = n, t
			return l.r.err == nil
		}
	}
	return l.n > 0 && l.r.err == nil
}
