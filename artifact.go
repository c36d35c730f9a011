package modcache

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/plainfile"
)

// Info says where an artifact came from. It travels with the artifact through
// every store. [Store].Add refuses an Info that is beyond its limits.
type Info struct {
	Engine      string        // identity of the engine that compiled it, at most 255 bytes
	Module      Fingerprint   // of the module's bytes; zero if they weren't at hand (drop-in)
	Name        string        // of the module, as in [Module.Name], at most 255 bytes; "" if unknown
	WasmSize    int64         // bytes of the module; 0 if unknown, and if this is an alias
	CompileTime time.Duration // what compiling it took; 0 if unknown
	Created     time.Time     // when it was compiled; zero if the store has no such date
}

// The lengths of the longest engine identity and of the longest name.
const (
	maxEngineID = 255
	maxName     = 255
)

// validate says what is beyond the limits of an Info. Memory refuses what the format of an
// entry can't hold, so that an artifact that one store takes fits all others.
func (i *Info) validate() error {
	if len(i.Engine) > maxEngineID {
		return fmt.Errorf("engine identity of %d bytes, at most %d fit", len(i.Engine), maxEngineID)
	}
	if len(i.Name) > maxName {
		return fmt.Errorf("name of %d bytes, at most %d fit", len(i.Name), maxName)
	}
	return nil
}

// Artifact is one immutable piece of machine code, in memory or behind a
// verified file. Its methods may be called from several goroutines at once.
//
// An artifact from a store's Get is a handle: Close it when done. An artifact in
// memory needs no Close, and closing it does nothing, so that all hits in memory can
// share one handle.
type Artifact struct {
	info Info
	size int64

	mem []byte // immutable; nil if behind src

	src    io.ReaderAt
	load   func() ([]byte, error) // reads all of src once, for all handles
	refs   *atomic.Int32          // handles on src that are still open
	lane   *bounded.Lane          // in which src is read by those who bound that; nil if it comes from no layer
	mu     sync.RWMutex           // held for reading while src is used
	closed bool                   // guarded by mu
}

// NewArtifact makes an artifact of b, which it takes over: the caller must not
// modify b afterwards.
func NewArtifact(b []byte, info Info) *Artifact {
	if b == nil {
		b = []byte{}
	}
	return &Artifact{info: info, size: int64(len(b)), mem: b}
}

// NewArtifactFrom makes an artifact of size bytes behind src, for stores that
// don't hold them in memory. src must verify what it returns: a ReadAt
// of bytes that are wrong fails with an error that wraps [ErrCorrupt] or
// [ErrAuth]. Artifacts are loaded by large reads, so src should make
// those fast. A [Cache] reads artifacts of stores other than [Disk] as a whole, and checks
// them once more. If src is an [io.Closer], closing the artifact closes it once.
func NewArtifactFrom(src io.ReaderAt, size int64, info Info) *Artifact {
	a := &Artifact{info: info, size: size, src: src, refs: new(atomic.Int32)}
	a.load = sync.OnceValues(func() ([]byte, error) {
		b, err := buffer(size)
		if err == nil {
			_, err = readFull(src, b, 0)
		}
		if err != nil {
			return nil, err
		}
		return b, nil
	})
	a.refs.Store(1)
	return a
}

// buffer returns room for an artifact of a size that somebody claims.
func buffer(size int64) ([]byte, error) {
	if size < 0 || size > maxCode {
		return nil, fmt.Errorf("%w: it claims to have %d bytes", ErrCorrupt, size)
	}
	return make([]byte, size), nil
}

var errArtifactClosed = &Error{Op: "read", Store: "artifact", Err: ErrClosed}

// share returns a second handle, to be closed on its own. What is behind the
// artifact is released with the last handle.
func (a *Artifact) share() (*Artifact, error) {
	if a.mem != nil {
		return a, nil
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.closed {
		return nil, errArtifactClosed
	}
	a.refs.Add(1)
	return &Artifact{info: a.info, size: a.size, src: a.src, load: a.load, refs: a.refs, lane: a.lane}, nil
}

// shareIn is share, for a handle that is read in lane, unless a has one.
func (a *Artifact) shareIn(lane *bounded.Lane) (*Artifact, error) {
	own, err := a.share()
	if err == nil && own.mem == nil && own.lane == nil {
		own.lane = lane
	}
	return own, err
}

// readFull fills p from src, which may report EOF along with the last byte. A
// short read is always an error: the rest of p is not the artifact's.
func readFull(src io.ReaderAt, p []byte, off int64) (int, error) {
	n, err := src.ReadAt(p, off)
	switch {
	case n == len(p) && errors.Is(err, io.EOF):
		err = nil
	case n < len(p) && (err == nil || errors.Is(err, io.EOF)):
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Info returns what is known about the artifact's origin.
func (a *Artifact) Info() Info { return a.info }

// Size returns the artifact's length in bytes.
func (a *Artifact) Size() int64 { return a.size }

// InMemory reports whether Bytes costs nothing.
func (a *Artifact) InMemory() bool { return a.mem != nil }

// ReadAt implements [io.ReaderAt]. Every byte it returns has been verified.
func (a *Artifact) ReadAt(p []byte, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, &Error{Op: "read", Store: "artifact", Err: fmt.Errorf("negative offset %d", off)}
	case off >= a.size:
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	want := p
	if rest := a.size - off; int64(len(p)) > rest {
		want = p[:rest]
	}
	n := 0
	if a.mem != nil {
		n = copy(want, a.mem[off:])
	} else {
		a.mu.RLock()
		defer a.mu.RUnlock()
		if a.closed {
			return 0, errArtifactClosed
		}
		var err error
		if n, err = readFull(a.src, want, off); err != nil {
			return n, err
		}
	}
	if len(want) < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteTo implements [io.WriterTo]: it writes the whole artifact.
func (a *Artifact) WriteTo(w io.Writer) (int64, error) {
	if t, ok := w.(plainfile.Taker); ok && a.mem == nil {
		if n, done, err := a.handOver(t); done {
			return n, err
		}
	}
	if a.mem != nil {
		n, err := w.Write(a.mem)
		return int64(n), err
	}
	const chunk = 1 << 20
	return io.CopyBuffer(struct{ io.Writer }{w}, io.NewSectionReader(a, 0, a.size), make([]byte, min(chunk, max(a.size, 1))))
}

// handOver lets t take the artifact out of the file that it is in, if it is in one as it is.
func (a *Artifact) handOver(t plainfile.Taker) (n int64, done bool, err error) {
	src, ok := a.src.(plainfile.Source)
	if !ok {
		return 0, false, nil
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.closed {
		return 0, true, errArtifactClosed
	}
	f, off, ok := src.File()
	if !ok {
		return 0, false, nil
	}
	n, err = t.TakeFile(f, off, a.size)
	return n, true, err
}

// Bytes returns the whole artifact. The slice is shared and must never be
// modified. For an artifact behind a file it is read once, and stays in memory
// for as long as the artifact does.
func (a *Artifact) Bytes() ([]byte, error) {
	if a.mem != nil {
		return a.mem, nil
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.closed {
		return nil, errArtifactClosed
	}
	return a.load()
}

// Close releases what is behind the artifact; reading it afterwards fails with
// [ErrClosed]. Close waits for reads under way, and may be called more than
// once. On an artifact in memory it does nothing.
func (a *Artifact) Close() error {
	if a.mem != nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	if a.refs.Add(-1) > 0 {
		return nil
	}
	if c, ok := a.src.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
