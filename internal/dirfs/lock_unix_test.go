//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package dirfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A file system that is interrupted again and again isn't asked for ever, and one that is interrupted
// now and then isn't given up.
func TestLockInterrupted(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	require.NoError(t, err)
	defer f.Close()
	n := 0
	interrupted := func(times int) func(int, int) error {
		n = 0
		return func(fd, how int) error {
			if n++; n <= times {
				return unix.EINTR
			}
			return unix.Flock(fd, how)
		}
	}
	got, err := tryFlock(f, interrupted(3))
	require.NoError(t, err)
	require.True(t, got)
	got, err = tryFlock(f, interrupted(1e6))
	require.ErrorIs(t, err, unix.EINTR)
	require.False(t, got)
	require.Less(t, n, 1000)
}
