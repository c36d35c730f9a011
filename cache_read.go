package modcache

import (
	"cmp"
	"context"
	"time"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/wazerohook"
)

// This file is how what a store has returned is read: nobody waits for ever for a file system that hangs.

// readWait returns how long a store may take to find what would else be compiled, and again to read it.
func readWait(ctx context.Context) time.Duration {
	if estimate := CompileEstimate(ctx); estimate > 0 {
		return max(storeWait, estimate)
	}
	return unknownWait
}

// waitFor is readWait for each store that a lookup may ask.
func waitFor(ctx context.Context, s Store) time.Duration {
	n := time.Duration(stores(s))
	return min(readWait(ctx), noLimit/n) * n
}

// stores returns how many there are in a store, which may have layers.
func stores(s Store) (n int) {
	l, layers := s.(*Layered)
	if !layers {
		return 1
	}
	for _, ly := range l.layers {
		n += stores(ly.Store)
	}
	return max(1, n)
}

// laneOf returns the lane in which an artifact is read: that of the layer that it comes from, if there are layers, so that
// one that hangs when it is read keeps nobody from the others.
func (c *Cache) laneOf(a *Artifact) *bounded.Lane { return cmp.Or(a.lane, c.reads) }

// read has f read an artifact that get has returned. A file system may hang long after it has opened
// a file: f goes on without the caller then, and what it returns goes to late. So it reads into memory
// that is nobody else's.
func read[T any](ctx context.Context, c *Cache, a *Artifact, f func(*Artifact) (T, error), late func(T)) (T, error) {
	if a.InMemory() {
		return contain.Value(func() (T, error) { return f(a) })
	}
	return bounded.Do(ctx, c.laneOf(a), readWait(ctx), func(context.Context) (v T, err error) {
		own, err := a.share() // closing a waits for those who read a
		if err != nil {
			return v, err
		}
		defer contain.Close(own)
		return f(own)
	}, late)
}

// readEntry returns the entry in an artifact that get has returned. All of it has been read, and is in memory that is
// nobody else's, but for what is in memory anyway. A store may answer each read just in time, so that all of them together take no
// longer than one may; where there is no compile to fall back to, each may.
func (c *Cache) readEntry(ctx context.Context, a *Artifact, version string, functions int) (*wazerohook.Entry, error) {
	size, late := a.Size()-sealSize, (*wazerohook.Entry).Discard
	if u, ok := a.src.(*unsealed); ok {
		return read(ctx, c, a, func(*Artifact) (*wazerohook.Entry, error) { return u.entry(version, functions) }, late)
	}
	if c.opts.RequireHit && !a.InMemory() {
		e, err := wazerohook.ReadEntry(patientReader{ctx, c, a}, size, version, functions)
		if err != nil {
			return nil, err
		}
		return read(ctx, c, a, func(a *Artifact) (*wazerohook.Entry, error) { return e, e.Fetch(contain.ReaderAt{Src: a}) }, late)
	}
	return read(ctx, c, a, func(a *Artifact) (*wazerohook.Entry, error) {
		src := contain.ReaderAt{Src: a}
		e, err := wazerohook.ReadEntry(src, size, version, functions)
		if err != nil || a.InMemory() {
			return e, err
		}
		return e, e.Fetch(src)
	}, late)
}

// patientReader reads an artifact that get has returned, and waits for each read anew.
type patientReader struct {
	ctx context.Context
	c   *Cache
	a   *Artifact
}

// ReadAt implements [io.ReaderAt].
func (r patientReader) ReadAt(p []byte, off int64) (int, error) {
	own, err := read(r.ctx, r.c, r.a, func(a *Artifact) ([]byte, error) {
		b := make([]byte, len(p))
		n, err := contain.ReaderAt{Src: a}.ReadAt(b, off)
		return b[:n], err
	}, nil)
	return copy(p, own), err
}
