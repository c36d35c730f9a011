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
func (e *editor) section(id byte) (err error) {
	switch id {
	case types:
		err = e.times((*editor).typeDef)
	case imports:
		err = e.times((*editor).importDef)
	case functions:
		err = e.times(func(e *editor) error { _, err := e.u32(); return err })
	case tables:
		err = e.times((*editor).tableDef)
	case memories:
		err = e.times((*editor).limits)
	case tags:
		err = e.times((*editor).tagType)
	case globals:
		err = e.times((*editor).globalDef)
	case exports:
		err = e.times((*editor).exportDef)
	case start, dataCount:
		_, err = e.u32()
	case elements:
		err = e.times((*editor).elementDef)
	case data:
		err = e.times((*editor).dataDef)
	default:
		err = errorAt(e.pos, "unknown section %d", id)
	}
	if err != nil {
		return err
	}
	return e.finish()
}

func (e *editor) typeDef() error {
	const funcType, recGroup = 0x60, 0x4e
	at := e.pos
	form, err := e.byte()
	if err != nil {
		return err
	}
	switch form {
	case funcType:
		return e.funcType()
	case recGroup:
		return e.times(func(e *editor) error {
			at := e.pos
			if form, err := e.byte(); err != nil || form != funcType {
				return errorAt(at, "unknown type in a recursive group")
			}
			return e.funcType()
		})
	}
	return errorAt(at, "unknown type %#x", form)
}

func (e *editor) funcType() error {
	if err := e.times((*editor).valueType); err != nil {
		return err
	}
	return e.times((*editor).valueType)
}

func (e *editor) importDef() error {
	_, err := e.importKind()
	return err
}

func (e *editor) importKind() (kind byte, err error) {
	if err = e.name(); err != nil {
		return 0, err
	}
	if err = e.name(); err != nil {
		return 0, err
	}
	at := e.pos
	if kind, err = e.byte(); err != nil {
		return 0, err
	}
	switch kind {
	case kindFunc:
		_, err = e.u32()
	case kindTable:
		err = e.tableType()
	case kindMemory:
		err = e.limits()
	case kindGlobal:
		err = e.globalType()
	case kindTag:
		err = e.tagType()
	default:
		err = errorAt(at, "unknown kind of import %#x", kind)
	}
	return kind, err
}

// countImports reads a whole import section and counts the imports of a kind.
func countImports(wasm []byte, s Section, wanted byte) (uint32, error) {
	e := newEditor(wasm, s.Body, s.End)
	n, err := e.u32()
	if err != nil {
		return 0, err
	}
	var found uint32
	for range n {
		kind, err := e.importKind()
		if err != nil {
			return 0, err
		}
		if kind == wanted {
			found++
		}
	}
	return found, e.finish()
}

func (e *editor) tableDef() error {
	const withInit = 0x40
	if e.pos >= e.end || e.b[e.pos] != withInit {
		return e.tableType()
	}
	e.pos++
	if err := e.reserved(); err != nil {
		return err
	}
	if err := e.tableType(); err != nil {
		return err
	}
	return e.constExpr()
}

func (e *editor) tableType() error {
	if err := e.refType(); err != nil {
		return err
	}
	return e.limits()
}

func (e *editor) tagType() error {
	if err := e.reserved(); err != nil {
		return err
	}
	_, err := e.u32()
	return err
}

func (e *editor) globalDef() error {
	if err := e.globalType(); err != nil {
		return err
	}
	return e.constExpr()
}

func (e *editor) globalType() error {
	if err := e.valueType(); err != nil {
		return err
	}
	at := e.pos
	mutable, err := e.byte()
	if err == nil && mutable > 1 {
		return errorAt(at, "unknown mutability %#x", mutable)
	}
	return err
}

func (e *editor) exportDef() error {
	if err := e.name(); err != nil {
		return err
	}
	at := e.pos
	kind, err := e.byte()
	if err != nil {
		return err
	}
	if kind > kindTag {
		return errorAt(at, "unknown kind of export %#x", kind)
	}
	_, err = e.u32()
	return err
}

func (e *editor) elementDef() error {
	at := e.pos
	flags, err := e.u32()
	if err != nil {
		return err
	}
	if flags > 7 {
		return errorAt(at, "unknown kind of element segment %#x", flags)
	}
	const notActive, explicit, expressions = 1, 2, 4
	if flags&notActive == 0 {
		if flags&explicit != 0 {
			if _, err := e.u32(); err != nil { // the table
				return err
			}
		}
		if err := e.constExpr(); err != nil {
			return err
		}
	}
	if flags&expressions != 0 {
		if flags&^expressions != 0 {
			if err := e.refType(); err != nil {
				return err
			}
		}
		return e.times((*editor).constExpr)
	}
	if flags != 0 {
		if err := e.reserved(); err != nil { // the kind: functions
			return err
		}
	}
	return e.times(func(e *editor) error { _, err := e.u32(); return err })
}

func (e *editor) dataDef() error {
	const passive, explicit = 1, 2
	at := e.pos
	flags, err := e.u32()
	if err != nil {
		return err
	}
	if flags > explicit {
		return errorAt(at, "unknown kind of data segment %#x", flags)
	}
	if flags == explicit {
		if _, err := e.u32(); err != nil { // the memory
			return err
		}
	}
	if flags != passive {
		if err := e.constExpr(); err != nil {
			return err
		}
	}
	n, err := e.u32()
	if err != nil {
		return err
	}
	return e.skip(n)
}
