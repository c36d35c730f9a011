package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/breaker"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/queue"
)

// upload is one artifact on its way.
type upload struct {
	b    []byte
	info modcache.Info
}

// Add implements [modcache.Store]. It queues the artifact and returns; see
// [Store.Flush]. An artifact in memory isn't copied. Add fails if the artifact is
// larger than what the store or the server takes, or, with [modcache.ErrUnavailable], if
// the queue is full; the next Flush says so, too.
func (s *Store) Add(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
	err := s.writable(ctx)
	if err == nil {
		err = s.enqueue(key, a)
	}
	if err != nil {
		s.counters.rejected.Add(1)
		return s.error("add", key, err)
	}
	return nil
}

func (s *Store) enqueue(key modcache.Key, a *modcache.Artifact) error {
	if a.Size() > s.o.MaxSize {
		return fmt.Errorf("%w: %d bytes, at most %d are uploaded", modcache.ErrTooLarge, a.Size(), s.o.MaxSize)
	}
	s.mu.Lock()
	wanted, err := s.admit(key, a.Size())
	s.mu.Unlock()
	if !wanted { // spare reading it
		return err
	}
	b, err := a.Bytes()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if wanted, err = s.admit(key, a.Size()); !wanted {
		return err
	}
	s.counters.adds.Add(1)
	return s.uploads.Add(&queue.Job[modcache.Key, upload]{Key: key, Value: upload{b, a.Info()}, Size: a.Size(), Owed: true})
}

// admit reports whether an upload of that size is to be queued, or why it can't be; mu is
// held.
func (s *Store) admit(key modcache.Key, size int64) (bool, error) {
	if s.ctx.Err() != nil {
		return false, modcache.ErrClosed
	}
	if s.uploads.Find(key) != nil {
		return false, nil
	}
	if err := s.uploads.Fits(size); err != nil {
		err = fmt.Errorf("%w: %w", modcache.ErrUnavailable, err)
		s.uploads.Lose(key, err) // for who waits for Flush, and doesn't see what Add returns
		s.counters.lost.Add(1)
		return false, err
	}
	return true, nil
}

// upload does a job of the queue.
func (s *Store) upload(j *queue.Job[modcache.Key, upload]) error {
	start := time.Now()
	err := contain.Apart(func() error { return s.attempts(j.Key, &j.Value) })
	switch {
	case err == nil:
		s.notify(modcache.Event{Kind: modcache.EventStored, Key: j.Key, Name: j.Value.info.Name, Bytes: j.Size, Duration: time.Since(start)})
		return nil
	case s.ctx.Err() == nil:
		s.counters.errors.Add(1)
		s.notify(modcache.Event{Kind: modcache.EventStoreFailed, Key: j.Key, Name: j.Value.info.Name, Err: s.error("upload", j.Key, err)})
	}
	s.counters.lost.Add(1)
	return err
}

const (
	firstRetry = 500 * time.Millisecond
	// An upload may take this long, and one second more for each slowest bytes.
	minUpload = 30 * time.Second
	slowest   = 32 << 10
	// So long a server may have uploads wait, in all, before one of them arrives.
	maxAsked = 90 * time.Second
)

// uploadTime is how long the transfer of so many bytes may take.
func uploadTime(size int64) time.Duration {
	return minUpload + transferTime(size)
}

// transferTime is that of the slowest transfer that is waited for.
func transferTime(size int64) time.Duration { return time.Duration(size/slowest) * time.Second }

// attempts brings one artifact to the server.
func (s *Store) attempts(key modcache.Key, u *upload) error {
	var entry []byte // made once it is needed
	var err error    // of the last attempt
	for try := 0; ; {
		if s.puts.Ask() != breaker.No {
			err = s.attempt(key, u, &entry)
			switch {
			case err == nil, errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrExist), errors.Is(err, modcache.ErrTooLarge):
				s.puts.Succeed() // it was answered, as it would be again
				return err
			case s.ctx.Err() != nil, errors.Is(err, errEncode):
				s.puts.Abstain()
				return err
			}
			s.puts.Fail(severity(err))
			if try >= s.o.Retries {
				return fmt.Errorf("given up after %d attempts: %w", try+1, err)
			}
			try++
			s.counters.retries.Add(1)
		}
		if why := s.inVain(); why != nil {
			return errors.Join(why, err)
		}
		d := firstRetry << min(max(try, 1)-1, 10)
		d = max(d/2+rand.N(d), s.puts.Remaining(), s.breaker.Remaining())
		select {
		case <-time.After(d):
		case <-s.ctx.Done():
			return errors.Join(modcache.ErrClosed, err)
		}
	}
}

// inVain returns why no upload waits for the server. Once as many pauses in a row as one has attempts have brought nothing,
// whatever the uploads, the server is left alone: else each of a thousand would find out for itself. So it is if it
// asks for more time than a program that ends can wait, be it of uploads or of lookups.
func (s *Store) inVain() error {
	for _, b := range []*breaker.Breaker{&s.puts, &s.breaker} {
		n, asked := b.Pauses()
		switch {
		case b.Remaining() == 0: // one is trying, or may
		case asked > maxAsked:
			return fmt.Errorf("%w: the server has asked to be left alone for %v, and uploads wait for %v", modcache.ErrUnavailable, asked.Round(time.Second), maxAsked)
		case b == &s.puts && n > s.o.Retries:
			return fmt.Errorf("%w: no upload arrived, with %d pauses between them", modcache.ErrUnavailable, n)
		}
	}
	return nil
}

var errEncode = errors.New("the artifact can't be encoded")

// attempt uploads the artifact unless an entry is there that can be used, as far as its head tells.
func (s *Store) attempt(key modcache.Key, u *upload, entry *[]byte) error {
	remembered := s.bad.has(key)
	replace, alias := remembered, false
	if !replace {
		ctx, cancel := context.WithTimeout(s.ctx, maxProbe)
		there, err := s.find(ctx, key, u.info)
		cancel()
		switch {
		case there:
			s.uploaded(key)
			s.counters.present.Add(1)
			return nil
		case errors.Is(err, frame.ErrCorrupt), errors.Is(err, frame.ErrAuth):
			_ = s.damaged(key, err)
			replace = true
		case err == errAlias:
			replace, alias = true, true
		case err != nil && !errors.Is(err, fs.ErrPermission):
			// Who may not ask, or only what is there, may still be allowed to write.
			return s.writeFailed(err)
		}
	}
	if *entry == nil {
		b, err := s.encode(key, u)
		if err != nil {
			return err
		}
		*entry = b
	}
	size := int64(len(*entry))
	if n := s.tooLarge(); size >= n {
		return fmt.Errorf("%w: the server refused an entry of %d bytes before, this one has %d", modcache.ErrTooLarge, n, size)
	}
	ctx, cancel := context.WithTimeout(s.ctx, uploadTime(size))
	defer cancel()
	err := s.backend.Put(ctx, key, *entry, replace)
	switch {
	case err == nil:
		s.uploaded(key)
		s.counters.uploads.Add(1)
		s.counters.uploaded.Add(uint64(size))
		return nil
	case errors.Is(err, modcache.ErrTooLarge):
		s.refuses(size)
		return fmt.Errorf("%w: the server refuses an entry of %d bytes", modcache.ErrTooLarge, size)
	case errors.Is(err, fs.ErrExist) && (alias || !replace):
		s.uploaded(key)
		s.counters.present.Add(1)
		return nil
	case errors.Is(err, fs.ErrExist) && remembered: // it may be another by now
		s.bad.drop(key)
		return s.attempt(key, u, entry)
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("the server has an entry that can't be used, and lets nobody replace it: delete it there: %w", err)
	}
	return s.writeFailed(err)
}

// rememberTooLarge is how long no entry is uploaded of a size that the server refused: whoever runs it may raise its limit.
const rememberTooLarge = time.Hour

// tooLarge returns from which length on the server refuses entries, as far as is remembered.
func (s *Store) tooLarge() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.refusedUntil) {
		return s.leastRefused
	}
	return math.MaxInt64
}

// refuses remembers that the server refused an entry of that length.
func (s *Store) refuses(size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !now.Before(s.refusedUntil) || size < s.leastRefused {
		s.leastRefused = size
	}
	s.refusedUntil = now.Add(rememberTooLarge)
}

// errAlias means that an alias is there which gives way.
var errAlias = errors.New("an alias is there")

// find reports whether the server has an entry that can be used in the place of one with that Info, as far as its head tells, and fails if it has one that can't:
// a signer that was revoked would keep all nodes cold. To read all of it would be a download for each entry that is there.
func (s *Store) find(ctx context.Context, key modcache.Key, info modcache.Info) (bool, error) {
	if there, err := s.backend.Has(ctx, key); err != nil || !there {
		return false, err
	}
	err := s.backend.look(ctx, key, func(body io.Reader) error {
		there, err := frame.NewStream(uncut{ctx, body}, key, s.o.MaxSize, &s.frame)
		if err != nil {
			return err
		}
		if old := there.Meta(); frame.GivesWay(old.Module, old.WasmSize, info.Module, info.WasmSize) {
			return errAlias
		}
		return nil
	})
	switch {
	case errors.Is(err, fs.ErrNotExist): // it has gone meanwhile
		return false, nil
	case errors.Is(err, fs.ErrPermission), errors.Is(err, frame.ErrTooLarge): // nobody can tell
		return true, nil
	}
	return err == nil, err
}

func (s *Store) uploaded(key modcache.Key) {
	s.breaker.Succeed()
	s.absent.drop(key)
	s.bad.drop(key)
}

// writeFailed counts a failure. A server that is there and takes nothing may
// still be read.
func (s *Store) writeFailed(err error) error {
	fault, _ := severity(err)
	switch {
	case s.ctx.Err() != nil:
	case fault == breaker.Hard:
		s.blame(err)
	case errors.Is(err, fs.ErrPermission):
		s.counters.refused.Add(1)
	}
	return err
}

func (s *Store) encode(key modcache.Key, u *upload) ([]byte, error) {
	var buf bytes.Buffer
	if _, err := frame.Write(&buf, frame.Bytes(u.b), int64(len(u.b)), frame.MetaOf(key, u.info), &s.frame); err != nil {
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
	s.mu.Lock()
	pending := s.uploads.Pending()
	s.mu.Unlock()
	if err := queue.Wait(ctx, pending); err != nil {
		return s.error("flush", modcache.Key{}, err)
	}
	s.mu.Lock()
	lost := s.uploads.TakeLost()
	s.mu.Unlock()
	var err error
	if lost.N > 0 {
		err = fmt.Errorf("%d uploads failed, the last that of %v: %w", lost.N, lost.Key, lost.Err)
	}
	switch {
	case s.ctx.Err() != nil && err != nil:
		err = fmt.Errorf("%w: %w", modcache.ErrClosed, err)
	case s.ctx.Err() != nil:
		err = modcache.ErrClosed
	case err == nil:
		return nil
	}
	return s.error("flush", modcache.Key{}, err)
}
