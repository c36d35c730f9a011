package modcache_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
)

// countedSource counts what is done to it.
type countedSource struct {
	*bytes.Reader
	reads, closes atomic.Int64
}

func (s *countedSource) ReadAt(p []byte, off int64) (int, error) {
	s.reads.Add(1)
	return s.Reader.ReadAt(p, off)
}

func (s *countedSource) Close() error {
	s.closes.Add(1)
	return nil
}

func artifacts(b []byte) map[string]*modcache.Artifact {
	return map[string]*modcache.Artifact{
		"memory": modcache.NewArtifact(bytes.Clone(b), diskInfo),
		"file":   modcache.NewArtifactFrom(bytes.NewReader(b), int64(len(b)), diskInfo),
	}
}

func TestArtifactReads(t *testing.T) {
	for _, size := range []int{0, 1, 100, 300_000} {
		b := diskCode(1, size)
		for name, a := range artifacts(b) {
			t.Run(name, func(t *testing.T) {
				require.Equal(t, diskInfo, a.Info())
				require.EqualValues(t, size, a.Size())
				require.Equal(t, name == "memory", a.InMemory())
				got, err := a.Bytes()
				require.NoError(t, err)
				require.True(t, bytes.Equal(b, got))

				var out bytes.Buffer
				n, err := a.WriteTo(&out)
				require.NoError(t, err)
				require.EqualValues(t, size, n)
				require.True(t, bytes.Equal(b, out.Bytes()))

				require.NoError(t, iotest.TestReader(io.NewSectionReader(a, 0, a.Size()), b))
				p := make([]byte, 10)
				n2, err := a.ReadAt(p, int64(size))
				require.Zero(t, n2)
				require.Equal(t, io.EOF, err)
				n2, err = a.ReadAt(nil, int64(size)+5)
				require.Zero(t, n2)
				require.NoError(t, err)
				_, err = a.ReadAt(p, -1)
				require.Error(t, err)
				if size > 0 {
					n2, err = a.ReadAt(p[:2], int64(size)-1)
					require.Equal(t, 1, n2)
					require.Equal(t, io.EOF, err)
					require.Equal(t, b[size-1], p[0])
				}
				failing := errors.New("failing")
				if size > 0 {
					_, err = a.WriteTo(writerFunc(func([]byte) (int, error) { return 0, failing }))
					require.ErrorIs(t, err, failing)
				}
			})
		}
	}
	require.Zero(t, modcache.NewArtifact(nil, modcache.Info{}).Size())
	require.True(t, modcache.NewArtifact(nil, modcache.Info{}).InMemory())
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestArtifactClose(t *testing.T) {
	src := &countedSource{Reader: bytes.NewReader([]byte("machine code"))}
	a := modcache.NewArtifactFrom(src, 12, modcache.Info{})
	b, err := a.Bytes()
	require.NoError(t, err)
	again, err := a.Bytes()
	require.NoError(t, err)
	require.Same(t, &b[0], &again[0])
	require.EqualValues(t, 1, src.reads.Load(), "a file is read once")

	require.NoError(t, a.Close())
	require.NoError(t, a.Close())
	require.EqualValues(t, 1, src.closes.Load())
	_, err = a.ReadAt(make([]byte, 3), 0)
	require.ErrorIs(t, err, modcache.ErrClosed)
	_, err = a.WriteTo(io.Discard)
	require.ErrorIs(t, err, modcache.ErrClosed)

	m := modcache.NewArtifact([]byte("x"), modcache.Info{})
	require.NoError(t, m.Close())
	b, err = m.Bytes()
	require.NoError(t, err)
	require.Equal(t, "x", string(b))
}

func TestArtifactUsedByMany(t *testing.T) {
	src := &countedSource{Reader: bytes.NewReader(diskCode(2, 100_000))}
	a := modcache.NewArtifactFrom(src, 100_000, modcache.Info{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				var err error
				switch i % 3 {
				case 0:
					_, err = a.ReadAt(make([]byte, 1000), 500)
				case 1:
					_, err = a.Bytes()
				case 2:
					_, err = a.WriteTo(io.Discard)
				}
				if err != nil && !errors.Is(err, modcache.ErrClosed) {
					t.Error(err)
				}
			}
			if i == 0 {
				if err := a.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, src.closes.Load())
}

// A source that returns less than its size must not pass for one that is all there.
func TestArtifactShortOfItsSize(t *testing.T) {
	for name, src := range map[string]io.ReaderAt{
		"end":      strings.NewReader("short"),
		"no error": storetest.Source{OnRead: func(p []byte, _ int64) (int, error) { return len(p) / 2, nil }},
		"nothing":  storetest.Source{OnRead: func([]byte, int64) (int, error) { return 0, nil }},
	} {
		t.Run(name, func(t *testing.T) {
			a := modcache.NewArtifactFrom(src, 100, modcache.Info{})
			_, err := a.ReadAt(make([]byte, 100), 0)
			require.Error(t, err)
			require.NotEqual(t, io.EOF, err, "would pass for the end")
			_, err = a.Bytes()
			require.Error(t, err)
			var out bytes.Buffer
			_, err = a.WriteTo(&out)
			require.Error(t, err, "a copy would be cut short")
		})
	}
}

// The sentinel of a source reaches whoever reads, however it reads.
func TestArtifactPassesErrorsOn(t *testing.T) {
	for _, want := range []error{modcache.ErrCorrupt, modcache.ErrAuth, errInjected} {
		a := modcache.NewArtifactFrom(storetest.Source{OnRead: func([]byte, int64) (int, error) { return 0, want }}, 10, modcache.Info{})
		_, err := a.ReadAt(make([]byte, 1), 0)
		require.ErrorIs(t, err, want)
		_, err = a.Bytes()
		require.ErrorIs(t, err, want)
		_, err = a.WriteTo(io.Discard)
		require.ErrorIs(t, err, want)
	}
}

// TestArtifactOfAnImpossibleSize is damaged, and no reason to panic.
func TestArtifactOfAnImpossibleSize(t *testing.T) {
	for _, size := range []int64{-1, math.MinInt64, 1 << 40, math.MaxInt64} {
		a := modcache.NewArtifactFrom(strings.NewReader("code"), size, modcache.Info{})
		_, err := a.Bytes()
		require.ErrorIs(t, err, modcache.ErrCorrupt)
		for _, s := range []modcache.Store{modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: math.MaxInt64}), openDisk(t, t.TempDir(), nil)} {
			require.Error(t, s.Add(bg, keyNo(1), a))
			require.Zero(t, s.Metrics().Entries)
		}
	}
}
