package modcache

import (
	"context"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"

	"github.com/modcache/modcache/internal/bounded"
)

// A Cache reads it where it lies, as it does a Disk: what it verifies isn't copied first.
func TestFSStoreIsReadInPlace(t *testing.T) {
	dir := t.TempDir()
	d, err := OpenDisk(dir, nil)
	require.NoError(t, err)
	key, code := Key{1}, make([]byte, 1<<20)
	ctx := context.Background()
	require.NoError(t, d.Add(ctx, key, NewArtifact(seal(key, "e", code), Info{Engine: "e"})))
	require.NoError(t, d.Close())
	s, err := OpenFS(os.DirFS(dir), nil)
	require.NoError(t, err)
	a, ok, err := s.Get(ctx, key)
	require.NoError(t, err)
	require.True(t, ok)
	defer a.Close()
	used, err := verify(key, "e", a, maxCode)
	require.NoError(t, err)
	require.Same(t, a, used)
	used, err = verify(Key{2}, "e", a, maxCode)
	require.ErrorIs(t, err, ErrCorrupt, "under another key")
	require.Nil(t, used)
}

// A link that leads out of what fs.Sub shows, to something that blocks who opens it, holds nobody up for good.
func TestFSStoreWaitsForNoLink(t *testing.T) {
	end := make(chan struct{})
	defer close(end)
	d := filesOf{linkedFS{end}, bounded.Limit{Wait: time.Millisecond, Slots: semaphore.NewWeighted(1)}}
	for _, why := range []error{bounded.ErrNoAnswer, bounded.ErrFull} {
		_, err := d.open(Key{1})
		require.ErrorIs(t, err, why)
	}
}

// linkedFS has links to one place, where whoever opens it waits.
type linkedFS struct{ end chan struct{} }

func (l linkedFS) Open(string) (fs.File, error) { <-l.end; return nil, fs.ErrNotExist }

func (linkedFS) ReadLink(string) (string, error) { return "/outside", nil }

func (linkedFS) Lstat(string) (fs.FileInfo, error) { return link{}, nil }

type link struct{ fs.FileInfo }

func (link) Mode() fs.FileMode { return fs.ModeSymlink }
