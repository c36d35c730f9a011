package wazerohook

import (
	"errors"
	"io"
)

// Open returns the entry as wazero reads it: one bare Read per header, word and
// table row, each of which must be filled, and one whose destination is the
// whole executable mapping. No Read returns data along with an error.
//
// After [Entry.Fetch], only one reader may be open.
//
// failed, if not nil, is told the first error of the source, because wazero
// doesn't wrap it.
func (e *Entry) Open(failed func(error)) io.ReadCloser {
	return &entryReader{e: e, part: e.head, failed: failed}
}

// entryReader stands in one of the three parts of an entry.
type entryReader struct {
	e      *Entry
	part   []byte // what is left of the head, or of the tail
	loaded int64  // how much of the code was read
	inTail bool
	failed func(error)
}

func (r *entryReader) Read(p []byte) (int, error) {
	// The source map of a module with debug info is read by the word, and there are
	// hundreds of thousands of them.
	if len(p) <= len(r.part) {
		n := copy(p, r.part)
		r.part = r.part[n:]
		return n, nil
	}
	n := 0
	for n < len(p) {
		m, err := r.readPart(p[n:])
		n += m
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if r.failed != nil {
			r.failed(err)
		}
		return 0, err
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// readPart reads up to the end of the part that the reader stands in.
func (r *entryReader) readPart(p []byte) (int, error) {
	e := r.e
	if len(r.part) > 0 {
		n := copy(p, r.part)
		r.part = r.part[n:]
		return n, nil
	}
	if r.inTail {
		return 0, io.EOF
	}
	if r.loaded == e.codeLen {
		r.part, r.inTail = e.tail, true
		return 0, nil
	}
	p = p[:min(int64(len(p)), e.codeLen-r.loaded)]
	n, err := e.readCode(p, r.loaded)
	r.loaded += int64(n)
	if n == len(p) {
		err = nil
	} else if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close frees what was fetched and not moved.
func (r *entryReader) Close() error {
	r.e.free()
	return nil
}
