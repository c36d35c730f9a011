package wasmbin

// Codes of value types, and the prefixes of those that spell out a heap type.
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
	emptyType = 0x40 // of a block
)

// valueType is the type of a value; heap means something behind a prefix only.
type valueType struct {
	code byte
	heap int64
}

func (t valueType) prefixed() bool { return t.code == refNull || t.code == ref }

func (t valueType) size() int {
	if t.prefixed() {
		return 1 + slebLen(t.heap)
	}
	return 1
}

func (r *reader) valueType() (t valueType) {
	at := r.pos
	t.code = r.byte()
	switch t.code {
	case i32, i64, f32, f64, v128, funcref, externref, exnref:
	case refNull, ref:
		t.heap = r.heapType()
	default:
		r.fail(at, "unknown value type %#x", t.code)
	}
	return t
}

// heapType reads the index of a type or one of three abstract types. The latter
// must be a single byte: wazero takes a longer spelling for an index in places.
func (r *reader) heapType() int64 {
	at := r.pos
	v := r.signed(33)
	abstract := v == funcref-0x80 || v == externref-0x80 || v == exnref-0x80
	if v < 0 && !(abstract && r.pos == at+1) && !r.lenient {
		r.fail(at, "unknown heap type")
	}
	return v
}
