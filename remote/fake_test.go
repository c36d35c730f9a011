package remote_test

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/remote"
)

// fake is a Backend in memory whose operations tests replace.
type fake struct {
	mu      sync.Mutex
	entries map[modcache.Key][]byte
	calls   []string

	get func(ctx context.Context, k modcache.Key) (io.ReadCloser, error)
	has func(ctx context.Context, k modcache.Key) (bool, error)
	put func(ctx context.Context, k modcache.Key, entry []byte, replace bool) error
}

func newFake() *fake { return &fake{entries: map[modcache.Key][]byte{}} }

func (f *fake) called(op string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, op)
}

// took returns the operations since it was last asked.
func (f *fake) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.calls
	f.calls = nil
	return c
}

func (f *fake) entry(k modcache.Key) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.entries[k]
}

func (f *fake) Get(ctx context.Context, k modcache.Key) (io.ReadCloser, error) {
	f.called("get")
	if f.get != nil {
		return f.get(ctx, k)
	}
	b := f.entry(k)
	if b == nil {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (f *fake) Has(ctx context.Context, k modcache.Key) (bool, error) {
	f.called("has")
	if f.has != nil {
		return f.has(ctx, k)
	}
	return f.entry(k) != nil, nil
}

func (f *fake) Put(ctx context.Context, k modcache.Key, entry []byte, replace bool) error {
	if replace {
		f.called("replace")
	} else {
		f.called("put")
	}
	if f.put != nil {
		if err := f.put(ctx, k, entry, replace); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries[k] = bytes.Clone(entry)
	return nil
}

func (f *fake) Delete(_ context.Context, k modcache.Key) error {
	f.called("delete")
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.entries, k)
	return nil
}

func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func over(t testing.TB, b remote.Backend, o remote.Options) *remote.Store {
	t.Helper()
	s, err := remote.NewWithBackend(b, "a fake", &o)
	require.NoError(t, err)
	return s
}

// entry returns an artifact of size bytes as it is on a server.
func entry(t testing.TB, o remote.Options, k modcache.Key, size int) []byte {
	t.Helper()
	return entryOf(t, o, k, code(size), info)
}

func entryOf(t testing.TB, o remote.Options, k modcache.Key, b []byte, info modcache.Info) []byte {
	t.Helper()
	f := newFake()
	s := over(t, f, o)
	require.NoError(t, s.Add(context.Background(), k, modcache.NewArtifact(b, info)))
	require.NoError(t, s.Flush(context.Background()))
	require.NoError(t, s.Close())
	return f.entry(k)
}

// trickle yields n bytes, then waits, over and over, until its context ends.
type trickle struct {
	ctx   context.Context
	b     []byte
	n     int
	pause time.Duration
}

func (r *trickle) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(r.pause):
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	}
	n := copy(p, r.b[:min(len(r.b), r.n)])
	r.b = r.b[n:]
	return n, nil
}

func (r *trickle) Close() error { return nil }

// took measures by the clock of a synctest bubble.
func took(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}
