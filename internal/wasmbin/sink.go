package wasmbin

import "io"

// sinkSize is how much a sink collects before it writes.
const sinkSize = 8 << 10

// sink collects what is written piece by piece. Without w, it keeps everything.
type sink struct {
	w   io.Writer
	buf []byte
	err error
}

func (s *sink) write(p []byte) {
	if s.w == nil || len(p) <= cap(s.buf)-len(s.buf) {
		s.buf = append(s.buf, p...)
		return
	}
	s.flush()
	if len(p) < cap(s.buf) {
		s.buf = append(s.buf, p...)
	} else if s.err == nil {
		_, s.err = s.w.Write(p)
	}
}

func (s *sink) room(n int) {
	if s.w != nil && cap(s.buf)-len(s.buf) < n {
		s.flush()
	}
}

func (s *sink) byte(c byte) {
	s.room(1)
	s.buf = append(s.buf, c)
}

func (s *sink) uleb(v uint64) {
	s.room(10)
	s.buf = uleb(s.buf, v)
}

func (s *sink) sleb(v int64) {
	s.room(10)
	s.buf = sleb(s.buf, v)
}

func (s *sink) valueType(t valueType) {
	s.byte(t.code)
	if t.prefixed() {
		s.sleb(t.heap)
	}
}

// flush hands on what is collected and returns the first error.
func (s *sink) flush() error {
	if s.w != nil {
		if s.err == nil && len(s.buf) > 0 {
			_, s.err = s.w.Write(s.buf)
		}
		s.buf = s.buf[:0]
	}
	return s.err
}
