package wazerohook

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// ErrEntry means that bytes are not an entry that this build of wazero can load.
var ErrEntry = errors.New("not an entry that this wazero can load")

// Entry is a piece of machine code in wazero's own format, with every length,
// count and offset checked. wazero trusts them: a wrong one runs wrong code,
// allocates without bound, or takes the process down.
//
// The layout is
//
//	head: magic, length and text of the version, number of functions,
//	      offset of each, length of the code
//	code
//	tail: CRC of the code, source map, table of catch clauses
//
// Head and tail are in memory; the code stays in the source until it is loaded or fetched.
type Entry struct {
	src     io.ReaderAt
	head    []byte
	codeLen int64
	tail    []byte
	heap    int64 // see Heap
	fetched       // the code, if it was
}

// AnyFunctions tells ReadEntry that the module isn't at hand to compare with.
const AnyFunctions = -1

// ReadEntry checks the entry of size bytes in src. version is what wazero calls itself in it.
// functions is how many the module defines, or AnyFunctions. Errors wrap [ErrEntry] or come from src.
func ReadEntry(src io.ReaderAt, size int64, version string, functions int) (*Entry, error) {
	fixed := int64(len(entryMagic) + 1 + len(version) + 4)
	head, err := readSpan(src, 0, fixed, size)
	if err != nil {
		return nil, err
	}
	found := head[len(entryMagic)+1 : fixed-4]
	if string(head[:len(entryMagic)]) != entryMagic || int(head[len(entryMagic)]) != len(version) || string(found) != version {
		return nil, entryError("header %q is not of wazero %q", head[:fixed-4], version)
	}
	n := int64(binary.LittleEndian.Uint32(head[fixed-4:]))
	if functions != AnyFunctions && n != int64(functions) {
		return nil, entryError("%d functions, the module has %d", n, functions)
	}
	// n < 2³², so that nothing here overflows.
	headLen, first := fixed+8*n+8, head
	if head, err = readSpan(src, 0, headLen, size); err != nil {
		return nil, err
	}
	if !bytes.Equal(head[:fixed], first) {
		return nil, entryError("it changes while it is read")
	}
	codeLen := binary.LittleEndian.Uint64(head[headLen-8:])
	if codeLen > uint64(size-headLen) {
		return nil, entryError("code of %d bytes in an entry of %d", codeLen, size)
	}
	if (n == 0) != (codeLen == 0) {
		return nil, entryError("%d functions in %d bytes of code", n, codeLen)
	}
	last := uint64(0)
	for i := range n {
		offset := binary.LittleEndian.Uint64(head[fixed+8*i:])
		if offset >= codeLen || offset < last || (i > 0 && offset == last) {
			return nil, entryError("function %d at offset %d, after %d, in %d bytes of code", i, offset, last, codeLen)
		}
		last = offset
	}
	e := &Entry{src: src, head: head, codeLen: int64(codeLen)}
	tailOff := headLen + e.codeLen
	if e.tail, err = readSpan(src, tailOff, size-tailOff, size); err != nil {
		return nil, err
	}
	if err := e.checkTail(); err != nil {
		return nil, err
	}
	return e, nil
}

// checkTail walks the tail to its last byte.
func (e *Entry) checkTail() error {
	t := cursor{b: e.tail}
	crc := t.uint32()
	if e.codeLen == 0 && crc != 0 {
		// wazero doesn't skip it then, and would read it as the source map.
		return entryError("checksum %#x of no code", crc)
	}
	switch present := t.byte(); {
	case present > 1:
		return entryError("source map flag %d", present)
	case present == 1 && e.codeLen == 0:
		return entryError("source map without code")
	case present == 1:
		count := t.uint64()
		if count > uint64(len(t.b)/16) {
			return entryError("source map of %d pairs in %d bytes", count, len(t.b))
		}
		pairs := t.next(16 * int(count))
		e.heap += int64(len(pairs))
		last := uint64(0)
		for i := 0; i < len(pairs); i += 16 { // an offset in the wasm, one in the code
			offset := binary.LittleEndian.Uint64(pairs[i+8:])
			if offset > uint64(e.codeLen) || offset < last {
				return entryError("source map pair %d at offset %d, after %d, in %d bytes of code", i/16, offset, last, e.codeLen)
			}
			last = offset
		}
	}
	if len(t.b) > 0 { // there is no such table before v1.12, which takes an entry without it for stale
		tables := t.uint32()
		if uint64(tables) > uint64(len(t.b)/4) {
			return entryError("%d catch tables in %d bytes", tables, len(t.b))
		}
		for i := range tables {
			clauses := t.uint32()
			e.heap += 24 + 8*int64(clauses)
			if uint64(clauses) > uint64(len(t.b)/5) {
				return entryError("catch table %d has %d clauses in %d bytes", i, clauses, len(t.b))
			}
			for range clauses {
				const catchAllRef = 3 // the last of the four kinds of clauses
				if kind := t.byte(); kind > catchAllRef {
					return entryError("catch table %d has a clause of kind %d", i, kind)
				}
				_ = t.uint32() // index of the tag
			}
		}
	}
	if t.short {
		return entryError("it ends early")
	}
	if len(t.b) > 0 {
		return entryError("%d bytes too many", len(t.b))
	}
	return nil
}

// CheckCode reads all the code and compares it with its checksum, as wazero will.
// It is for sources that don't verify what they return.
func (e *Entry) CheckCode() error {
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if e.code != nil {
		h.Write(e.code)
		return e.compareSum(h.Sum32())
	}
	buf := make([]byte, min(e.codeLen, 256<<10))
	for done := int64(0); done < e.codeLen; {
		p := buf[:min(int64(len(buf)), e.codeLen-done)]
		if err := readFull(e.src, p, int64(len(e.head))+done); err != nil {
			return err
		}
		h.Write(p)
		done += int64(len(p))
	}
	return e.compareSum(h.Sum32())
}

func (e *Entry) compareSum(sum uint32) error {
	if want := binary.LittleEndian.Uint32(e.tail); sum != want {
		return entryError("checksum of the code is %#x, want %#x", sum, want)
	}
	return nil
}

// Unchecked returns code as an entry that nothing is known of. It is for what this
// process's wazero has compiled itself.
func Unchecked(code []byte) *Entry { return &Entry{head: code} }

// CodeLen returns the size of the machine code, or more if that isn't known.
func (e *Entry) CodeLen() int64 {
	if e.src == nil {
		return int64(len(e.head))
	}
	return e.codeLen
}

// Heap returns about what wazero keeps of the entry beside the code, apart from where functions begin: the source
// map of a module with debug info, and tables of catch clauses.
func (e *Entry) Heap() int64 { return e.heap }

// Equal reports whether content is the entry.
func (e *Entry) Equal(content io.Reader) bool {
	mine := e.Open(nil)
	var a, b [16 << 10]byte
	for {
		n, errA := io.ReadFull(mine, a[:])
		m, errB := io.ReadFull(content, b[:])
		switch {
		case !bytes.Equal(a[:n], b[:m]):
			return false
		case errA != nil || errB != nil:
			return ended(errA) && ended(errB)
		}
	}
}

func ended(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }

// readSpan reads length bytes at off, or says that the entry is too short,
// before it allocates them.
func readSpan(src io.ReaderAt, off, length, size int64) ([]byte, error) {
	if off+length > size {
		return nil, entryError("it ends at byte %d, before %d", size, off+length)
	}
	if length > math.MaxInt {
		return nil, entryError("%d bytes do not fit this platform's memory", length)
	}
	b := make([]byte, length)
	return b, readFull(src, b, off)
}

// readFull fills p. A source that ends early, or returns less without saying why,
// has failed.
func readFull(src io.ReaderAt, p []byte, off int64) error {
	n, err := src.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

func entryError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrEntry}, args...)...)
}

// cursor reads little-endian numbers off the front of b; past its end it
// returns zeros and remembers it.
type cursor struct {
	b     []byte
	short bool
}

func (c *cursor) next(n int) []byte {
	if len(c.b) < n {
		c.short, c.b = true, nil
		return make([]byte, n)
	}
	p := c.b[:n]
	c.b = c.b[n:]
	return p
}

func (c *cursor) byte() byte     { return c.next(1)[0] }
func (c *cursor) uint32() uint32 { return binary.LittleEndian.Uint32(c.next(4)) }
func (c *cursor) uint64() uint64 { return binary.LittleEndian.Uint64(c.next(8)) }
