package wazerohook

import (
	"io"

	"github.com/modcache/modcache/internal/mapped"
)

// fetched is an entry's code in memory of our own, until wazero reads it.
type fetched struct {
	code  []byte        // nil if it isn't there, or is wazero's by now
	pages *mapped.Pages // behind code, if they can be moved
}

// movedFrom is the size of code from which it pays to map memory and to move it.
const movedFrom = 256 << 10

// Fetch reads the code from src, which has the same as the source, so that nothing is asked of that any more. What it
// verifies is verified then. The reader of [Entry.Open] moves the memory to where wazero wants
// the code, where that is a mapping and the system can do it, and else copies it, once. Closing
// the reader frees what wasn't used.
func (e *Entry) Fetch(src io.ReaderAt) error {
	var got fetched
	if e.codeLen >= movedFrom {
		if pages, err := mapped.NewPages(int(e.codeLen)); err == nil {
			got.code, got.pages = pages.Bytes(), pages
		}
	}
	if got.code == nil {
		got.code = make([]byte, e.codeLen)
	}
	if err := readFull(src, got.code, int64(len(e.head))); err != nil {
		got.free()
		return err
	}
	e.fetched = got
	return nil
}

// Hash writes all of the entry, which was fetched, to w, which never fails.
func (e *Entry) Hash(w io.Writer) {
	for _, part := range [...][]byte{e.head, e.code, e.tail} {
		_, _ = w.Write(part)
	}
}

// Discard frees what was fetched and not moved. No reader is open any more; e may be nil.
func (e *Entry) Discard() {
	if e != nil {
		e.free()
	}
}

func (f *fetched) free() {
	if f.pages != nil {
		f.pages.Free()
	}
	*f = fetched{}
}

// readCode fills p with the code from off.
func (e *Entry) readCode(p []byte, off int64) (int, error) {
	whole := int64(len(p)) == e.codeLen
	if whole && e.pages != nil {
		moved, err := e.pages.MoveTo(p)
		if err != nil {
			return 0, err
		}
		if moved {
			e.fetched = fetched{}
			return len(p), nil
		}
	}
	if whole {
		mapped.AdviseHugePages(p)
	}
	if whole && e.pages != nil {
		e.pages.CopyTo(p)
		e.fetched = fetched{}
		return len(p), nil
	}
	if e.code != nil {
		return copy(p, e.code[off:]), nil
	}
	return e.src.ReadAt(p, int64(len(e.head))+off)
}
