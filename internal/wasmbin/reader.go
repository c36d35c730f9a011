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
	Count  uint32 // of entries or bytes, if that is more than there are bytes left
}

func (e *Error) Error() string { return fmt.Sprintf("wasm offset %#x: %s", e.Offset, e.Reason) }

func errorAt(offset int, format string, args ...any) error {
	return &Error{Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

// reader walks over a module or a part of it. It never reads at or past end,
// and positions are those in the whole module, so that errors can name them.
//
// It remembers its first error. From then on it is at its end and reads zeros, so
// that who reads looks at err where it matters.
//
// Integers are read as the specification has them: never more bytes than their
// width needs, and the unused bits of the last byte a proper extension. wazero
// is more lenient here and there; what only wazero accepts is an error, unless
// the reader is asked to read on where wazero does.
type reader struct {
	b       []byte
	pos     int
	end     int
	err     error
	lenient bool
}

func newReader(b []byte, start, end int) reader { return reader{b: b[:end:end], pos: start, end: end} }

func (r *reader) done() bool { return r.pos >= r.end }

func (r *reader) fail(offset int, format string, args ...any) {
	if r.err == nil {
		r.err = errorAt(offset, format, args...)
	}
	r.pos = r.end
}

// finish checks that everything was read.
func (r *reader) finish() error {
	if !r.done() {
		r.fail(r.pos, "%d bytes left over", r.end-r.pos)
	}
	return r.err
}

func (r *reader) byte() byte {
	if r.pos >= r.end {
		r.fail(r.pos, "unexpected end")
		return 0
	}
	c := r.b[r.pos]
	r.pos++
	return c
}

// need fails unless there are n bytes left, for as many of what takes a byte or more each.
func (r *reader) need(n uint32, what string) bool {
	if left := r.end - r.pos; r.err == nil && uint64(n) > uint64(left) {
		r.err = &Error{Offset: r.pos, Reason: fmt.Sprintf("%d %s announced, %d bytes left", n, what, left), Count: n}
		r.pos = r.end
	}
	return r.err == nil
}

func (r *reader) skip(n uint32) {
	if r.need(n, "bytes") {
		r.pos += int(n)
	}
}

func (r *reader) u32() uint32 {
	if r.pos < r.end {
		if c := r.b[r.pos]; c < 0x80 {
			r.pos++
			return uint32(c)
		}
	}
	return uint32(r.unsigned(32))
}

func (r *reader) unsigned(bits uint) uint64 {
	var v uint64
	shift := uint(0)
	for i, c := range r.b[r.pos:] {
		if left := bits - shift; left < 7 && c>>left != 0 {
			r.fail(r.pos, "integer of more than %d bits", bits)
			return 0
		}
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			r.pos += i + 1
			return v
		}
		shift += 7
	}
	r.fail(r.end, "unexpected end")
	return 0
}

func (r *reader) signed(bits uint) int64 {
	var v int64
	shift := uint(0)
	for i, c := range r.b[r.pos:] {
		if left := bits - shift; left < 7 {
			if r.lenient && (c < 0x80 || bits == 33) {
				r.pos += i + 1
				return v
			}
			// The sign bit and all bits above it must agree, without continuation.
			if top := int8(c<<1) >> left; c >= 0x80 || top != 0 && top != -1 {
				r.fail(r.pos, "integer of more than %d bits", bits)
				return 0
			}
		}
		v |= int64(c&0x7f) << shift
		shift += 7
		if c < 0x80 {
			if shift < 64 && c&0x40 != 0 {
				v |= -1 << shift
			}
			r.pos += i + 1
			return v
		}
	}
	r.fail(r.end, "unexpected end")
	return 0
}

// utf8 reads a string of n bytes, which aliases the module.
func (r *reader) utf8(n uint32) []byte {
	start := r.pos
	r.skip(n)
	if r.err != nil {
		return nil
	}
	s := r.b[start:r.pos:r.pos]
	if !utf8.Valid(s) {
		r.fail(start, "name is not UTF-8")
	}
	return s
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
