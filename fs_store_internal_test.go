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

// A Cache reads it where it lies, as it does a Disk: what it verifies isn't copied first. A small entry is in memory by
// then, and is taken as it is only if nobody else has had it.
func TestFSStoreIsReadInPlace(t *testing.T) {
	dir := t.TempDir()
	d, err := OpenDisk(dir, nil)
	require.NoError(t, err)
	ctx := context.Background()
	large, small, short := Key{1}, Key{2}, Key{3}
	require.NoError(t, d.Add(ctx, large, NewArtifact(seal(large, "e", make([]byte, 1<<20)), Info{Engine: "e"})))
	require.NoError(t, d.Add(ctx, small, NewArtifact(seal(small, "e", make([]byte, 1<<10)), Info{Engine: "e"})))
	require.NoError(t, d.Add(ctx, short, NewArtifact(make([]byte, sealSize-1), Info{Engine: "e"})))
	require.NoError(t, d.Close())
	s, err := OpenFS(os.DirFS(dir), nil)
	require.NoError(t, err)
	require.True(t, readsFrames(s))
	for _, c := range []struct {
		key, under Key
		fresh      bool
		same       bool
		err        error
	}{
		{large, large, false, true, nil},
		{large, small, false, false, ErrCorrupt},
		{small, small, true, true, nil},
		{small, small, false, false, nil},
		{small, large, false, false, ErrCorrupt},
		{short, short, true, false, ErrCorrupt},
	} {
		a, ok, err := s.Get(ctx, c.key)
		require.NoError(t, err)
		require.True(t, ok)
		used, err := verify(c.under, "e", a, maxCode, c.fresh)
		require.Equal(t, c.same, used == a, "%+v", c)
		if err == nil {
			_, err = used.ReadAt(make([]byte, 1), 0)
		}
		require.ErrorIs(t, err, c.err, "%+v", c)
		require.NoError(t, a.Close())
	}
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
