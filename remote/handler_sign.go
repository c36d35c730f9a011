package remote

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/singleflight"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/books"
	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/queue"
)

// signing makes entries of what a Cache has stored. To compress one takes a hundred times as long as
// to send it, so that happens once, in the background; until then, an entry is a signed header and the
// artifact as it is.
type signing struct {
	store  modcache.Store
	reads  *bounded.Lane    // of it
	memory *modcache.Memory // for entries that the store has no room for, or doesn't take
	max    int64
	frame  frame.Options
	id     KeyID
	seals  singleflight.Group // of headers
	tried  recent             // artifacts that were compressed, whether or not that could be kept

	made, failed atomic.Uint64

	free  int64     // what the store had room for when it was asked, less what has come since; the one worker's
	again time.Time // when to ask again; the worker's, too

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex // guards these
	jobs  queue.Queue[modcache.Key, struct{}]
	heads map[modcache.Key]signedHead // of entries that aren't kept yet
}

// signedHead is the header of an artifact with that Info and size.
type signedHead struct {
	header []byte
	info   modcache.Info
	size   int64
}

const (
	maxKept  = 256 << 20 // bytes in memory
	maxJobs  = 4096
	maxHeads = 256
	triedFor = 10 * time.Minute
	// Asking the store is looking at all of its entries: nobody asks again for so many times as long as that took, and at most so long.
	asking   = 100
	askedFor = time.Minute
)

func newSigning(s modcache.Store, reads *bounded.Lane, key *PrivateKey, limit int64) *signing {
	v := &signing{
		store: s, reads: reads, memory: modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: maxKept}), max: limit, id: key.Public().ID(),
		frame: frame.Options{Auth: frame.NewSigner(key.key()), Compressor: frame.NewCompressor(), Compress: true},
		heads: map[modcache.Key]signedHead{}, tried: recent{ttl: triedFor},
	}
	v.ctx, v.cancel = context.WithCancel(context.Background())
	v.jobs = queue.Queue[modcache.Key, struct{}]{Lock: &v.mu, Workers: &v.wg, Max: 1, Limit: maxJobs, Run: v.keep, Ended: v.ended}
	return v
}

func (s *signing) close() {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.wg.Wait()
}

// sendSigned answers with the entry of an artifact.
func (h *Handler) sendSigned(w *recorder, r *http.Request, key modcache.Key, a *modcache.Artifact) error {
	s := h.signing
	if kept := s.kept(r.Context(), key, a); kept != nil {
		defer h.release(kept)
		return h.send(w, r, &content{SectionReader: section(r.Context(), h.reads, kept), whole: kept})
	}
	defer s.later(key, a.Info())
	from := section(context.WithoutCancel(r.Context()), h.reads, a) // the head may be for others too
	head, err := s.head(key, a, from)
	if err != nil {
		return err
	}
	entry := headed{head, section(r.Context(), h.reads, a)}
	return h.send(w, r, &content{SectionReader: io.NewSectionReader(entry, 0, int64(len(head))+a.Size()), head: int64(len(head))})
}

// headed is an artifact behind a header.
type headed struct {
	head []byte
	a    io.ReaderAt
}

// ReadAt implements [io.ReaderAt].
func (h headed) ReadAt(p []byte, off int64) (n int, err error) {
	if off < int64(len(h.head)) {
		if n = copy(p, h.head[off:]); n == len(p) {
			return n, nil
		}
	}
	m, err := h.a.ReadAt(p[n:], off+int64(n)-int64(len(h.head)))
	return n + m, err
}

// head returns the signed header of an artifact that isn't compressed.
func (s *signing) head(key modcache.Key, a *modcache.Artifact, from io.ReaderAt) ([]byte, error) {
	s.mu.Lock()
	known, ok := s.heads[key]
	s.mu.Unlock()
	if ok && known.info == a.Info() && known.size == a.Size() {
		return known.header, nil
	}
	header, err, _ := s.seals.Do(key.String()+a.Info().Created.String(), func() (any, error) {
		return contain.Value(func() ([]byte, error) { return frame.Head(from, a.Size(), frame.MetaOf(key, a.Info()), &s.frame) })
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.heads {
		if len(s.heads) < maxHeads {
			break
		}
		delete(s.heads, k)
	}
	s.heads[key] = signedHead{header.([]byte), a.Info(), a.Size()}
	return header.([]byte), nil
}

// place returns the key under which an entry is kept that was signed with our key.
func (s *signing) place(key modcache.Key) (kept modcache.Key) {
	blake3.DeriveKey("modcache 2026-11-27 signed entry of a server", append(key[:], s.id[:]...), kept[:])
	return kept
}

// kept returns the entry that was made of the artifact, or nil. One that was made of another is of no use.
func (s *signing) kept(ctx context.Context, key modcache.Key, of *modcache.Artifact) *modcache.Artifact {
	for _, store := range []modcache.Store{s.store, s.memory} {
		a, err := find(ctx, s.reads, store, s.place(key))
		if err != nil || a == nil {
			continue
		}
		r, err := frame.Open(section(ctx, s.reads, a), a.Size(), key, &s.frame) // it may be somebody else who has put it there
		want := frame.MetaOf(key, of.Info())
		want.Created = want.Created.UTC()
		if err == nil && r.Size() == of.Size() && r.Meta() == want {
			return a
		}
		_ = s.reads.GiveBack(patience, a.Close)
	}
	return nil
}

// attempt names the artifact that was stored under key at that time.
func attempt(key modcache.Key, info modcache.Info) modcache.Key {
	return blake3.Sum256(append(key[:], info.Created.UTC().String()...))
}

// later has the entry made in the background, unless it is being made, or was a while ago, or very many are.
func (s *signing) later(key modcache.Key, info modcache.Info) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() == nil && s.jobs.Find(key) == nil && !s.tried.has(attempt(key, info)) { // in this order: what ends has been tried
		_ = s.jobs.Add(&queue.Job[modcache.Key, struct{}]{Key: key, Size: 1})
	}
}

func (s *signing) ended(_ *queue.Job[modcache.Key, struct{}], err error) {
	if err != nil && s.ctx.Err() == nil {
		s.failed.Add(1)
	}
}

// room reports whether the store surely has room for an entry: it must never evict an artifact, which
// can't be made again here, for what is made of one. Half of a directory is left to artifacts to come. Programs that fill one
// without a bound of ours have the default, it may be.
func (s *signing) room(size int64) bool {
	d, ok := s.store.(*modcache.Disk)
	if !ok {
		return false
	}
	if start := time.Now(); !start.Before(s.again) {
		_, plan, err := d.PlanTrim(s.ctx) // of what all processes have put there
		s.free = 0
		if err == nil && plan.Evicted == 0 {
			limit := d.Usage().MaxBytes
			if limit < 0 {
				limit = modcache.DefaultDiskMaxBytes
			}
			s.free = limit/2 - plan.Bytes
		}
		s.again = time.Now().Add(min(asking*time.Since(start), askedFor))
	}
	if size > s.free {
		return false
	}
	s.free -= size
	return true
}

// keep makes the entry, and keeps it in place of an older one.
func (s *signing) keep(j *queue.Job[modcache.Key, struct{}]) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	a, ok, err := s.store.Get(s.ctx, j.Key)
	if err != nil || !ok {
		return err
	}
	defer contain.Close(a)
	if kept := s.kept(s.ctx, j.Key, a); kept != nil {
		contain.Close(kept)
		return nil
	}
	s.tried.add(attempt(j.Key, a.Info()))
	var entry bytes.Buffer
	if _, err := frame.Write(&entry, a, a.Size(), frame.MetaOf(j.Key, a.Info()), &s.frame); err != nil {
		return err
	}
	info := a.Info()
	info.Engine = frame.EntryEngine
	signed := modcache.NewArtifact(entry.Bytes(), info)
	if !s.room(signed.Size()) || replace(books.KeepAll(s.ctx), s.store, s.place(j.Key), signed) != nil {
		err = replace(s.ctx, s.memory, s.place(j.Key), signed)
	}
	if err == nil {
		s.made.Add(1)
		s.mu.Lock()
		delete(s.heads, j.Key)
		s.mu.Unlock()
	}
	return err
}
