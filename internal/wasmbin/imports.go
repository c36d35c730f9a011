package wasmbin

// Kinds of imports and exports.
const (
	kindFunc   = 0
	kindTable  = 1
	kindMemory = 2
	kindGlobal = 3
	kindTag    = 4
)

// Value types, and the prefixes of those that spell out their heap type.
const (
	i32       = 0x7f
	i64       = 0x7e
	f32       = 0x7d
	f64       = 0x7c
	v128      = 0x7b
	funcref   = 0x70
	externref = 0x6f
	exnref    = 0x69
	refNull   = 0x63
	ref       = 0x64
)

// countImportedFuncs reads a whole import section.
func countImportedFuncs(r *reader) (uint32, error) {
	n, err := r.u32()
	if err != nil {
		return 0, err
	}
	var funcs uint32
	for range n {
		kind, err := skipImport(r)
		if err != nil {
			return 0, err
		}
		if kind == kindFunc {
			funcs++
		}
	}
	if !r.done() {
		return 0, errorAt(r.pos, "%d bytes left over in section", r.end-r.pos)
	}
	return funcs, nil
}

func skipImport(r *reader) (kind byte, err error) {
	for range 2 {
		n, err := r.u32()
		if err != nil {
			return 0, err
		}
		if err := r.skip(n); err != nil {
			return 0, err
		}
	}
	at := r.pos
	if kind, err = r.byte(); err != nil {
		return 0, err
	}
	switch kind {
	case kindFunc:
		_, err = r.u32()
	case kindTable:
		if err = skipValueType(r); err == nil {
			err = skipLimits(r)
		}
	case kindMemory:
		err = skipLimits(r)
	case kindGlobal:
		if err = skipValueType(r); err == nil {
			_, err = r.byte()
		}
	case kindTag:
		if _, err = r.byte(); err == nil {
			_, err = r.u32()
		}
	default:
		err = errorAt(at, "unknown kind of import %#x", kind)
	}
	return kind, err
}

func skipValueType(r *reader) error {
	at := r.pos
	t, err := r.byte()
	if err != nil {
		return err
	}
	switch t {
	case i32, i64, f32, f64, v128, funcref, externref, exnref:
		return nil
	case refNull, ref:
		_, err = r.s33()
		return err
	}
	return errorAt(at, "unknown value type %#x", t)
}

func skipLimits(r *reader) error {
	at := r.pos
	flags, err := r.byte()
	if err != nil {
		return err
	}
	if flags > 3 {
		return errorAt(at, "unknown limits %#x", flags)
	}
	if _, err = r.u32(); err == nil && flags&1 != 0 {
		_, err = r.u32()
	}
	return err
}
