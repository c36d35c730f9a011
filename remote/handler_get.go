package remote

import (
	"cmp"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/zeebo/blake3"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/frame"
)

// provenFor is how long an entry that was sent once, verified to its last byte, is sent by the
// kernel, without anybody here looking at it. Clients verify it each time.
const provenFor = 10 * time.Minute

func (h *Handler) get(w *recorder, r *http.Request, key modcache.Key) error {
	if r.Method == http.MethodGet {
		if !h.downloads.TryAcquire(1) {
			return refuse(http.StatusServiceUnavailable, "too many downloads at once")
		}
		defer h.downloads.Release(1)
	}
	a, err := h.find(r.Context(), key)
	if err != nil {
		return cmp.Or(r.Context().Err(), err)
	}
	defer h.release(a)
	if a == nil {
		return refuse(http.StatusNotFound, "no such entry")
	}
	if a.Size() > h.max {
		return modcache.ErrTooLarge
	}
	if h.signing != nil {
		return h.sendSigned(w, r, key, a)
	}
	return h.send(w, r, &content{SectionReader: section(r.Context(), h.reads, a), whole: a})
}

// content is an entry on its way out.
type content struct {
	*io.SectionReader
	whole  *modcache.Artifact // whose bytes are the entry; nil if the entry is put together
	proven bool               // whole was verified a while ago
	head   int64              // bytes of a header in front of an artifact
}

// Read implements [io.Reader]. What follows the header is read chunk by chunk.
func (c *content) Read(p []byte) (int, error) {
	at, err := c.Seek(0, io.SeekCurrent)
	if rest := c.head - at; err == nil && rest > 0 && rest < int64(len(p)) {
		p = p[:rest]
	}
	return c.SectionReader.Read(p)
}

// send answers with an entry, or a part of it.
func (h *Handler) send(w *recorder, r *http.Request, c *content) error {
	outline, err := frame.Inspect(c, c.Size())
	if err != nil {
		return err
	}
	sum := modcache.Key(blake3.Sum256(outline.Header))
	c.proven = c.whole != nil && h.proven.has(sum)
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	p := newPace(h.deadline(http.NewResponseController(w).SetWriteDeadline), takesNothing, serverOf(r).WriteTimeout, 0)
	defer p.done()
	out := &pacedWriter{pace: p, recorder: w}
	http.ServeContent(out, r, "", time.Time{}, c)
	if c.whole != nil && w.status == http.StatusOK && w.sent == c.Size() {
		h.proven.add(sum)
	}
	return out.err
}

// pacedWriter sends a response as fast as its client takes it.
type pacedWriter struct {
	*pace
	*recorder
	err error
}

func (w *pacedWriter) Write(b []byte) (int, error) {
	w.step()
	n, err := w.recorder.Write(b)
	w.n += int64(n)
	w.err = cmp.Or(w.err, err)
	return n, err
}

var buffers = sync.Pool{New: func() any { return new([piece]byte) }}

// ReadFrom implements [io.ReaderFrom]: it leaves to the kernel what was verified before.
func (w *pacedWriter) ReadFrom(src io.Reader) (int64, error) {
	if part, ok := src.(*io.LimitedReader); ok {
		if c, ok := part.R.(*content); ok && c.proven && !c.whole.InMemory() {
			from, _ := c.Seek(0, io.SeekCurrent)
			n, err := c.whole.WriteTo(&taker{w, from, part.N})
			if !errors.Is(err, errSeen) {
				w.err = cmp.Or(w.err, err)
				return n, err
			}
		}
	}
	buf := buffers.Get().(*[piece]byte)
	defer buffers.Put(buf)
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{src}, buf[:])
	w.err = cmp.Or(w.err, err)
	return n, err
}

// taker sends a part of an artifact that is in a file.
type taker struct {
	w       *pacedWriter
	from, n int64
}

// errSeen means that an artifact isn't in a file as it is.
var errSeen = errors.New("the bytes are here already")

func (t *taker) Write([]byte) (int, error) { return 0, errSeen }

// TakeFile implements [plainfile.Taker]. The file was opened for this request.
func (t *taker) TakeFile(f *os.File, off, n int64) (int64, error) {
	if _, err := f.Seek(off+t.from, io.SeekStart); err != nil {
		return 0, err
	}
	n = min(n-t.from, t.n)
	var sent int64
	for sent < n {
		t.w.step()
		got, err := io.CopyN(t.w.recorder, f, min(piece, n-sent))
		sent += got
		t.w.n += got
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}
