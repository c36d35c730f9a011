package wasmbin

import (
	"fmt"
	"math"
	"unicode/utf8"
)

// Error says what is wrong with a module and where.
type Error struct {
	Offset int // in bytes from the start of the module
	Reason string
}

func (e *Error) Error() string { return fmt.Sprintf("wasm offset %#x: %s", e.Offset, e.Reason) }

func errorAt(offset int, format string, args ...any) error {
	return &Error{Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

// reader walks over a module or a part of it. It never reads at or past end,
// and positions are those in the whole module, so that errors can name them.
//
// Integers are read as the specification has them: never more bytes than their
// width needs, and the unused bits of the last byte a proper extension. wazero
// is more lenient here and there; what only wazero accepts is an error.
type reader struct {
	b   []byte
	pos int
	end int
}

func newReader(b []byte, start, end int) reader { return reader{b: b[:end:end], pos: start, end: end} }

func (r *reader) done() bool { return r.pos >= r.end }

func (r *reader) byte() (byte, error) {
	if r.pos >= r.end {
		return 0, errorAt(r.pos, "unexpected end")
	}
	c := r.b[r.pos]
	r.pos++
	return c, nil
}

func (r *reader) skip(n uint32) error {
	if uint64(n) > uint64(r.end-r.pos) {
		return errorAt(r.pos, "%d bytes announced, %d left", n, r.end-r.pos)
	}
	r.pos += int(n)
	return nil
}

func (r *reader) u32() (uint32, error) {
	if r.pos < r.end {
		if c := r.b[r.pos]; c < 0x80 {
			r.pos++
			return uint32(c), nil
		}
	}
	v, err := r.unsigned(32)
	return uint32(v), err
}

func (r *reader) unsigned(bits uint) (uint64, error) {
	var v uint64
	shift := uint(0)
	for i, c := range r.b[r.pos:] {
		if left := bits - shift; left < 7 && c>>left != 0 {
			return 0, errorAt(r.pos, "integer of more than %d bits", bits)
		}
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			r.pos += i + 1
			return v, nil
		}
		shift += 7
	}
	return 0, errorAt(r.end, "unexpected end")
}

func (r *reader) signed(bits uint) (int64, error) {
	var v int64
	shift := uint(0)
	for i, c := range r.b[r.pos:] {
		if left := bits - shift; left < 7 {
			// The sign bit and all bits above it must agree, without continuation.
			if top := int8(c<<1) >> left; c >= 0x80 || top != 0 && top != -1 {
				return 0, errorAt(r.pos, "integer of more than %d bits", bits)
			}
		}
		v |= int64(c&0x7f) << shift
		shift += 7
		if c < 0x80 {
			if shift < 64 && c&0x40 != 0 {
				v |= -1 << shift
			}
			r.pos += i + 1
			return v, nil
		}
	}
	return 0, errorAt(r.end, "unexpected end")
}

// name reads a string. The result aliases the module.
func (r *reader) name() ([]byte, error) {
	n, err := r.u32()
	if err != nil {
		return nil, err
	}
	return r.utf8(n)
}

func (r *reader) utf8(n uint32) ([]byte, error) {
	start := r.pos
	if err := r.skip(n); err != nil {
		return nil, err
	}
	s := r.b[start:r.pos:r.pos]
	if !utf8.Valid(s) {
		return nil, errorAt(start, "name is not UTF-8")
	}
	return s, nil
}

// uleb appends v in as few bytes as possible.
func uleb(dst []byte, v uint64) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

// sleb appends v in as few bytes as possible.
func sleb(dst []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(dst, c)
		}
		dst = append(dst, c|0x80)
	}
}

// ulebLen is the number of bytes that uleb appends.
func ulebLen(v uint64) int {
	n := 1
	for v >= 0x80 {
		v >>= 7
		n++
	}
	return n
}

func slebLen(v int64) int {
	n := 1
	for v < -0x40 || v >= 0x40 {
		v >>= 7
		n++
	}
	return n
}

// checkSize reports an error for a module that would be longer than 2 GiB.
func checkSize(offset int, n uint64) error {
	if n > math.MaxInt32 {
		return errorAt(offset, "%d bytes are more than 2 GiB", n)
	}
	return nil
}
