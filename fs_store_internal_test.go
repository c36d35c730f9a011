package modcache

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
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
