package wasmbin

// Kinds of imports and exports.
const (
	kindFunc   = 0
	kindTable  = 1
	kindMemory = 2
	kindGlobal = 3
	kindTag    = 4
)

// section reads the content of a section. Code sections are read body by body.
func (e *editor) section(id byte) error {
	e.content(id)
	return e.finish()
}

func (e *editor) content(id byte) {
	switch id {
	case types:
		e.times((*editor).typeDef)
	case imports:
		e.times(func(e *editor) { e.importDef() })
	case functions:
		e.times((*editor).index)
	case tables:
		e.times((*editor).tableDef)
	case memories:
		e.times((*editor).limits)
	case tags:
		e.times((*editor).tagType)
	case globals:
		e.times((*editor).globalDef)
	case exports:
		e.times((*editor).exportDef)
	case start, dataCount:
		e.index()
	case elements:
		e.times((*editor).elementDef)
	case data:
		e.times((*editor).dataDef)
	default:
		e.fail(e.pos, "unknown section %d", id)
	}
}

func (e *editor) typeDef() {
	const recGroup = 0x4e
	if e.pos < e.end && e.b[e.pos] == recGroup {
		e.pos++
		e.times((*editor).funcType)
		return
	}
	e.funcType()
}

func (e *editor) funcType() {
	const funcType = 0x60
	at := e.pos
	if form := e.byte(); form != funcType {
		e.fail(at, "unknown type %#x", form)
	}
	e.times(func(e *editor) { e.valueType() })
	e.times(func(e *editor) { e.valueType() })
}

func (e *editor) importDef() (kind byte) {
	e.name()
	e.name()
	at := e.pos
	kind = e.byte()
	switch kind {
	case kindFunc:
		e.index()
	case kindTable:
		if e.lenient {
			e.tableDef()
		} else {
			e.tableType()
		}
	case kindMemory:
		e.limits()
	case kindGlobal:
		e.globalType()
	case kindTag:
		e.tagType()
	default:
		e.fail(at, "unknown kind of import %#x", kind)
	}
	return kind
}

// countImports reads a whole import section and counts the imports of a kind.
func countImports(wasm []byte, s Section, wanted byte) (n uint32, err error) {
	e := newEditor(wasm, s.Body, s.End)
	for left := e.u32(); left > 0 && e.err == nil; left-- {
		if e.importDef() == wanted {
			n++
		}
	}
	return n, e.finish()
}

func (e *editor) tableDef() {
	const withInit = 0x40
	if e.pos < e.end && e.byteTables != nil {
		switch e.b[e.pos] {
		case withInit, refNull, ref:
			if e.byteTables() {
				e.pos++
				e.limits()
				return
			}
		}
	}
	if e.pos >= e.end || e.b[e.pos] != withInit {
		e.tableType()
		return
	}
	e.pos++
	e.reserved()
	e.tableType()
	e.constExpr()
}

func (e *editor) tableType() {
	e.refType()
	e.limits()
}

func (e *editor) tagType() {
	e.reserved()
	e.index()
}

func (e *editor) globalDef() {
	e.globalType()
	e.constExpr()
}

func (e *editor) globalType() {
	e.valueType()
	at := e.pos
	if mutable := e.byte(); mutable > 1 {
		e.fail(at, "unknown mutability %#x", mutable)
	}
}

func (e *editor) exportDef() {
	e.name()
	at := e.pos
	if kind := e.byte(); kind > kindTag {
		e.fail(at, "unknown kind of export %#x", kind)
	}
	e.index()
}

func (e *editor) elementDef() {
	at := e.pos
	flags := e.u32()
	if flags > 7 {
		e.fail(at, "unknown kind of element segment %#x", flags)
	}
	const notActive, explicit, expressions = 1, 2, 4
	if flags&notActive == 0 {
		if flags&explicit != 0 {
			e.index() // the table
		}
		e.constExpr()
	}
	if flags&expressions != 0 {
		if flags&^expressions != 0 {
			e.refType()
		}
		e.times((*editor).constExpr)
		return
	}
	if flags != 0 {
		e.reserved() // the kind: functions
	}
	e.times((*editor).index)
}

func (e *editor) dataDef() {
	const passive, explicit = 1, 2
	at := e.pos
	flags := e.u32()
	if flags > explicit {
		e.fail(at, "unknown kind of data segment %#x", flags)
	}
	if flags == explicit {
		e.index() // the memory
	}
	if flags != passive {
		e.constExpr()
	}
	e.skip(e.u32())
}
