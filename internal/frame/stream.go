package frame

import (
	"bytes"
	"fmt"
	"io"
)

// Stream reads the artifact in a frame that arrives in order, such as from a
// network. It verifies each chunk before it hands out a byte of it. It is for
// one goroutine.
type Stream struct {
	h       *header
	src     io.Reader
	zstd    *Compressor
	next    int    // chunk
	encoded []byte // buffer of a chunk
	raw     []byte // buffer of a decoded chunk
	rest    []byte // verified and not read yet
	err     error
}

// MaxStreamHeader bounds the header of a frame that arrives in order, which is in memory before its tag can be verified. In
// the chunks that are written, there is room for an artifact of [MaxSize]; in smaller ones, a long artifact that somebody
// only claims to have would fill it with hundreds of megabytes of digests.
const MaxStreamHeader = 16 << 20

// NewStream reads and verifies the header of a frame that is bound to key, and
// whose artifact has at most limit bytes. It allocates no more for the header
// than twice what has arrived of it, of at most [MaxStreamHeader] bytes.
func NewStream(src io.Reader, key [32]byte, limit int64, o *Options) (*Stream, error) {
	var buf bytes.Buffer
	if err := fill(&buf, src, "header", fixedSize); err != nil {
		return nil, err
	}
	h, headerLen, t, err := parseFixed(buf.Bytes())
	if err != nil {
		return nil, err
	}
	if h.size > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are taken", ErrTooLarge, h.size, limit)
	}
	if headerLen > MaxStreamHeader {
		return nil, fmt.Errorf("%w: a header of %d bytes, at most %d are taken", ErrCorrupt, headerLen, MaxStreamHeader)
	}
	if err := fill(&buf, src, "header", headerLen-fixedSize); err != nil {
		return nil, err
	}
	if err := o.verify(buf.Bytes(), h, t, key); err != nil {
		return nil, err
	}
	return &Stream{h: h, src: src, zstd: o.Compressor}, nil
}

func fill(buf *bytes.Buffer, src io.Reader, what string, n int64) error {
	if got, err := io.CopyN(buf, src, n); err != nil {
		return truncated(err, what, got)
	}
	return nil
}

func truncated(err error, what string, at int64) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: the %s ends at byte %d", ErrCorrupt, what, at)
	}
	return err
}

// Meta returns what the header says.
func (s *Stream) Meta() Meta { return s.h.Meta }

// Size returns the length of the artifact.
func (s *Stream) Size() int64 { return s.h.size }

// Encoded returns how many bytes of the source follow the header.
func (s *Stream) Encoded() int64 { return s.h.encoded }

// Read implements [io.Reader]. It reports the end only after it has seen that
// of the source, so that nothing can trail a frame.
func (s *Stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 && s.err == nil && len(p) > 0 {
		if s.rest, s.err = s.chunk(); s.err != nil {
			s.rest = nil
		}
	}
	if len(s.rest) == 0 {
		return 0, s.err
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// chunk returns the next chunk, which is valid until the next call.
func (s *Stream) chunk() ([]byte, error) {
	if s.next == s.h.chunks() {
		return nil, s.end()
	}
	i := s.next
	s.next++
	_, n := s.h.span(i)
	if cap(s.encoded) < n {
		s.encoded = make([]byte, n)
	}
	b := s.encoded[:n]
	if err := s.receive(b, i); err != nil {
		return nil, err
	}
	if n == s.h.rawLen(i) {
		return b, s.h.check(i, b)
	}
	if s.raw == nil {
		s.raw = make([]byte, s.h.rawLen(0))
	}
	dst := s.raw[:s.h.rawLen(i)]
	return dst, s.h.decode(s.zstd, i, dst, b)
}

// end returns io.EOF if the source ends here.
func (s *Stream) end() error {
	var one [1]byte
	_, err := io.ReadFull(s.src, one[:])
	if err == nil {
		return fmt.Errorf("%w: something follows", ErrCorrupt)
	}
	return err
}

// receive fills b with the encoded chunk i.
func (s *Stream) receive(b []byte, i int) error {
	if got, err := io.ReadFull(s.src, b); err != nil {
		return truncated(err, fmt.Sprintf("chunk %d", i), int64(got))
	}
	return nil
}
