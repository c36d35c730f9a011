package modcache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/bounded"
)

// A directory that fails when it is hardly expected to answer any more is tried again, as one that fails at once is.
func TestCacheWhoseDirectoryFailsLate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	synctest.Test(t, func(t *testing.T) {
		c, err := Open(filepath.Join(file, "dir"), nil) // which can't be had
		require.NoError(t, err)
		if c.unsupported != nil {
			t.Skip("NOT TESTED: a directory that comes late:", c.unsupported)
		}
		fails := errors.New("input/output error")
		_, err = bounded.Do(c.ctx, c.opens, storeWait, func(context.Context) (*Disk, error) {
			time.Sleep(storeWait - bounded.Grace/2)
			return nil, fails
		}, nil)
		require.ErrorIs(t, err, fails)
		require.NoError(t, os.Remove(file))
		time.Sleep(2 * bounded.Pause)
		c.tryDirectory()
		require.IsType(t, &Disk{}, c.Store())
		require.NoError(t, c.Close(t.Context()))
	})
}
