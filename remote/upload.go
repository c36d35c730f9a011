package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/frame"
)

// queue holds the artifacts that wait for their upload, and those under way.
type queue struct {
	refused atomic.Int64 // the least length of an entry that the server found too large; 0 = none

	mu      sync.Mutex
	waiting []*upload
	known   map[modcache.Key]*upload // waiting or under way
	bytes   int64                    // of those
	workers int
	lost    lost // since the last Flush
}

// upload is one artifact on its way.
type upload struct {
	key  modcache.Key
	b    []byte
	info modcache.Info
	done chan struct{} // closed when it is over
	err  error         // of it; valid once done is closed
}

// lost counts uploads that failed for good.
type lost struct {
	n    int
	last error
}

// Add implements [modcache.Store]. It queues the artifact and returns; see
// [Store.Flush]. An artifact in memory isn't copied. Add fails if the artifact is
// larger than what the store or the server takes, or the queue is full.
func (s *Store) Add(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
	err := s.writable(ctx)
	if err == nil {
		err = s.enqueue(key, a)
	}
	if err != nil {
		s.counters.rejected.Add(1)
		return err
	}
	return nil
}

func (s *Store) enqueue(key modcache.Key, a *modcache.Artifact) error {
	if a.Size() > s.o.MaxSize {
		return s.errorf("add", key, fmt.Errorf("%w: %d bytes, at most %d are uploaded", modcache.ErrTooLarge, a.Size(), s.o.MaxSize))
	}
	if s.uploads.has(key) {
		return nil
	}
	if err := s.uploads.fits(a.Size(), s.o.Queue); err != nil {
		return s.errorf("add", key, err)
	}
	b, err := a.Bytes()
	if err != nil {
		return s.errorf("add", key, err)
	}
	u := &upload{key: key, b: b, info: a.Info(), done: make(chan struct{})}
	added, another, err := s.uploads.push(u, s.o.Queue, s.o.Uploads)
	if err != nil {
		return s.errorf("add", key, err)
	}
	if !added {
		return nil
	}
	s.counters.adds.Add(1)
	if another && !s.start(s.work) {
		s.uploads.abandon(modcache.ErrClosed)
	}
	return nil
}

func (q *queue) has(key modcache.Key) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.known[key] != nil
}

// fits spares reading an artifact that push would refuse.
func (q *queue) fits(size, limit int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.check(size, limit)
}

func (q *queue) check(size, limit int64) error {
	if size > limit {
		return fmt.Errorf("%w: %d bytes, the queue takes %d", modcache.ErrTooLarge, size, limit)
	}
	if q.bytes > limit-size {
		return fmt.Errorf("the queue is full: %d bytes wait to be uploaded, the bound is %d", q.bytes, limit)
	}
	return nil
}

// push queues u unless its key is known, and says whether one more worker is
// needed, which has been counted.
func (q *queue) push(u *upload, limit int64, workers int) (added, another bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.known[u.key] != nil {
		return false, false, nil
	}
	if err := q.check(int64(len(u.b)), limit); err != nil {
		return false, false, err
	}
	if q.known == nil {
		q.known = make(map[modcache.Key]*upload)
	}
	q.known[u.key] = u
	q.bytes += int64(len(u.b))
	q.waiting = append(q.waiting, u)
	if another = q.workers < workers; another {
		q.workers++
	}
	return true, another, nil
}

// pop returns the next upload, or nil, after which the worker must end.
func (q *queue) pop() *upload {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.workers--
		return nil
	}
	u := q.waiting[0]
	q.waiting[0] = nil
	q.waiting = q.waiting[1:]
	return u
}

// finish ends an upload.
func (q *queue) finish(u *upload, err error) {
	q.mu.Lock()
	delete(q.known, u.key)
	q.bytes -= int64(len(u.b))
	if err != nil {
		q.lost.n++
		q.lost.last = err
	}
	q.mu.Unlock()
	u.b, u.err = nil, err
	close(u.done)
}

// abandon ends everything that waits.
func (q *queue) abandon(err error) {
	for u := q.pop(); u != nil; u = q.pop() {
		q.finish(u, err)
	}
}

// drop forgets an upload that hasn't begun.
func (s *Store) drop(key modcache.Key) {
	q := &s.uploads
	q.mu.Lock()
	var found *upload
	for i, u := range q.waiting {
		if u.key == key {
			found = u
			q.waiting = append(q.waiting[:i:i], q.waiting[i+1:]...)
			break
		}
	}
	q.mu.Unlock()
	if found != nil {
		q.finish(found, nil)
	}
}

// work uploads until nothing waits.
func (s *Store) work() {
	for u := s.uploads.pop(); u != nil; u = s.uploads.pop() {
		start := time.Now()
		size := int64(len(u.b))
		err := s.upload(u)
		switch {
		case err == nil:
			s.notify(modcache.Event{Kind: modcache.EventStored, Key: u.key, Bytes: size, Duration: time.Since(start)})
		default:
			err = s.errorf("upload", u.key, err)
			s.counters.lost.Add(1)
			if s.ctx.Err() == nil {
				s.counters.errors.Add(1)
				s.notify(modcache.Event{Kind: modcache.EventStoreFailed, Key: u.key, Err: err})
			}
		}
		s.uploads.finish(u, err)
	}
}

const (
	firstRetry = 500 * time.Millisecond
	// An upload may take this long, and one second more for each slowest bytes.
	minUpload = 30 * time.Second
	slowest   = 32 << 10
)

// upload brings one artifact to the server, in several attempts if need be.
func (s *Store) upload(u *upload) error {
	var entry []byte // made once it is needed
	for try := 0; ; try++ {
		err := s.attempt(u, &entry)
		if err == nil || final(err) || s.ctx.Err() != nil {
			return err
		}
		if try >= s.o.Retries {
			return fmt.Errorf("given up after %d attempts: %w", try+1, err)
		}
		s.counters.retries.Add(1)
		d := firstRetry << min(try, 10)
		d = max(d/2+rand.N(d), s.breaker.remaining())
		select {
		case <-time.After(d):
		case <-s.ctx.Done():
			return fmt.Errorf("%w after: %w", modcache.ErrClosed, err)
		}
	}
}

// final reports whether trying again makes no sense.
func final(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, modcache.ErrTooLarge) || errors.Is(err, errEncode)
}

var errEncode = errors.New("the artifact can't be encoded")

// attempt uploads the artifact unless a sound entry seems to be there.
func (s *Store) attempt(u *upload, entry *[]byte) error {
	replace := s.bad.has(u.key)
	if !replace {
		ctx, cancel := context.WithTimeout(s.ctx, maxProbe)
		there, err := s.backend.Has(ctx, u.key)
		cancel()
		// Who may not ask, or only what is there, may still be allowed to write.
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			return s.writeFailed(err)
		}
		if there {
			s.uploaded(u.key)
			s.counters.present.Add(1)
			return nil
		}
	}
	if *entry == nil {
		b, err := s.encode(u)
		if err != nil {
			return err
		}
		*entry = b
	}
	size := int64(len(*entry))
	if n := s.uploads.refused.Load(); n > 0 && size >= n {
		return fmt.Errorf("%w: the server refused an entry of %d bytes before, this one has %d", modcache.ErrTooLarge, n, size)
	}
	ctx, cancel := context.WithTimeout(s.ctx, minUpload+time.Duration(size/slowest)*time.Second)
	defer cancel()
	err := s.backend.Put(ctx, u.key, *entry, replace)
	switch {
	case err == nil:
		s.uploaded(u.key)
		s.counters.uploads.Add(1)
		s.counters.uploaded.Add(uint64(size))
		return nil
	case errors.Is(err, fs.ErrExist):
		s.uploaded(u.key)
		s.counters.present.Add(1)
		return nil
	case errors.Is(err, modcache.ErrTooLarge):
		s.uploads.tooLarge(size)
		return fmt.Errorf("%w: the server refuses an entry of %d bytes", modcache.ErrTooLarge, size)
	}
	return s.writeFailed(err)
}

func (s *Store) uploaded(key modcache.Key) {
	s.breaker.succeed()
	s.absent.drop(key)
	s.bad.drop(key)
}

// writeFailed counts a failure. A server that is there and takes nothing may
// still be read.
func (s *Store) writeFailed(err error) error {
	var after retryAfter
	switch {
	case s.ctx.Err() != nil:
	case severity(err) == hard, errors.As(err, &after) && after.RetryAfter() > 0:
		s.blame(err)
	case errors.Is(err, fs.ErrPermission):
		s.counters.refused.Add(1)
	}
	return err
}

// tooLarge remembers the least length that was refused.
func (q *queue) tooLarge(size int64) {
	for {
		old := q.refused.Load()
		if old != 0 && old <= size || q.refused.CompareAndSwap(old, size) {
			return
		}
	}
}

func (s *Store) encode(u *upload) ([]byte, error) {
	var buf bytes.Buffer
	if _, err := frame.Write(&buf, frame.Bytes(u.b), int64(len(u.b)), frame.MetaOf(u.key, u.info), &s.frame); err != nil {
		return nil, fmt.Errorf("%w: %w", errEncode, err)
	}
	return buf.Bytes(), nil
}

// Flush implements [modcache.Store]: it waits until everything added before it is
// on the server, or found there. It returns what couldn't be uploaded, since the
// last Flush if nobody asked before. If ctx ends first, uploads go on; after Close,
// it fails with [modcache.ErrClosed] too.
func (s *Store) Flush(ctx context.Context) error {
	s.counters.flushes.Add(1)
	err := s.flush(ctx)
	if err != nil {
		s.counters.flushErrors.Add(1)
	}
	return err
}

func (s *Store) flush(ctx context.Context) error {
	q := &s.uploads
	q.mu.Lock()
	pending := make([]*upload, 0, len(q.known))
	for _, u := range q.known {
		pending = append(pending, u)
	}
	q.mu.Unlock()
	for _, u := range pending {
		select {
		case <-u.done:
		case <-ctx.Done():
			return fmt.Errorf("modcache: flush to %s: %w", s.where, ctx.Err())
		}
	}
	q.mu.Lock()
	l := q.lost
	q.lost = lost{}
	q.mu.Unlock()
	var err error
	if l.n > 0 {
		err = fmt.Errorf("modcache: flush to %s: %d uploads failed, the last: %w", s.where, l.n, l.last)
	}
	if s.ctx.Err() != nil {
		err = errors.Join(s.ready(ctx), err)
	}
	return err
}
