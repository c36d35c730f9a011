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
func (w *rewriter) section(id byte) (err error) {
	switch id {
	case types:
		err = w.times((*rewriter).typeDef)
	case imports:
		err = w.times((*rewriter).importDef)
	case functions:
		err = w.times(func(w *rewriter) error { _, err := w.u32(); return err })
	case tables:
		err = w.times((*rewriter).tableDef)
	case memories:
		err = w.times((*rewriter).limits)
	case tags:
		err = w.times((*rewriter).tagType)
	case globals:
		err = w.times((*rewriter).globalDef)
	case exports:
		err = w.times((*rewriter).exportDef)
	case start, dataCount:
		_, err = w.u32()
	case elements:
		err = w.times((*rewriter).elementDef)
	case data:
		err = w.times((*rewriter).dataDef)
	default:
		err = errorAt(w.pos, "unknown section %d", id)
	}
	if err != nil {
		return err
	}
	return w.finish()
}

func (w *rewriter) typeDef() error {
	const funcType, recGroup = 0x60, 0x4e
	at := w.pos
	form, err := w.byte()
	if err != nil {
		return err
	}
	switch form {
	case funcType:
		return w.funcType()
	case recGroup:
		return w.times(func(w *rewriter) error {
			at := w.pos
			if form, err := w.byte(); err != nil || form != funcType {
				return errorAt(at, "unknown type in a recursive group")
			}
			return w.funcType()
		})
	}
	return errorAt(at, "unknown type %#x", form)
}

func (w *rewriter) funcType() error {
	if err := w.times((*rewriter).valueType); err != nil {
		return err
	}
	return w.times((*rewriter).valueType)
}

func (w *rewriter) importDef() error {
	_, err := w.importKind()
	return err
}

func (w *rewriter) importKind() (kind byte, err error) {
	if err = w.name(); err != nil {
		return 0, err
	}
	if err = w.name(); err != nil {
		return 0, err
	}
	at := w.pos
	if kind, err = w.byte(); err != nil {
		return 0, err
	}
	switch kind {
	case kindFunc:
		_, err = w.u32()
	case kindTable:
		err = w.tableType()
	case kindMemory:
		err = w.limits()
	case kindGlobal:
		err = w.globalType()
	case kindTag:
		err = w.tagType()
	default:
		err = errorAt(at, "unknown kind of import %#x", kind)
	}
	return kind, err
}

// countImportedFuncs reads a whole import section.
func countImportedFuncs(wasm []byte, s Section) (uint32, error) {
	w := newRewriter(wasm, s.Body, s.End, nil)
	n, err := w.u32()
	if err != nil {
		return 0, err
	}
	var funcs uint32
	for range n {
		kind, err := w.importKind()
		if err != nil {
			return 0, err
		}
		if kind == kindFunc {
			funcs++
		}
	}
	return funcs, w.finish()
}

func (w *rewriter) tableDef() error {
	const withInit = 0x40
	if w.pos >= w.end || w.b[w.pos] != withInit {
		return w.tableType()
	}
	w.pos++
	if err := w.reserved(); err != nil {
		return err
	}
	if err := w.tableType(); err != nil {
		return err
	}
	return w.constExpr()
}

func (w *rewriter) tableType() error {
	if err := w.refType(); err != nil {
		return err
	}
	return w.limits()
}

func (w *rewriter) tagType() error {
	if err := w.reserved(); err != nil {
		return err
	}
	_, err := w.u32()
	return err
}

func (w *rewriter) globalDef() error {
	if err := w.globalType(); err != nil {
		return err
	}
	return w.constExpr()
}

func (w *rewriter) globalType() error {
	if err := w.valueType(); err != nil {
		return err
	}
	at := w.pos
	mutable, err := w.byte()
	if err == nil && mutable > 1 {
		return errorAt(at, "unknown mutability %#x", mutable)
	}
	return err
}

func (w *rewriter) exportDef() error {
	if err := w.name(); err != nil {
		return err
	}
	at := w.pos
	kind, err := w.byte()
	if err != nil {
		return err
	}
	if kind > kindTag {
		return errorAt(at, "unknown kind of export %#x", kind)
	}
	_, err = w.u32()
	return err
}

func (w *rewriter) elementDef() error {
	at := w.pos
	flags, err := w.u32()
	if err != nil {
		return err
	}
	if flags > 7 {
		return errorAt(at, "unknown kind of element segment %#x", flags)
	}
	const notActive, explicit, expressions = 1, 2, 4
	if flags&notActive == 0 {
		if flags&explicit != 0 {
			if _, err := w.u32(); err != nil { // the table
				return err
			}
		}
		if err := w.constExpr(); err != nil {
			return err
		}
	}
	if flags&expressions != 0 {
		if flags&^expressions != 0 {
			if err := w.refType(); err != nil {
				return err
			}
		}
		return w.times((*rewriter).constExpr)
	}
	if flags != 0 {
		if err := w.reserved(); err != nil { // the kind: functions
			return err
		}
	}
	return w.times(func(w *rewriter) error { _, err := w.u32(); return err })
}

func (w *rewriter) dataDef() error {
	const passive, explicit = 1, 2
	at := w.pos
	flags, err := w.u32()
	if err != nil {
		return err
	}
	if flags > explicit {
		return errorAt(at, "unknown kind of data segment %#x", flags)
	}
	if flags == explicit {
		if _, err := w.u32(); err != nil { // the memory
			return err
		}
	}
	if flags != passive {
		if err := w.constExpr(); err != nil {
			return err
		}
	}
	n, err := w.u32()
	if err != nil {
		return err
	}
	return w.skip(n)
}
