package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/breaker"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/queue"
	"github.com/modcache/modcache/internal/watchers"
	"github.com/modcache/modcache/internal/weburl"
)

// Store is a [modcache.Store] on a server that a fleet shares. Its methods may
// be called from several goroutines at once. Close it when done.
//
// Entries are authenticated before anything in them is used, decompression
// included. A server that fails, hangs, crawls or lies costs a lookup little
// time, and soon none: see [Options]. Get never returns anything but verified bytes, in
// memory.
type Store struct {
	o       Options
	where   string // what errors name
	kind    string // Report.Kind
	backend *impatient
	frame   frame.Options
	write   bool // may add and delete

	ctx    context.Context    // ends with Close
	cancel context.CancelFunc // called under mu
	onEnd  func()             // releases what New made
	wg     sync.WaitGroup     // probes and uploads; added to under mu, unless closed

	breaker  breaker.Breaker
	puts     breaker.Breaker           // of uploads: who takes nothing may still be read
	away     atomic.Pointer[awayError] // what those are told whom breaker turns away
	absent   recent                    // entries that the server didn't have
	slow     recent                    // entries that it was too slow for
	bad      recent                    // entries that were damaged, to be replaced
	counters counters
	watchers watchers.List[modcache.Event]

	mu           sync.Mutex // guards these
	uploads      queue.Queue[modcache.Key, upload]
	leastRefused int64     // length of the shortest entry that the server found too large
	refusedUntil time.Time // when that is forgotten
}

var _ modcache.Store = (*Store)(nil)

// New returns a Store at a URL such as https://cache.example/modcache, of a kind
// that Options.Layout names. It makes no request: a server that is down doesn't
// keep a program from starting, nor does a [Keyring] that revokes all of its keys. A user and password in the URL are sent as basic
// authentication.
//
// A whole program: examples/layered.
func New(url string, o *Options) (*Store, error) {
	v, err := o.validate()
	if err != nil {
		return nil, err
	}
	w, err := newWeb(url, &v)
	if err != nil {
		return nil, err
	}
	b, err := v.Layout.backend(w)
	if err != nil {
		return nil, err
	}
	return newStore(b, v.Layout.kind(), weburl.Shown(w.base), w.close, v)
}

// NewWithBackend returns a Store over another protocol. Of the options, Layout, Client,
// Header and DialTimeout aren't used. Errors call the server by that name, without what may be secret in it if it is a URL.
func NewWithBackend(b Backend, name string, o *Options) (*Store, error) {
	if b == nil {
		return nil, errors.New("modcache: NewWithBackend needs a Backend")
	}
	v, err := o.validate()
	if err != nil {
		return nil, err
	}
	return newStore(b, strings.TrimLeft(fmt.Sprintf("%T", b), "*"), weburl.ShownText(name), func() {}, v)
}

func newStore(b Backend, kind, where string, onEnd func(), o Options) (*Store, error) {
	signer, trusted, err := o.auth()
	if err != nil {
		return nil, err
	}
	o.Secret, o.Header = nil, nil // package fmt looks into a program's own structs, and from there into a Store
	s := &Store{
		o: o, kind: kind, where: "remote " + where, backend: newImpatient(b, o.Uploads), onEnd: onEnd,
		frame:   frame.Options{Trusted: trusted, Compressor: frame.NewCompressor(), Compress: true},
		write:   signer != nil && !o.ReadOnly,
		breaker: o.breaker(),
		puts:    o.breaker(),
		absent:  recent{ttl: o.AbsentFor},
		slow:    recent{ttl: min(o.AbsentFor, slowFor)},
		bad:     recent{ttl: rememberBad},
	}
	s.uploads = queue.Queue[modcache.Key, upload]{Lock: &s.mu, Workers: &s.wg, Max: o.Uploads, Limit: o.Queue, Run: s.upload}
	if signer != nil {
		s.frame.Auth = *signer
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.degraded(); err != nil {
		s.notify(modcache.Event{Kind: modcache.EventDegraded, Err: err})
	}
	return s, nil
}

// degraded returns why nothing that is on the server can be used, if so.
func (s *Store) degraded() error {
	if len(s.frame.Trusted) > 0 {
		return nil
	}
	return s.error("open", modcache.Key{}, errors.New("nothing of it is used: the Keyring revokes all of its keys; add the public key of whoever signs now"))
}

// Format implements [fmt.Formatter]: it prints which store this is, and no secret.
func (s *Store) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.where) }

// Delete implements [modcache.Store]. An upload of the entry that is under way
// may put it back.
func (s *Store) Delete(ctx context.Context, key modcache.Key) error {
	if err := s.writable(ctx); err != nil {
		return s.error("delete", key, err)
	}
	s.mu.Lock()
	s.uploads.CallOff(key)
	s.mu.Unlock()
	if s.breaker.Open() {
		return s.unavailable("delete", key)
	}
	ctx, w := s.watch(ctx)
	defer w.stop()
	if err := s.backend.Delete(ctx, key); err != nil {
		if cause := w.cause(); cause != nil {
			err = cause
		}
		if s.ctx.Err() == nil && w.parent.Err() == nil {
			s.counters.errors.Add(1)
			err = s.writeFailed(err)
		}
		return s.error("delete", key, err)
	}
	s.breaker.Succeed()
	s.bad.drop(key)
	return nil
}

// Close ends the store: uploads that are queued or under way are given up, so
// Flush first. It returns when nothing of the store runs any more. Closing again
// does nothing. A request that hangs, because what it asks for credentials doesn't heed its context, is
// waited for for 5 seconds; then it is an error, and the request is left to itself.
func (s *Store) Close() error {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.wg.Wait()
	err := s.backend.drain()
	s.onEnd()
	if err != nil {
		err = s.error("close", modcache.Key{}, err)
	}
	return err
}

// start runs f in a goroutine that Close waits for; false after Close.
func (s *Store) start(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.wg.Go(f)
	return true
}

// ready returns why an operation can't begin.
func (s *Store) ready(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return modcache.ErrClosed
	}
	return ctx.Err()
}

func (s *Store) writable(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	if !s.write {
		return modcache.ErrReadOnly
	}
	return nil
}

func (s *Store) error(op string, key modcache.Key, err error) error {
	return &modcache.Error{Op: op, Store: s.where, Key: key, Err: weburl.Discreet(err)}
}

func (s *Store) notify(e modcache.Event) {
	e.Layer = s.o.Name
	if s.o.OnEvent != nil {
		_ = contain.Apart(func() error { s.o.OnEvent(e); return nil })
	}
	if e.Kind != modcache.EventHit && e.Kind != modcache.EventMiss {
		s.watchers.Tell(e)
	}
}

// Observe implements [modcache.Observable]. The observer is told at once if nothing on the server is of use.
func (s *Store) Observe(observer func(modcache.Event)) (stop func()) {
	if err := s.degraded(); err != nil {
		observer(modcache.Event{Kind: modcache.EventDegraded, Err: err})
	}
	return s.watchers.Add(observer)
}

// counters are what Metrics and Report return.
type counters struct {
	lookups, hits, adds, rejected, flushes, flushErrors    atomic.Uint64
	corrupt, untrusted, errors, timeouts, unavailable      atomic.Uint64
	absent, remembered, refused, tooLarge, downloaded      atomic.Uint64
	uploads, present, lost, retries, uploaded, probesTotal atomic.Uint64
}
