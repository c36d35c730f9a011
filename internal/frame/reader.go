package frame

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/modcache/modcache/internal/parallel"
)

// Reader reads the artifact in a frame, from several goroutines at once. Every
// byte it returns has been verified.
type Reader struct {
	h         *header
	headerLen int64
	src       io.ReaderAt
	zstd      *Compressor
	partial   [2]atomic.Pointer[chunk] // the first chunk, and another that was last read in part
}

type chunk struct {
	index int
	bytes []byte
}

// prefixSize is how much Open reads at first: the header of an artifact of up
// to some 120 MB, and a small artifact with it.
const prefixSize = 16 << 10

// Open verifies the header of a frame that fills the size bytes of src exactly,
// and that it is bound to key. A src of [Bytes] must not change afterwards.
func Open(src io.ReaderAt, size int64, key [32]byte, o *Options) (*Reader, error) {
	h, buf, t, err := readHeader(src, size, func(h *header, headerLen int64) error {
		// A file may be long and take no space: its size is no reason to believe a length in it.
		a, err := o.authOf(h)
		if err != nil {
			return err
		}
		return a.verifyIn(src, headerLen)
	})
	if err != nil {
		return nil, err
	}
	if err := o.verify(buf, h, t, key); err != nil {
		return nil, err
	}
	return &Reader{h: h, headerLen: int64(len(buf)), src: src, zstd: o.Compressor}, nil
}

// Outline is what a frame claims.
type Outline struct {
	Meta
	Size   int64  // of the artifact
	Header []byte // as it is in the frame, with its tag
	h      *header
}

// CheckChunks compares the chunks of the frame in b, of which o is the outline, with the digests in its
// header. Only who has a key can say whether these are right.
func (o *Outline) CheckChunks(b Bytes) error {
	_, err := parallel.Do(o.h.chunks(), 1, func(i int) error {
		off, n := o.h.span(i)
		return o.h.check(i, b[int64(len(o.Header))+off:][:n])
	})
	return err
}

// Inspect returns what the frame that fills the size bytes of src claims. It
// verifies nothing but its shape: it is for those who pass frames on.
func Inspect(src io.ReaderAt, size int64) (*Outline, error) {
	h, buf, t, err := readHeader(src, size, func(*header, int64) error { return nil })
	if err != nil {
		return nil, err
	}
	if err := h.parse(buf, t); err != nil {
		return nil, err
	}
	return &Outline{h.Meta, h.size, buf, h}, nil
}

// readHeader returns the decoded fixed part of a header, and all of it encoded. It asks check
// before it makes room for one that is long.
func readHeader(src io.ReaderAt, size int64, check func(h *header, headerLen int64) error) (h *header, buf []byte, t texts, err error) {
	if buf, err = prefix(src, size); err != nil {
		return nil, nil, texts{}, err
	}
	h, headerLen, t, err := parseFixed(buf)
	if errors.Is(err, ErrTooLarge) && size <= MaxSize { // it only says so
		err = fmt.Errorf("%w: length out of range", ErrCorrupt)
	}
	if err != nil {
		return nil, nil, texts{}, err
	}
	if headerLen+h.encoded != size {
		return nil, nil, texts{}, fmt.Errorf("%w: %d bytes, want %d", ErrCorrupt, size, headerLen+h.encoded)
	}
	if headerLen > int64(len(buf)) {
		if err := check(h, headerLen); err != nil {
			return nil, nil, texts{}, err
		}
		head := make([]byte, headerLen)
		rest := head[copy(head, buf):]
		if err := readFull(src, rest, int64(len(buf))); err != nil {
			return nil, nil, texts{}, err
		}
		buf = head
	}
	return h, buf[:headerLen], t, nil
}

func prefix(src io.ReaderAt, size int64) ([]byte, error) {
	if b, ok := src.(Bytes); ok {
		return b, nil
	}
	b := make([]byte, max(0, min(size, prefixSize)))
	return b, readFull(src, b, 0)
}

// readFull fills p. A file that ends early was truncated, which is damage; any
// other failure is that of the reader.
func readFull(src io.ReaderAt, p []byte, off int64) error {
	n, err := src.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return fmt.Errorf("%w: ends at byte %d", ErrCorrupt, off+int64(n))
	case err == nil:
		return io.ErrNoProgress
	}
	return err
}

// Meta returns what the header says.
func (r *Reader) Meta() Meta { return r.h.Meta }

// Size returns the length of the artifact.
func (r *Reader) Size() int64 { return r.h.size }

// Plain returns where in the source the artifact is as it is, unless it is compressed.
func (r *Reader) Plain() (off int64, ok bool) { return r.headerLen, r.h.codec == raw }

// readRun is how much a goroutine reads at a time. Two that fill one huge page
// of memory that was never touched wait for each other.
const readRun = 2 << 20

// ReadAt implements [io.ReaderAt]. It reads whole chunks straight into p,
// several at a time. After an error, the bytes from n on are zero.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("negative offset %d", off)
	}
	want := p[:max(0, min(int64(len(p)), r.h.size-off))]
	if len(want) == 0 {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	first := int(off >> r.h.chunkLog)
	last := int((off + int64(len(want)) - 1) >> r.h.chunkLog)
	failed, err := parallel.Do(last-first+1, readRun>>r.h.chunkLog, func(i int) error { return r.readChunk(want, off, first+i) })
	if err != nil {
		n := int(max(0, int64(first+failed)<<r.h.chunkLog-off))
		clear(want[n:])
		return n, err
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(want), nil
}

// readChunk copies what p, which starts at off, wants of chunk i.
func (r *Reader) readChunk(p []byte, off int64, i int) error {
	start, n := int64(i)<<r.h.chunkLog, r.h.rawLen(i)
	if start >= off && start-off+int64(n) <= int64(len(p)) {
		return r.load(p[start-off:][:n:n], i)
	}
	kept := &r.partial[min(i, 1)]
	c := kept.Load()
	if c == nil || c.index != i {
		c = &chunk{index: i, bytes: make([]byte, n)}
		if err := r.load(c.bytes, i); err != nil {
			return err
		}
		kept.Store(c)
	}
	if start < off {
		copy(p, c.bytes[off-start:])
	} else {
		copy(p[start-off:], c.bytes)
	}
	return nil
}

// load fills dst with the whole chunk i.
func (r *Reader) load(dst []byte, i int) error {
	at, n := r.h.span(i)
	encoded := dst
	if n < len(dst) {
		encoded = make([]byte, n)
	}
	if err := readFull(r.src, encoded, r.headerLen+at); err != nil {
		return err
	}
	return r.h.decode(r.zstd, i, dst, encoded)
}

// Forget has all that is read from now on verified again.
func (r *Reader) Forget() {
	for i := range r.partial {
		r.partial[i].Store(nil)
	}
}

// Bytes returns the whole artifact. If the frame is in memory and not
// compressed, they are a part of it.
func (r *Reader) Bytes() ([]byte, error) {
	b, ok := r.src.(Bytes)
	if !ok || r.h.codec != raw {
		b := make([]byte, r.h.size)
		if _, err := r.ReadAt(b, 0); err != nil && err != io.EOF {
			return nil, err
		}
		return b, nil
	}
	for i := range r.h.chunks() {
		at, n := r.h.span(i)
		if err := r.h.check(i, b[r.headerLen+at:][:n]); err != nil {
			return nil, err
		}
	}
	return b[r.headerLen:], nil
}
