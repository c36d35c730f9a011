package wazerohook

import (
	"errors"
	"fmt"
	"io"
)

// Open returns the entry as wazero reads it: one bare Read per header, word and
// table row, each of which must be filled, and one whose destination is the
// whole executable mapping. No Read returns data along with an error.
//
// failed, if not nil, is told the first error of the source, because wazero
// doesn't wrap it.
func (e *Entry) Open(failed func(error)) io.ReadCloser {
	return &entryReader{e: e, failed: failed}
}

type entryReader struct {
	e      *Entry
	off    int64
	failed func(error)
}

func (r *entryReader) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		m, err := r.readPart(p[n:])
		n += m
		r.off += int64(m)
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if r.failed != nil {
			r.failed(err)
		}
		return 0, fmt.Errorf("modcache: %w", err)
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// readPart reads up to the end of the part that the reader stands in.
func (r *entryReader) readPart(p []byte) (int, error) {
	e := r.e
	off := r.off
	if off < int64(len(e.head)) {
		return copy(p, e.head[off:]), nil
	}
	off -= int64(len(e.head))
	if off < e.codeLen {
		p = p[:min(int64(len(p)), e.codeLen-off)]
		if int64(len(p)) == e.codeLen {
			adviseHugePages(p)
		}
		n, err := e.src.ReadAt(p, r.off)
		if n == len(p) {
			err = nil
		} else if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	off -= e.codeLen
	if off < int64(len(e.tail)) {
		return copy(p, e.tail[off:]), nil
	}
	return 0, io.EOF
}

func (r *entryReader) Close() error { return nil }
