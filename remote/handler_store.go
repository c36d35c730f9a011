package remote

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
)

// This file is how a handler uses its store, which may hang: no request waits for that for long, and few hang with it.

const (
	patience       = 5 * time.Second  // for what reads
	changePatience = 30 * time.Second // for what changes

	maxReads = 256 // at once, those included that were given up
)

// find returns the artifact under key, or nil.
func find(ctx context.Context, reads *bounded.Lane, s modcache.Store, key modcache.Key) (*modcache.Artifact, error) {
	return bounded.Do(ctx, reads, patience, func(ctx context.Context) (*modcache.Artifact, error) {
		a, ok, err := s.Get(ctx, key)
		if err != nil || !ok {
			return nil, err
		}
		return a, nil
	}, func(late *modcache.Artifact) {
		if late != nil {
			_ = late.Close()
		}
	})
}

// release closes an artifact that find has returned, if any.
func (h *Handler) release(a *modcache.Artifact) {
	if a != nil {
		_ = h.reads.GiveBack(patience, a.Close)
	}
}

// change makes a call that changes the store.
func (h *Handler) change(ctx context.Context, f func(context.Context) error) error {
	_, err := bounded.Do(ctx, h.writes, changePatience, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) }, nil)
	return err
}

// hangs reports whether an error says that the store doesn't answer.
func hangs(err error) bool {
	return errors.Is(err, bounded.ErrHangs) || errors.Is(err, bounded.ErrNoAnswer) || errors.Is(err, bounded.ErrFull)
}

// section returns a reader of an artifact that find has returned.
func section(ctx context.Context, reads *bounded.Lane, a *modcache.Artifact) *io.SectionReader {
	var r io.ReaderAt = a
	if !a.InMemory() {
		r = reader{ctx, reads, a}
	}
	return io.NewSectionReader(r, 0, a.Size())
}

// reader reads an artifact of a file system that may hang: its buffers are then left to that.
type reader struct {
	ctx   context.Context
	reads *bounded.Lane
	a     *modcache.Artifact
}

// ReadAt implements [io.ReaderAt].
func (r reader) ReadAt(p []byte, off int64) (int, error) {
	got, err := bounded.Do(r.ctx, r.reads, patience, func(context.Context) ([]byte, error) {
		b := make([]byte, len(p))
		n, err := r.a.ReadAt(b, off)
		return b[:n], err
	}, nil)
	return copy(p, got), err
}
