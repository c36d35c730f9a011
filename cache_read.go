package modcache

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/parallel"
)

// This file is how what a store has returned is read: nobody waits for ever for a file system that hangs.

// readWait returns how long a store may take to find what would else be compiled, and again to read it.
func readWait(ctx context.Context) time.Duration {
	if estimate := CompileEstimate(ctx); estimate > 0 {
		return max(storeWait, estimate)
	}
	return unknownWait
}

// read has f read an artifact that get has returned. A file system may hang long after it has opened
// a file: f goes on without the caller then, and what it returns goes to late. So it reads into memory
// that is nobody else's.
func read[T any](ctx context.Context, c *Cache, a *Artifact, f func(*Artifact) (T, error), late func(T)) (T, error) {
	if a.InMemory() {
		return contain.Value(func() (T, error) { return f(a) })
	}
	return bounded.Do(ctx, c.reads, readWait(ctx), func(context.Context) (v T, err error) {
		own, err := a.share() // closing a waits for those who read a
		if err != nil {
			return v, err
		}
		defer contain.Close(own)
		return f(own)
	}, late)
}

// boundedReader reads an artifact for those who want it in memory that isn't ours to keep, such as wazero's for
// code, which may be unmapped as soon as a read has failed.
type boundedReader struct {
	c    *Cache
	a    *Artifact
	wait func() time.Duration // how long the next read may take
}

// bounded returns a reader of an artifact that get has returned. All reads together take no longer than wait, for a store may
// answer each just in time; where there is no compile to fall back to, each may.
func (c *Cache) bounded(a *Artifact, wait time.Duration) io.ReaderAt {
	if a.InMemory() {
		return contain.ReaderAt{Src: a}
	}
	left := func() time.Duration { return wait }
	if !c.opts.RequireHit {
		end := time.Now().Add(wait)
		left = func() time.Duration { return time.Until(end) }
	}
	return boundedReader{c, a, left}
}

const (
	// readPiece is what is read at a time: the chunk of a frame, which is still in the processor's cache when it is
	// copied.
	readPiece = 256 << 10
	// readRun is how much a goroutine reads before another may: two that fill one huge page wait for each other.
	readRun = 2 << 20
)

// ReadAt implements [io.ReaderAt]. The goroutines that read own what they read into. They copy it to p for as long as
// the caller waits, and end without him.
func (r boundedReader) ReadAt(p []byte, off int64) (int, error) {
	var (
		waiting sync.RWMutex // read-locked while p is written
		gone    bool         // the caller; guarded by waiting
	)
	deliver := func(b []byte, at int64) error {
		waiting.RLock()
		defer waiting.RUnlock()
		if gone {
			return bounded.ErrNoAnswer
		}
		copy(p[at-off:], b)
		return nil
	}
	end, wait := off+int64(len(p)), r.wait()
	if wait <= 0 {
		return 0, bounded.ErrNoAnswer
	}
	_, err := bounded.Do(r.c.ctx, r.c.reads, wait, func(context.Context) (struct{}, error) {
		own, err := r.a.share() // closing a waits for those who read a
		if err != nil {
			return struct{}{}, err
		}
		defer contain.Close(own)
		return struct{}{}, r.c.readPieces(own, off, end, deliver)
	}, nil)
	if err != nil {
		waiting.Lock()
		defer waiting.Unlock()
		gone = true
		return 0, err
	}
	return len(p), nil
}

// readPieces reads an artifact from off to end, and passes on what it has read.
func (c *Cache) readPieces(a *Artifact, off, end int64, deliver func(b []byte, at int64) error) error {
	if off == end {
		return nil
	}
	first := off / readPiece
	n := int((end-1)/readPiece-first) + 1
	var delivered atomic.Int64
	_, err := parallel.Do(n, readRun/readPiece, func(i int) error {
		buf, ok := c.pieces.Get().(*[readPiece]byte)
		if !ok {
			buf = new([readPiece]byte)
		}
		defer c.pieces.Put(buf)
		from, to := max(off, (first+int64(i))*readPiece), min(end, (first+int64(i)+1)*readPiece)
		b := buf[:to-from]
		if _, err := readFull(contain.ReaderAt{Src: a}, b, from); err != nil {
			return err
		}
		if err := deliver(b, from); err != nil {
			return err
		}
		delivered.Add(1)
		return nil
	})
	if err == nil && delivered.Load() < int64(n) {
		err = contain.ErrExited // of one of the goroutines
	}
	return err
}
