package wasmbin

// Effects are instructions that change what no snapshot can hold.
type Effects struct {
	Tables string // the name of one that changes a table, or ""
	Drops  string // the name of one that drops a segment, or ""
}

// ScanEffects looks for them in all bodies.
func ScanEffects(wasm []byte) (f Effects, err error) {
	sc, err := newScanner(wasm)
	if err != nil {
		return f, err
	}
	for sc.next() {
		if sc.section.ID != code {
			continue
		}
		e := newEditor(wasm, sc.section.Body, sc.section.End)
		for left := e.u32(); left > 0 && e.err == nil; left-- {
			size := e.u32()
			start := e.pos
			if e.skip(size); e.err != nil {
				break
			}
			body := newEditor(wasm, start, e.pos)
			if err := body.effects(&f); err != nil {
				return f, err
			}
		}
		if err := e.finish(); err != nil {
			return f, err
		}
	}
	return f, sc.err
}

// effects is body, with a look at each instruction.
func (e *editor) effects(f *Effects) error {
	const tableSet = 0x26
	e.locals()
	for depth := 1; depth > 0 && e.err == nil; {
		at := e.pos
		op := e.byte()
		switch opcodes[op] {
		case closes:
			depth--
			continue
		case opens:
			depth++
			e.blockType()
			continue
		case tryTable:
			depth++
			e.tryTable()
			continue
		case misc:
			if e.pos < e.end {
				f.see(e.b[e.pos])
			}
		}
		if op == tableSet {
			f.Tables = "table.set"
		}
		e.immediates(at, op)
	}
	return e.finish()
}

// see takes note of an opcode behind 0xfc.
func (f *Effects) see(op byte) {
	switch op {
	case 0x09:
		f.Drops = "data.drop"
	case 0x0c:
		f.Tables = "table.init"
	case 0x0d:
		f.Drops = "elem.drop"
	case 0x0e:
		f.Tables = "table.copy"
	case 0x0f:
		f.Tables = "table.grow"
	case 0x11:
		f.Tables = "table.fill"
	}
}
