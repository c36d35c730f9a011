package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache"
)

// watch gives up on a request that takes too long, counting only time in which this process could run. It is used by one goroutine.
type watch struct {
	o      *Options
	parent context.Context // the caller's
	ctx    context.Context
	cancel context.CancelCauseFunc
	unlink func() bool // from the store's context
	timer  *running
	late   atomic.Pointer[timeoutError] // what it means that the time is over

	start   time.Time
	stall   time.Duration
	limit   time.Time // of the whole request
	guessed bool      // limit comes from an estimate at first
	grace   time.Duration
	total   int64 // bytes of the body; 0 = not known yet
	got     int64
}

// timeoutError says which limit a request has exceeded.
type timeoutError struct {
	what string
	slow bool // the server works for smaller entries
}

func (e *timeoutError) Error() string { return e.what }

func (e *timeoutError) Unwrap() error { return context.DeadlineExceeded }

// maxProbe bounds a request that nobody waits for.
const maxProbe = 10 * time.Second

// watch returns a context for a request, which ends when the request exceeds a
// limit, when the store is closed, or with its parent.
func (s *Store) watch(parent context.Context) (context.Context, *watch) {
	w := &watch{o: &s.o, parent: parent, start: time.Now(), stall: s.o.Stall}
	w.ctx, w.cancel = context.WithCancelCause(parent)
	w.unlink = context.AfterFunc(s.ctx, func() { w.cancel(modcache.ErrClosed) })
	limit := s.o.FirstByte + s.o.Stall
	if s.o.Budget > 0 {
		limit = s.o.Budget
	} else if compile := modcache.CompileEstimate(parent); compile > 0 {
		least := minBudget
		if s.o.FirstByte != never { // or nobody would ever wait for so long
			least = max(least, s.o.FirstByte)
		}
		if b := max(least, compile/budgetShare); b < limit {
			limit, w.guessed = b, true
		}
	}
	w.limit = w.start.Add(limit)
	w.timer = afterRunning(never, func() { w.cancel(w.late.Load()) })
	if limit < s.o.FirstByte {
		w.arm(w.overLimit(), limit)
	} else {
		w.arm(&timeoutError{what: fmt.Sprintf("no response within %v", s.o.FirstByte)}, s.o.FirstByte)
	}
	return w.ctx, w
}

// overLimit says that the whole request takes too long.
func (w *watch) overLimit() *timeoutError {
	if w.total > 0 {
		return &timeoutError{what: "the transfer exceeds its budget", slow: true}
	}
	return &timeoutError{what: "the head of the entry takes too long", slow: w.guessed}
}

// stop releases the watch, and aborts the request if it isn't done.
func (w *watch) stop() {
	w.timer.stop()
	w.unlink()
	w.cancel(nil)
}

// starved reports whether this process couldn't run for most of the request. Then whatever went wrong, a
// connection that was cut for idleness, or a caller's deadline, says nothing about the server.
func (w *watch) starved() bool { return w.timer.missed() > time.Since(w.start)/2 }

// cause returns why the request was aborted, if it was.
func (w *watch) cause() error { return context.Cause(w.ctx) }

// responded notes that the head of the response has arrived.
func (w *watch) responded() { w.wait() }

// expect sets the limits of an entry of total more bytes that took that long to
// compile; 0 if nobody knows, as of those in a bundle, which says no times.
func (w *watch) expect(compile time.Duration, total int64) {
	estimate := modcache.CompileEstimate(w.parent)
	compile = cmp.Or(compile, max(0, estimate))
	w.total = w.got + total
	w.stall = max(w.stall, compile/20)
	w.grace = max(w.o.FirstByte, compile/20)
	switch {
	case w.o.Budget != 0:
	case estimate < 0: // there is nothing that could be done in less time
		w.limit = w.start.Add(never)
	default:
		w.limit = w.start.Add(max(w.o.FirstByte+w.o.Stall, compile/budgetShare))
	}
	w.wait()
}

var errStalled = &timeoutError{what: "the transfer has stalled"}

// wait gives the request until it stalls, or reaches its limit.
func (w *watch) wait() {
	if left := time.Until(w.limit) + w.timer.missed(); left < w.stall {
		w.arm(w.overLimit(), left)
	} else {
		w.arm(errStalled, w.stall)
	}
}

func (w *watch) arm(late *timeoutError, d time.Duration) {
	w.late.Store(late)
	w.timer.reset(max(d, 0))
}

// progress notes that n bytes have arrived.
func (w *watch) progress(n int) {
	w.got += int64(n)
	if w.total > 0 && w.got < w.total {
		// At half the speed that is needed, there is no point in waiting for the end.
		elapsed := time.Since(w.start) - w.timer.missed()
		needed := elapsed.Seconds() / float64(w.got) * float64(w.total)
		if elapsed > w.grace && needed > 2*w.limit.Sub(w.start).Seconds() {
			w.cancel(&timeoutError{what: fmt.Sprintf("the transfer would take %.3g s", needed), slow: true})
			return
		}
	}
	w.wait()
}

// errCut is a response that ended before its announced length. Unlike an entry that is
// too short, it says nothing about what is stored.
var errCut = errors.New("the connection was cut")

func (w *watch) reader(src io.Reader) io.Reader { return &watched{w, src} }

type watched struct {
	w   *watch
	src io.Reader
}

func (r *watched) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	switch {
	case n > 0:
		r.w.progress(n)
	case err == nil:
		err = r.w.cause() // the body may not end when its request does
	}
	return n, asCut(err)
}

func asCut(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errCut
	}
	return err
}

// uncut is a body in which a connection that is cut isn't the end of the entry.
type uncut struct {
	ctx context.Context // of the request, which the body may outlive
	io.Reader
}

func (r uncut) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n == 0 && err == nil {
		err = r.ctx.Err()
	}
	return n, asCut(err)
}
