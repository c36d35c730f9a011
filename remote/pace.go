package remote

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// For so long a client of a handler may send or take nothing, and a server nothing of an upload. What is taken is seen late: the kernel accepts more
// only when a third of its buffer is free, which on Linux grows to 4 MiB, and who is just fast enough
// needs 43 seconds for that.
const (
	sendsNothing = 5 * time.Second
	takesNothing = time.Minute
)

// piece is what a client is given that time for at once.
const piece = 256 << 10

// pace ends the transfer of a client that stalls, or crawls: it may take no longer than a
// [Store] would for the same bytes. What the transfer holds is free again then.
type pace struct {
	deadline func(time.Time) error // sets that of the connection
	stall    time.Duration
	start    time.Time
	end      time.Time // the server's own deadline; zero: none
	ahead    int64     // bytes that may arrive before the next ones of this transfer
	n        int64     // bytes so far
}

func newPace(deadline func(time.Time) error, stall, server time.Duration, ahead int64) *pace {
	p := &pace{deadline: deadline, stall: stall, ahead: ahead, start: time.Now()}
	if server > 0 {
		p.end = p.start.Add(server)
	}
	return p
}

// ahead is how much may arrive before the next bytes of a request's body are seen: with HTTP/2, frames are handed out
// whole, and behind what other requests over the connection send.
func ahead(r *http.Request) int64 {
	if r.ProtoMajor < 2 {
		return 0
	}
	if o := serverOf(r).HTTP2; o != nil && o.MaxReceiveBufferPerConnection >= 1<<16 {
		return int64(o.MaxReceiveBufferPerConnection)
	}
	return 1 << 20 // what net/http lets them send, also where less is wanted than it can do
}

// serverOf returns the server of a request; its zero value if it isn't known.
func serverOf(r *http.Request) *http.Server {
	if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok {
		return s
	}
	return new(http.Server)
}

// deadline has set say once that it can't do what it is for.
func (h *Handler) deadline(set func(time.Time) error) func(time.Time) error {
	return func(t time.Time) error {
		err := set(t)
		if errors.Is(err, http.ErrNotSupported) && h.log != nil {
			h.unpaced.Do(func() {
				h.note(context.Background(), slog.LevelWarn, "who stalls can't be cut off: the ResponseWriter of a middleware has no method Unwrap, or the server no deadlines",
					slog.String("error", err.Error()))
			})
		}
		return err
	}
}

// step gives the client until its next bytes are due. Where deadlines aren't supported,
// there are those of the server alone.
func (p *pace) step() {
	due := time.Now().Add(p.stall + transferTime(p.ahead))
	for _, t := range []time.Time{p.start.Add(uploadTime(p.n + p.ahead)), p.end} {
		if !t.IsZero() && t.Before(due) {
			due = t
		}
	}
	_ = p.deadline(due)
}

// done leaves the connection to the server again.
func (p *pace) done() { _ = p.deadline(p.end) }

type pacedReader struct {
	*pace
	src io.Reader
}

func (r pacedReader) Read(b []byte) (int, error) {
	r.step()
	n, err := r.src.Read(b)
	r.n += int64(n)
	return n, err
}
