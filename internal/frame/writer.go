package frame

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/modcache/modcache/internal/parallel"
)

// Options say how frames are sealed and encoded. Readers and writers of one
// store share them.
type Options struct {
	Auth       Auth        // what to seal with
	Trusted    []Auth      // what readers accept; Auth alone if empty
	Compressor *Compressor // needed for compressed frames
	Compress   bool        // what to write; readers take both
	ChunkLog   uint8       // of what is written; 0 = 256 KiB, as binary logarithm
}

func (o *Options) chunkLog() uint8 {
	if o.ChunkLog == 0 {
		return defaultChunkLog
	}
	return o.ChunkLog
}

// verify checks the header, then parses it into h, and checks what it is bound to.
func (o *Options) verify(encoded []byte, h *header, t texts, key [32]byte) error {
	if err := o.verifyTag(encoded, h); err != nil {
		return err
	}
	if err := h.parse(encoded, t); err != nil {
		return err
	}
	if h.Key != key {
		return fmt.Errorf("%w: bound to another key, %x", ErrCorrupt, h.Key)
	}
	return nil
}

// verifyTag checks the tag at the end of header under the key that it names.
func (o *Options) verifyTag(header []byte, h *header) error {
	a, err := o.authOf(h)
	if err != nil {
		return err
	}
	return a.verify(header)
}

// authOf returns what a header says it is sealed with.
func (o *Options) authOf(h *header) (*Auth, error) {
	trusted := o.Trusted
	if len(trusted) == 0 {
		trusted = []Auth{o.Auth}
	}
	for i := range trusted {
		if a := &trusted[i]; a.kind == h.auth && a.id == h.keyID {
			return a, nil
		}
	}
	return nil, &ForeignError{h.auth, h.keyID, trusted}
}

func (o *Options) codec() codec {
	if o.Compress {
		return zstandard
	}
	return raw
}

// MaxLen returns the length of the frame of an artifact; a compressed one may
// be shorter.
func MaxLen(m Meta, size int64, o *Options) int64 {
	return headerSize(m.texts(), size, o.chunkLog(), o.codec(), o.Auth.kind) + size
}

// Bytes is an artifact in memory. Writing one copies nothing.
type Bytes []byte

// ReadAt implements [io.ReaderAt].
func (b Bytes) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// view returns n bytes at off: in place if it can, in buf if they fit.
func view(src io.ReaderAt, off int64, n int, buf []byte) ([]byte, error) {
	if b, ok := src.(Bytes); ok {
		return b[off : off+int64(n) : off+int64(n)], nil
	}
	p := slices.Grow(buf[:0], n)[:n]
	if got, err := src.ReadAt(p, off); got < n {
		return nil, noEOF(err)
	}
	return p, nil
}

// noEOF turns the end of an artifact, where there should be more, into an error
// that isn't mistaken for the end of a stream.
func noEOF(err error) error {
	if err == nil || err == io.EOF {
		return fmt.Errorf("the artifact is shorter than it says: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// Write writes the frame of the artifact of size bytes in src, which is read
// twice unless it is compressed. Compressed chunks are held in memory until
// all of them are known. A src that changes meanwhile makes a corrupt frame.
func Write(w io.Writer, src io.ReaderAt, size int64, m Meta, o *Options) (int64, error) {
	if err := m.Check(size); err != nil {
		return 0, err
	}
	h, kept, err := encode(src, size, m, o)
	if err != nil {
		return 0, err
	}
	head, err := h.seal(&o.Auth)
	if err != nil {
		return 0, err
	}
	if b, ok := w.(*bytes.Buffer); ok { // who keeps the frame keeps what a buffer has to spare
		b.Grow(len(head) + int(h.encoded))
	}
	n, err := w.Write(head)
	if err != nil {
		return int64(n), err
	}
	body, err := h.writeBody(w, src, kept)
	return int64(n) + body, err
}

// Head returns the header of the frame of an artifact that isn't compressed: with the artifact
// behind it, it is the frame.
func Head(src io.ReaderAt, size int64, m Meta, o *Options) ([]byte, error) {
	if err := m.Check(size); err != nil {
		return nil, err
	}
	plain := *o
	plain.Compress = false
	h, _, err := encode(src, size, m, &plain)
	if err != nil {
		return nil, err
	}
	return h.seal(&o.Auth)
}

// encode returns the header of a frame, without its tag, and its chunks if they are compressed.
func encode(src io.ReaderAt, size int64, m Meta, o *Options) (*header, [][]byte, error) {
	h := &header{Meta: m, codec: o.codec(), auth: o.Auth.kind, keyID: o.Auth.id, chunkLog: o.chunkLog(), size: size}
	h.table = make([]byte, h.chunks()*entrySize(h.codec, h.auth))
	var kept [][]byte
	if h.codec != raw {
		kept = make([][]byte, h.chunks())
	}
	if b, ok := src.(Bytes); ok && int64(len(b)) < size {
		return nil, nil, noEOF(nil)
	}
	buffers := sync.Pool{New: func() any { return new([]byte) }} // of chunks that aren't kept
	_, err := parallel.Do(h.chunks(), 1, func(i int) error {
		var buf []byte
		if h.codec == raw {
			p := buffers.Get().(*[]byte)
			*p = slices.Grow((*p)[:0], h.rawLen(i))
			buf = *p
			defer buffers.Put(p)
		}
		b, err := view(src, int64(i)<<h.chunkLog, h.rawLen(i), buf)
		if err != nil {
			return err
		}
		entry := h.table[i*entrySize(h.codec, h.auth):]
		if h.codec != raw {
			if b, err = o.Compressor.encode(b); err != nil {
				return err
			}
			kept[i] = b
			binary.LittleEndian.PutUint32(entry, uint32(len(b)))
			entry = entry[4:]
		}
		h.auth.appendDigest(entry[:0], b)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	if h.codec == raw {
		h.encoded = size
	}
	for _, b := range kept {
		h.encoded += int64(len(b))
	}
	return h, kept, nil
}

// seal returns the whole header.
func (h *header) seal(a *Auth) ([]byte, error) {
	return a.seal(h.appendTo(make([]byte, 0, headerSize(h.texts(), h.size, h.chunkLog, h.codec, h.auth))))
}

func (h *header) writeBody(w io.Writer, src io.ReaderAt, kept [][]byte) (int64, error) {
	if h.codec != raw {
		var total int64
		for _, b := range kept {
			n, err := w.Write(b)
			total += int64(n)
			if err != nil {
				return total, err
			}
		}
		return total, nil
	}
	// In one piece, tens of megabytes may wait tens of milliseconds for memory in
	// pages that large.
	const piece = 1 << 20
	var buf []byte // nothing if src is in memory
	if _, inMemory := src.(Bytes); !inMemory {
		buf = make([]byte, min(h.size, piece))
	}
	var off int64
	for off < h.size {
		p, err := view(src, off, int(min(piece, h.size-off)), buf)
		if err != nil {
			return off, err
		}
		n, err := w.Write(p)
		off += int64(n)
		if err != nil {
			return off, err
		}
	}
	return off, nil
}
