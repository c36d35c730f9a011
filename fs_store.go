package modcache

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/frame"
)

// FSOptions configure an [FSStore]. Zero fields stand for the defaults.
type FSOptions struct {
	// Key is the secret of at least 16 bytes that the entries were sealed with: that of
	// DiskOptions.Key, or of the bundle. Others are misses. The secret isn't stored.
	// One that is empty and not nil is an error, and so are Signers.
	Key []byte
	// Signers are the public keys whose signatures count. Unless it is nil, entries without a
	// signature of one of them are misses. One for which anybody can sign, as for a key of zeros, is an error. remote.ParsePublicKey reads what modcache keygen
	// prints, and PublicKey.Ed25519 gives the key.
	Signers []ed25519.PublicKey

	Name    string      // of the store in events and errors; "" = "fs" or "bundle"
	OnEvent func(Event) // see Event

	// What validate makes of Key: a function, into which package fmt doesn't look.
	auth func() frame.Auth
}

// Format implements [fmt.Formatter]: it hides the Key, with the exception that [DiskOptions.Format] has.
func (o FSOptions) Format(f fmt.State, verb rune) {
	type plain FSOptions // without this method
	if len(o.Key) > 0 {
		o.Key = []byte("hidden")
	}
	fmt.Fprintf(f, fmt.FormatString(f, verb), plain(o))
}

// validate returns a copy in which every field has the value that it stands for.
func (o *FSOptions) validate(name string) (v FSOptions, err error) {
	if o != nil {
		v = *o
	}
	v.Name = cmp.Or(v.Name, name)
	for i, k := range v.Signers {
		if err := frame.CheckPublic(k); err != nil {
			return v, fmt.Errorf("modcache: FSOptions.Signers[%d]: %w", i, err)
		}
	}
	if v.Signers != nil && len(v.Signers) == 0 {
		return v, errors.New("modcache: FSOptions.Signers is empty, and would trust everybody: name a key, or leave it nil")
	}
	if v.Key != nil && v.Signers != nil {
		return v, errors.New("modcache: FSOptions.Key and Signers exclude each other: entries are sealed with one key")
	}
	if v.Key != nil {
		v.auth, err = secretAuth("FSOptions.Key", v.Key)
		v.Key = nil // the secret is the caller's, who may wipe it
	}
	return v, err
}

// FSStore is a [Store] that can only be read: the entries in the files of an [fs.FS]
// ([OpenFS]), or in one bundle ([OpenBundle]). It is for machine code that comes with the
// program, and needs no directory that can be written to.
//
// What is served is verified as by a [Disk]: bound to its key, whole, and sealed or signed as
// FSOptions say. Damage makes a miss, which is counted in [Metrics].Corrupt and reported by
// [EventCorrupt]; an entry that was found damaged in reading its code stays a miss.
//
// Code is read to where it is needed, from the binary's own data if that is where it is: there
// is no second copy of it.
//
// Add and Delete fail with [ErrReadOnly]. Give a [Cache] of it alone Options.ReadOnly. To keep
// what isn't there, make it the first layer of a [Layered], with WriteNever, before a Disk.
//
// A panic of the file system or reader below is an error. That it never returns, or ends the goroutine, it does to the caller, unless that
// is a [Cache], or a [Layered] over a layer that isn't Direct: these go on without it.
//
// There is nothing to close. What the entries are read from must stay open as long as the store
// and its artifacts are in use.
type FSStore struct {
	o       FSOptions
	frame   frame.Options
	entries fsEntries
	damaged sync.Map // Key to error: found while it was read

	counters struct{ lookups, hits, misses, rejected, corrupt, errors atomic.Uint64 }
}

var _ Store = (*FSStore)(nil)

// fsEntries is where the entries of an FSStore are.
type fsEntries interface {
	open(key Key) (fsFile, error) // fs.ErrNotExist if there is none
	keys(ctx context.Context) iter.Seq2[Key, error]
	totals() (entries int, bytes int64)
}

// fsFile is one of them, of which nothing was verified.
type fsFile struct {
	io.ReaderAt
	size   int64
	closer io.Closer // nil: nothing to close
}

func (f *fsFile) close() {
	if f.closer != nil {
		contain.Close(f.closer)
	}
}

func newFSStore(o FSOptions, entries fsEntries) *FSStore {
	s := &FSStore{o: o, entries: entries, frame: frame.Options{Compressor: frame.NewCompressor()}}
	if o.auth != nil {
		s.frame.Auth = o.auth()
	}
	for _, k := range o.Signers {
		s.frame.Trusted = append(s.frame.Trusted, frame.NewVerifier(k))
	}
	return s
}

// Get implements [Store]. As in a [Disk], the header and all of a small entry are verified
// before it returns, and the rest as it is read.
func (s *FSStore) Get(ctx context.Context, key Key) (*Artifact, bool, error) {
	s.counters.lookups.Add(1)
	a, err := s.load(ctx, key)
	if err == nil {
		s.counters.hits.Add(1)
		s.notify(Event{Kind: EventHit, Key: key, Bytes: a.Size()})
		return a, true, nil
	}
	s.counters.misses.Add(1)
	if errors.Is(err, fs.ErrNotExist) {
		s.notify(Event{Kind: EventMiss, Key: key, Reason: ReasonAbsent})
		return nil, false, nil
	}
	s.notify(Event{Kind: EventMiss, Key: key, Reason: reasonOf(err), Err: err})
	if isDamage(err) {
		return nil, false, nil
	}
	return nil, false, err
}

func (s *FSStore) load(ctx context.Context, key Key) (*Artifact, error) {
	if err := ctx.Err(); err != nil {
		return nil, s.errorOf("get", key, err)
	}
	if err, ok := s.damaged.Load(key); ok {
		return nil, s.readFailed("get", key, err.(error))
	}
	e, err := s.open(key)
	if err != nil {
		return nil, s.readFailed("get", key, err)
	}
	info := frame.InfoOf[Info](e.r.Meta())
	if !e.small {
		return NewArtifactFrom(e, e.r.Size(), info), nil
	}
	e.f.close()
	b, err := e.r.Bytes()
	if err != nil {
		return nil, s.readFailed("get", key, err)
	}
	return NewArtifact(b, info), nil
}

// open opens an entry and verifies its header.
func (s *FSStore) open(key Key) (*fsEntry, error) {
	f, err := s.entries.open(key)
	if err != nil {
		return nil, err
	}
	e := &fsEntry{s: s, key: key, f: f}
	if e.r, e.small, err = openFrame(f, f.size, key, &s.frame); err != nil {
		f.close()
		return nil, err
	}
	return e, nil
}

// fsEntry is an open entry, whose header was verified.
type fsEntry struct {
	s        *FSStore
	key      Key
	f        fsFile
	r        *frame.Reader
	small    bool // all of it is in memory
	reported atomic.Bool
}

// ReadAt implements [io.ReaderAt] for an Artifact.
func (e *fsEntry) ReadAt(p []byte, off int64) (int, error) {
	n, err := e.r.ReadAt(p, off)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if e.reported.Swap(true) {
		return n, e.s.errorOf("read", e.key, err)
	}
	if isDamage(err) {
		e.s.damaged.Store(e.key, err)
	}
	return n, e.s.readFailed("read", e.key, err)
}

// Close implements [io.Closer] for an Artifact.
func (e *fsEntry) Close() error {
	e.f.close()
	return nil
}

// verifies implements [selfVerifying].
func (e *fsEntry) verifies(key Key) bool {
	e.r.Forget()
	return e.key == key
}

// readFailed counts and reports what went wrong with an entry, unless there is none.
func (s *FSStore) readFailed(op string, key Key, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	count, kind := &s.counters.errors, EventStoreFailed
	if isDamage(err) {
		count, kind = &s.counters.corrupt, EventCorrupt
	}
	count.Add(1)
	err = s.errorOf(op, key, err)
	s.notify(Event{Kind: kind, Key: key, Err: err})
	return err
}

// Add implements [Store]: it fails with [ErrReadOnly].
func (s *FSStore) Add(_ context.Context, key Key, _ *Artifact) error {
	s.counters.rejected.Add(1)
	return s.errorOf("add", key, ErrReadOnly)
}

// Delete implements [Store]: it fails with [ErrReadOnly].
func (s *FSStore) Delete(_ context.Context, key Key) error {
	return s.errorOf("delete", key, ErrReadOnly)
}

// Flush implements [Store]. There is nothing to do.
func (s *FSStore) Flush(context.Context) error { return nil }

// Metrics implements [Store]. Entries and Bytes are those of a bundle; those of a file
// system aren't counted.
func (s *FSStore) Metrics() Metrics {
	c := &s.counters
	entries, bytes := s.entries.totals()
	return Metrics{
		Lookups: c.lookups.Load(), Hits: c.hits.Load(), Misses: c.misses.Load(), RejectedAdds: c.rejected.Load(),
		Corrupt: c.corrupt.Load(), Errors: c.errors.Load(), Entries: uint64(entries), Bytes: uint64(bytes),
	}
}

// Walk describes all entries, whose headers it verifies. When they were last used isn't known.
// An error comes last: the context has ended, or the entries couldn't be listed.
func (s *FSStore) Walk(ctx context.Context) iter.Seq2[DiskEntry, error] {
	return func(yield func(DiskEntry, error) bool) {
		for key, err := range s.entries.keys(ctx) {
			if err = cmp.Or(ctx.Err(), err); err != nil {
				yield(DiskEntry{}, s.errorOf("walk", Key{}, err))
				return
			}
			if !yield(s.inspect(key), nil) {
				return
			}
		}
	}
}

func (s *FSStore) inspect(key Key) DiskEntry {
	d := DiskEntry{Key: key}
	e, err := s.open(key)
	if err != nil {
		d.Err = s.errorOf("walk", key, err)
		return d
	}
	defer e.f.close()
	d.Size, d.Stored, d.Info = e.r.Size(), e.f.size, frame.InfoOf[Info](e.r.Meta())
	return d
}

func (s *FSStore) notify(e Event) {
	e.Layer = s.o.Name
	notify(s.o.OnEvent, e)
}

// errorOf returns err as what an operation returns.
func (s *FSStore) errorOf(op string, key Key, err error) error {
	return &Error{Op: op, Store: s.o.Name, Key: key, Err: withoutPath(err)}
}
