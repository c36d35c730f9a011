package modcache

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/layout"
)

// countedFile counts what is done to it.
type countedFile struct {
	*bytes.Reader
	reads, closes atomic.Int32
}

func (f *countedFile) ReadAt(p []byte, off int64) (int, error) {
	f.reads.Add(1)
	return f.Reader.ReadAt(p, off)
}

func (f *countedFile) Close() error {
	f.closes.Add(1)
	return nil
}

func TestArtifactIsReleasedWithItsLastHandle(t *testing.T) {
	f := &countedFile{Reader: bytes.NewReader([]byte("machine code"))}
	first := NewArtifactFrom(f, 12, Info{Engine: "e"})
	var handles []*Artifact
	for range 8 {
		h, err := first.share()
		require.NoError(t, err)
		handles = append(handles, h)
	}
	require.NoError(t, errors.Join(first.Close(), first.Close()))
	_, err := first.share()
	require.ErrorIs(t, err, ErrClosed)
	_, err = first.Bytes()
	require.ErrorIs(t, err, ErrClosed)

	var wg sync.WaitGroup
	for _, h := range handles {
		wg.Go(func() {
			b, err := h.Bytes()
			require.NoError(t, err)
			require.Equal(t, "machine code", string(b))
			require.Equal(t, "e", h.Info().Engine)
			require.Zero(t, f.closes.Load())
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, f.reads.Load(), "handles share what was read")
	for _, h := range handles {
		wg.Go(func() { require.NoError(t, errors.Join(h.Close(), h.Close())) })
	}
	wg.Wait()
	require.EqualValues(t, 1, f.closes.Load())
}

func TestArtifactInMemoryIsShared(t *testing.T) {
	a := NewArtifact([]byte("x"), Info{})
	h, err := a.share()
	require.NoError(t, err)
	require.Same(t, a, h)
}

// shortReader breaks the rule that a short read comes with an error.
type shortReader struct{}

func (shortReader) ReadAt(p []byte, _ int64) (int, error) { return len(p) / 2, nil }

func TestArtifactShortReadIsAnError(t *testing.T) {
	a := NewArtifactFrom(shortReader{}, 100, Info{})
	_, err := a.ReadAt(make([]byte, 100), 0)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = a.Bytes()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// TestArtifactIsVerifiedForEachUse has one kept that a Disk or an FSStore has returned, while its file is damaged.
func TestArtifactIsVerifiedForEachUse(t *testing.T) {
	dir, key := t.TempDir(), Key{1}
	d, err := OpenDisk(dir, nil)
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.Add(t.Context(), key, NewArtifact(make([]byte, 1<<20), Info{})))
	files, err := OpenFS(os.DirFS(dir), nil)
	require.NoError(t, err)
	kept := map[string]*Artifact{}
	for name, s := range map[string]Store{"disk": d, "fs": files} {
		kept[name], _, err = s.Get(t.Context(), key)
		require.NoError(t, err)
		defer kept[name].Close()
		used, err := sealedCopy(key, kept[name], maxCode)
		require.NoError(t, err)
		_, err = used.ReadAt(make([]byte, 10), 0)
		require.NoError(t, err)
	}
	entry := filepath.Join(dir, layout.Entry(key))
	b, err := os.ReadFile(entry)
	require.NoError(t, err)
	b[len(b)-1<<20] ^= 1
	require.NoError(t, os.WriteFile(entry, b, 0))
	for name, a := range kept {
		used, err := sealedCopy(key, a, maxCode)
		require.NoError(t, err)
		_, err = used.ReadAt(make([]byte, 10), 0)
		require.ErrorIs(t, err, ErrCorrupt, name)
	}
}
