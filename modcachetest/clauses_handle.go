package modcachetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/modcache/modcache"
)

// source is what a file-backed artifact reads, with its closing observed and
// its reading made to fail.
type source struct {
	*bytes.Reader
	closed atomic.Int32
	fail   error // of reads that go past the first half
}

func (s *source) ReadAt(p []byte, off int64) (int, error) {
	if s.closed.Load() > 0 {
		return 0, errors.New("read after close")
	}
	if half := s.Size() / 2; s.fail != nil && off+int64(len(p)) > half {
		n := 0
		if off < half {
			n, _ = s.Reader.ReadAt(p[:half-off], off)
		}
		return n, s.fail
	}
	return s.Reader.ReadAt(p, off)
}

func (s *source) Close() error {
	s.closed.Add(1)
	return nil
}

// handleClauses are about artifacts and who closes them.
var handleClauses = []clause{
	{name: "artifact-reads-like-an-io.ReaderAt", check: func(e *env) error {
		key, b, err := e.stored(10_000)
		if err != nil {
			return err
		}
		a, err := e.get(e.ctx, key)
		if a == nil {
			return errors.Join(err, e.has(key))
		}
		defer func() { _ = a.Close() }()
		return errors.Join(readsAs(a, b), readsAs(a, b))
	}},

	{name: "handles-are-closed-one-by-one", check: func(e *env) error {
		key, b, err := e.stored(5000)
		if err != nil {
			return err
		}
		first, err := e.get(e.ctx, key)
		second, err2 := e.get(e.ctx, key)
		if first == nil || second == nil {
			return errors.Join(err, err2, e.has(key))
		}
		if err := errors.Join(first.Close(), first.Close()); err != nil {
			return fmt.Errorf("Close, called twice: %w", err)
		}
		if err := readsAs(second, b); err != nil {
			return fmt.Errorf("after another handle was closed: %w", err)
		}
		return errors.Join(second.Close(), e.has(key, b))
	}},

	{name: "handle-outlives-the-context-of-its-get", check: func(e *env) error {
		key, b, err := e.stored(5000)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(e.ctx)
		a, err := e.get(ctx, key)
		cancel()
		if a == nil {
			return errors.Join(err, e.has(key))
		}
		return errors.Join(readsAs(a, b), a.Close())
	}},

	{name: "handle-never-reads-what-came-later", check: func(e *env) error {
		key := keyOf(1)
		size := min(5000, e.o.MaxSize)
		b, later := payload(key, 1, size), payload(key, 2, size)
		if err := e.add(key, b); err != nil {
			return err
		}
		a, err := e.get(e.ctx, key)
		if a == nil {
			return errors.Join(err, e.has(key))
		}
		defer func() { _ = a.Close() }()
		if err := errors.Join(e.s.Delete(e.ctx, key), e.add(key, later)); err != nil {
			return err
		}
		// It may fail, but what it returns is what it always was.
		if got, err := a.Bytes(); err == nil && !bytes.Equal(got, b) {
			return errors.New("a handle's bytes changed when its entry was deleted and added anew")
		}
		return e.has(key, later)
	}},

	{name: "add-leaves-the-handle-to-the-caller", check: func(e *env) error {
		key := keyOf(1)
		b := payload(key, 0, min(5000, e.o.MaxSize))
		src := &source{Reader: bytes.NewReader(b)}
		a := modcache.NewArtifactFrom(src, int64(len(b)), infoOf(int64(len(b))))
		if err := e.s.Add(e.ctx, key, a); err != nil {
			return fmt.Errorf("Add of an artifact behind a file: %w", err)
		}
		if err := readsAs(a, b); err != nil {
			return fmt.Errorf("the caller's handle after Add: %w", err)
		}
		if err := errors.Join(a.Close(), e.settle(), e.has(key, b)); err != nil {
			return fmt.Errorf("after the caller closed its handle: %w", err)
		}
		return nil
	}},

	{name: "add-does-not-modify-the-bytes", check: func(e *env) error {
		key := keyOf(1)
		b := payload(key, 0, min(5000, e.o.MaxSize))
		theirs := bytes.Clone(b)
		if err := e.s.Add(e.ctx, key, modcache.NewArtifact(theirs, infoOf(int64(len(b))))); err != nil {
			return err
		}
		if err := errors.Join(e.settle(), e.has(key, b)); err != nil {
			return err
		}
		if !bytes.Equal(theirs, b) {
			return errors.New("the store modified the bytes of an artifact that was added")
		}
		return nil
	}},

	{name: "unreadable-artifact-is-not-stored", check: func(e *env) error {
		for i, fail := range []error{errors.New("injected read error"), io.EOF} {
			key := keyOf(i)
			b := payload(key, 0, min(5000, e.o.MaxSize))
			a := modcache.NewArtifactFrom(&source{Reader: bytes.NewReader(b), fail: fail}, int64(len(b)), infoOf(int64(len(b))))
			err := e.s.Add(e.ctx, key, a)
			_ = a.Close()
			if e.o.Deferred {
				err = errors.Join(err, e.s.Flush(e.ctx))
			}
			if err == nil && !e.o.MayEvict {
				return fmt.Errorf("Add of an artifact that fails to read (%v) returned nil", fail)
			}
			a, err = e.get(e.ctx, key)
			if err != nil {
				return err
			}
			if a != nil { // on its way still: then it must fail to read here too
				if _, err := a.Bytes(); err == nil {
					return errors.New("an artifact that fails to read was stored, with other bytes")
				}
				_ = a.Close()
			}
			if err := errors.Join(e.add(key, b), e.has(key, b)); err != nil {
				return fmt.Errorf("adding it soundly afterwards: %w", err)
			}
		}
		return nil
	}},

	{name: "damaged-entry-is-a-miss-and-heals", needs: func(o *Options) bool { return o.Damage != nil }, check: func(e *env) error {
		key := keyOf(1)
		b := payload(key, 0, min(5000, e.o.MaxSize))
		if err := errors.Join(e.add(key, b), e.s.Flush(e.ctx)); err != nil {
			return err
		}
		before := e.s.Metrics()
		e.o.Damage(e.tb, e.s, key)
		a, err := e.get(e.ctx, key)
		if err != nil {
			return fmt.Errorf("of a damaged entry, which is a miss: %w", err)
		}
		if a != nil { // found to be damaged only when it is read
			got, err := a.Bytes()
			switch {
			case err == nil && bytes.Equal(got, b):
				return errors.New("the damage had no effect, so that nothing was tested")
			case err == nil:
				return errors.New("damaged bytes were returned as if intact")
			case !errors.Is(err, modcache.ErrCorrupt) && !errors.Is(err, modcache.ErrAuth):
				return fmt.Errorf("reading a damaged entry failed with %w, want ErrCorrupt or ErrAuth", err)
			}
			_ = a.Close()
		}
		d, err := e.s.Metrics().Sub(before)
		if err != nil {
			return err
		}
		if d.Corrupt == 0 {
			return errors.New("the damage was not counted in Metrics.Corrupt")
		}
		if err := errors.Join(e.add(key, b), e.has(key, b)); err != nil {
			return fmt.Errorf("adding the entry anew: %w", err)
		}
		return nil
	}},

	{name: "closed-store-answers-ErrClosed", check: func(e *env) error {
		c, ok := e.s.(io.Closer)
		if !ok {
			return nil
		}
		key := keyOf(1)
		if err := e.add(key, payload(key, 0, min(500, e.o.MaxSize))); err != nil {
			return err
		}
		if err := c.Close(); err != nil {
			return fmt.Errorf("Close: %w", err)
		}
		a, ok, err := e.s.Get(e.ctx, key)
		if ok || a != nil {
			return errors.New("Get on a closed store is a hit")
		}
		for op, err := range map[string]error{
			"Get":    err,
			"Add":    e.s.Add(e.ctx, keyOf(2), artifactOf([]byte("x"))),
			"Delete": e.s.Delete(e.ctx, key),
			"Flush":  e.s.Flush(e.ctx),
		} {
			if !errors.Is(err, modcache.ErrClosed) {
				return fmt.Errorf("%s on a closed store returned %v, want ErrClosed", op, err)
			}
		}
		e.s.Metrics() // must not panic
		return nil
	}},
}

// readsAs reads a in several ways and compares.
func readsAs(a *modcache.Artifact, want []byte) error {
	if a.Size() != int64(len(want)) {
		return fmt.Errorf("the artifact's Size is %d, want %d", a.Size(), len(want))
	}
	size := a.Size()
	for _, at := range []struct{ off, n int64 }{{0, size}, {0, 1}, {size - 1, 1}, {size / 3, size / 3}, {0, 0}} {
		p := make([]byte, at.n)
		if n, err := a.ReadAt(p, at.off); err != nil || int64(n) != at.n {
			return fmt.Errorf("ReadAt of %d bytes at %d returned %d, %v", at.n, at.off, n, err)
		}
		if !bytes.Equal(p, want[at.off:at.off+at.n]) {
			return fmt.Errorf("ReadAt of %d bytes at %d returned other bytes", at.n, at.off)
		}
	}
	p := make([]byte, 10)
	if n, err := a.ReadAt(p, size-1); n != 1 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("ReadAt past the end returned %d, %v, want 1, EOF", n, err)
	}
	if n, err := a.ReadAt(p, size); n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("ReadAt at the end returned %d, %v, want 0, EOF", n, err)
	}
	var buf bytes.Buffer
	if n, err := a.WriteTo(&buf); err != nil || n != size || !bytes.Equal(buf.Bytes(), want) {
		return fmt.Errorf("WriteTo wrote %d bytes (error: %v) or other bytes", n, err)
	}
	got, err := a.Bytes()
	if err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("the artifact's Bytes returned %d bytes (error: %v) or other bytes", len(got), err)
	}
	return nil
}
