package bundle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/layout"
)

// The index has a record for each entry, then zeros, then a footer that ends a block, so that
// it is found from the end of the file. Integers are little-endian.
const (
	recordSize = 32 + 8 + 8 // key, offset in the bundle, length
	footerSize = 8 + 8 + 16 // magic, number of records, XXH3-128 of all of the index before that
	magic      = "mcindex1"

	// MaxEntries bounds what a bundle may claim, and so how much memory its index takes.
	MaxEntries = 1 << 20
)

// indexSize returns the length of an index, which fills whole blocks.
func indexSize(entries int64) int64 {
	return (entries*recordSize + footerSize + block - 1) / block * block
}

// AppendIndex appends the index of entries that [Check] accepts.
func AppendIndex(b []byte, spans []Span) []byte {
	start, le := len(b), binary.LittleEndian
	for _, s := range spans {
		b = append(b, s.Key[:]...)
		b = le.AppendUint64(b, uint64(s.Off))
		b = le.AppendUint64(b, uint64(s.Len))
	}
	b = append(b, make([]byte, start+int(indexSize(int64(len(spans))))-footerSize-len(b))...)
	b = append(b, magic...)
	b = le.AppendUint64(b, uint64(len(spans)))
	sum := xxh3.Hash128(b[start:]).Bytes()
	return append(b, sum[:]...)
}

// ReadIndex returns where the entries are in the bundle that fills the size bytes of r, in the
// order of their keys. They don't overlap, and are in the bundle; nothing else is known of them.
// Of an older bundle, it reads what stands before each entry.
func ReadIndex(r io.ReaderAt, size int64) ([]Span, error) {
	const usual = 64 << 10 // of an index with the block before it
	end := size - trailer
	tail := make([]byte, max(0, min(end, usual)))
	if err := readFull(r, tail, end-int64(len(tail))); err != nil {
		return nil, err
	}
	entries, ok := footer(tail)
	if !ok {
		return scan(r, size)
	}
	n := indexSize(entries)
	if entries > MaxEntries || n > end {
		return nil, fmt.Errorf("%w: an index of %d entries", frame.ErrCorrupt, entries)
	}
	if n > int64(len(tail)) {
		tail = make([]byte, n)
		if err := readFull(r, tail, end-n); err != nil {
			return nil, err
		}
	}
	b := tail[int64(len(tail))-n:]
	sum := xxh3.Hash128(b[:n-16]).Bytes()
	if !bytes.Equal(sum[:], b[n-16:]) {
		return nil, fmt.Errorf("%w: wrong checksum of the index", frame.ErrCorrupt)
	}
	le := binary.LittleEndian
	spans := make([]Span, entries)
	for i := range spans {
		record := b[i*recordSize:]
		spans[i] = Span{[32]byte(record), int64(le.Uint64(record[32:])), int64(le.Uint64(record[40:]))}
	}
	return spans, Check(spans, end-n)
}

// footer returns the number of entries that the end of a bundle names.
func footer(tail []byte) (entries int64, ok bool) {
	if len(tail) < footerSize {
		return 0, false
	}
	f := tail[len(tail)-footerSize:]
	n := binary.LittleEndian.Uint64(f[len(magic):])
	return int64(min(n, MaxEntries+1)), string(f[:len(magic)]) == magic
}

// Check checks that spans ascend, keys and places, and end before the end.
func Check(spans []Span, end int64) error {
	var before Span
	for i, s := range spans {
		switch {
		case i > 0 && bytes.Compare(before.Key[:], s.Key[:]) >= 0:
			return fmt.Errorf("%w: entry %d is out of order", frame.ErrCorrupt, i)
		case s.Off < before.Off+before.Len || s.Len < 0 || s.Len > end-s.Off:
			return fmt.Errorf("%w: entry %d is at %d, with %d bytes", frame.ErrCorrupt, i, s.Off, s.Len)
		}
		before = s
	}
	return nil
}

// ErrNoBundle means that a file isn't a bundle, or not one that this version knows.
var ErrNoBundle = errors.New("empty, or not a bundle of modcache, or of a version that this one doesn't know")

// scan finds the entries of a bundle without an index.
func scan(r io.ReaderAt, size int64) (spans []Span, err error) {
	m, err := memberAt(r, 0, size)
	switch {
	case err != nil && !errors.Is(err, frame.ErrCorrupt):
		return nil, err
	case err != nil || !m.says(r, Start, StartText):
		return nil, ErrNoBundle
	}
	for {
		if m, err = memberAt(r, m.next, size); err != nil {
			return nil, fmt.Errorf("it ends early or is damaged after %d entries: %w", len(spans), err)
		}
		key, version, ok := layout.ParseEntry(m.name)
		switch {
		case m.name == End && m.says(r, End, EndText(len(spans))):
			return spans, Check(spans, size)
		case m.name == End:
			return nil, fmt.Errorf("%w: the bundle has %d entries, and names another number", frame.ErrCorrupt, len(spans))
		case len(spans) == MaxEntries:
			return nil, fmt.Errorf("%w: more than %d entries", frame.ErrCorrupt, MaxEntries)
		case !ok || version != layout.Version || !m.file:
			return nil, fmt.Errorf("%w: %.80q is no entry", frame.ErrCorrupt, m.name)
		}
		spans = append(spans, Span{key, m.off, m.len})
	}
}

// member is what a header in a tar file says, in the one form in which those of bundles are.
type member struct {
	name           string
	file           bool
	off, len, next int64
}

func memberAt(r io.ReaderAt, at, size int64) (m member, err error) {
	var b [block]byte
	if err := readFull(r, b[:], at); err != nil {
		return m, err
	}
	sum := int64(0)
	for i, c := range b {
		if i >= 148 && i < 156 { // the sum itself
			c = ' '
		}
		sum += int64(c)
	}
	name, _, _ := bytes.Cut(b[:100], []byte{0})
	m = member{name: string(name), file: b[156] == '0', off: at + block}
	want, ok := octal(b[148:156])
	m.len, _ = octal(b[124:136])
	if !ok || sum != want || m.len > size-m.off {
		return m, fmt.Errorf("%w: no member of a tar file at byte %d", frame.ErrCorrupt, at)
	}
	m.next = m.off + (m.len+block-1)/block*block
	return m, nil
}

// octal returns what is in a field of numbers; 0 if that is no number.
func octal(field []byte) (int64, bool) {
	n, err := strconv.ParseUint(strings.Trim(string(field), " \x00"), 8, 62)
	return int64(n), err == nil
}

// says reports whether a member has that name and content.
func (m *member) says(r io.ReaderAt, name, text string) bool {
	if m.name != name || m.len != int64(len(text)) {
		return false
	}
	b := make([]byte, len(text))
	return readFull(r, b, m.off) == nil && string(b) == text
}

// readFull fills p. A file that is shorter than it says is damaged.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == io.EOF || err == nil:
		return fmt.Errorf("%w: ends at byte %d", frame.ErrCorrupt, off+int64(n))
	}
	return err
}
