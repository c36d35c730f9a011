package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/breaker"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/weburl"
)

// Get implements [modcache.Store]. Verifying and decompressing an entry overlap
// its download. It returns within the limits of [Options], and a tenth of a second later if what it asks for
// credentials hangs, with an error if they were exceeded or the server failed; an entry that is damaged or that no
// trusted key has signed is a miss.
func (s *Store) Get(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	s.counters.lookups.Add(1)
	a, reason, err := s.get(ctx, key)
	if a != nil {
		s.counters.hits.Add(1)
		s.notify(modcache.Event{Kind: modcache.EventHit, Key: key, Name: a.Info().Name, Bytes: a.Size()})
		return a, true, nil
	}
	s.notify(modcache.Event{Kind: modcache.EventMiss, Key: key, Reason: reason, Err: err})
	switch reason {
	case modcache.ReasonCorrupt, modcache.ReasonAuth, modcache.ReasonTooLarge:
		err = nil // reported; for the caller there is simply nothing
	}
	return nil, false, err
}

func (s *Store) get(ctx context.Context, key modcache.Key) (*modcache.Artifact, modcache.Reason, error) {
	if err := s.ready(ctx); err != nil {
		return nil, failure(err), s.error("get", key, err)
	}
	if len(s.frame.Trusted) == 0 { // a frame without would be read by whatever seals
		return nil, modcache.ReasonAuth, nil
	}
	if s.absent.has(key) {
		s.counters.remembered.Add(1)
		return nil, modcache.ReasonAbsent, nil
	}
	patient := modcache.CompileEstimate(ctx) < 0 // there is nothing else to be done
	if !patient && s.slow.has(key) {
		s.counters.remembered.Add(1)
		return nil, modcache.ReasonTimeout, s.error("get", key, errSlow)
	}
	if v := s.breaker.Ask(); v != breaker.Yes {
		s.counters.unavailable.Add(1)
		if v == breaker.Probe {
			s.probe(key)
		}
		return nil, modcache.ReasonIO, s.unavailable("get", key)
	}
	ctx, w := s.watch(ctx)
	defer w.stop()
	var a *modcache.Artifact
	err := contain.Apart(func() (err error) { // the body may be anybody's
		a, err = s.fetch(ctx, w, key)
		return err
	})
	s.counters.downloaded.Add(uint64(w.got))
	if err == nil {
		s.breaker.Succeed()
		return a, 0, nil
	}
	if w.cause() == nil {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			s.breaker.Succeed()
			s.counters.absent.Add(1)
			s.absent.add(key)
			return nil, modcache.ReasonAbsent, nil
		case errors.Is(err, frame.ErrTooLarge):
			s.counters.tooLarge.Add(1)
			return nil, modcache.ReasonTooLarge, s.error("get", key, err)
		case errors.Is(err, frame.ErrCorrupt):
			return nil, modcache.ReasonCorrupt, s.damaged(key, err)
		case errors.Is(err, frame.ErrAuth):
			return nil, modcache.ReasonAuth, s.damaged(key, err)
		}
	}
	err = s.failed(w, "get", key, err)
	if limit := (*timeoutError)(nil); errors.As(err, &limit) && !patient {
		s.slow.add(key) // who compiles looks again when it has a lock
	}
	return nil, failure(err), err
}

const errSlow = awayError("unavailable for now: the server was too slow for this entry a moment ago")

// failure is why a lookup missed that ended with an error.
func failure(err error) modcache.Reason {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return modcache.ReasonTimeout
	}
	return modcache.ReasonIO
}

// fetch downloads, verifies and decompresses the entry under key.
func (s *Store) fetch(ctx context.Context, w *watch, key modcache.Key) (*modcache.Artifact, error) {
	body, err := s.backend.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	w.responded()
	st, err := frame.NewStream(w.reader(body), key, s.o.MaxSize, &s.frame)
	if err != nil {
		return nil, err
	}
	m := st.Meta()
	w.expect(m.CompileTime, st.Encoded())
	b, err := st.Bytes()
	if err != nil {
		return nil, err
	}
	return modcache.NewArtifact(b, frame.InfoOf[modcache.Info](m)), nil
}

// damaged counts and reports an entry that can't be used, and has the next Add
// replace it. A server from which nothing else comes is soon left alone.
func (s *Store) damaged(key modcache.Key, err error) error {
	err = s.error("get", key, err)
	s.counters.corrupt.Add(1)
	s.bad.add(key)
	if errors.Is(err, modcache.ErrOtherKey) {
		// Somebody else's, which the server keeps as it should.
		s.counters.untrusted.Add(1)
	} else {
		s.fail(err, breaker.Soft, 0)
	}
	s.notify(modcache.Event{Kind: modcache.EventCorrupt, Key: key, Err: err})
	return err
}

// failed counts an operation that failed, for the breaker too. It returns the
// error for the caller: the watch's own if that ended the operation.
func (s *Store) failed(w *watch, op string, key modcache.Key, err error) error {
	if cause := w.cause(); cause != nil {
		err = cause
	}
	err = s.error(op, key, err)
	if s.ctx.Err() != nil || errors.Is(w.parent.Err(), context.Canceled) {
		return err // not the server's doing
	}
	s.counters.errors.Add(1)
	var limit *timeoutError
	if w.starved() && !errors.As(err, &limit) {
		s.breaker.Abstain()
		return err
	}
	if w.parent.Err() != nil {
		// The caller had less patience than our own limits. The next may have more.
		s.counters.timeouts.Add(1)
		s.fail(err, breaker.Soft, 0)
		return err
	}
	s.blame(err)
	return err
}

// awayError says that the server is left alone, and why.
type awayError string

// mostAway is how much of the failure that is, in characters: it is told with each lookup.
const mostAway = 300

func (e awayError) Error() string { return string(e) }

func (awayError) Is(target error) bool {
	return target == modcache.ErrUnavailable || target == breaker.ErrOpen
}

// fail has the breaker know of a failure.
func (s *Store) fail(err error, f breaker.Fault, after time.Duration) {
	if at := (*modcache.Error)(nil); errors.As(err, &at) {
		err = at.Err
	}
	away := awayError(fmt.Sprintf("%v (the last failure: %.*v)", modcache.ErrUnavailable, mostAway, weburl.Discreet(err)))
	s.away.Store(&away)
	s.breaker.Fail(f, after)
}

// unavailable is the error of an operation that the breaker has turned away.
func (s *Store) unavailable(op string, key modcache.Key) error {
	away := awayError(modcache.ErrUnavailable.Error())
	if a := s.away.Load(); a != nil {
		away = *a
	}
	return &modcache.Error{Op: op, Store: s.where, Key: key, Err: away}
}

// blame has the breaker know of a failure of the server.
func (s *Store) blame(err error) {
	if errors.Is(err, fs.ErrPermission) {
		s.counters.refused.Add(1)
	}
	f, after := severity(err)
	s.fail(err, f, after)
	if errors.Is(err, context.DeadlineExceeded) {
		s.counters.timeouts.Add(1)
	}
}

// severity tells failures that cost time, or show that nobody is there, from those
// that the next request may be spared. after is how long the server wants to be left
// alone, if it said.
func severity(err error) (f breaker.Fault, after time.Duration) {
	_ = contain.Apart(func() error { f, after = judge(err); return nil }) // which calls methods of a backend's errors
	return f, after
}

func judge(err error) (f breaker.Fault, after time.Duration) {
	var asks interface{ RetryAfter() time.Duration }
	var late *timeoutError
	var op *net.OpError
	var n net.Error
	switch {
	case errors.As(err, &asks) && asks.RetryAfter() > 0:
		return breaker.Hard, asks.RetryAfter()
	case errors.As(err, &late) && late.slow:
		return breaker.Soft, 0
	case errors.Is(err, context.DeadlineExceeded),
		errors.As(err, &op) && op.Op == "dial",
		errors.As(err, &n) && n.Timeout():
		return breaker.Hard, 0
	}
	return breaker.Soft, 0
}

// probe asks in the background whether the server is back. It has more time than
// a lookup: a connection that takes long to set up is there for the next one.
func (s *Store) probe(key modcache.Key) {
	started := s.start(func() {
		s.counters.probesTotal.Add(1)
		ctx, cancel := context.WithTimeout(s.ctx, min(4*s.o.FirstByte, maxProbe))
		defer cancel()
		// A server that refuses to say is there.
		_, err := s.backend.Has(ctx, key)
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			s.blame(err)
			return
		}
		s.breaker.Recover()
	})
	if !started {
		s.breaker.Fail(breaker.Hard, 0)
	}
}
