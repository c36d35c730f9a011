package unanswered_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/unanswered"
)

func TestError(t *testing.T) {
	require.NoError(t, unanswered.Error(nil))
	passes := errors.New("it may pass")
	require.Same(t, passes, unanswered.Error(passes))

	_, missing := os.ReadFile(filepath.Join(t.TempDir(), "secret"))
	err := fmt.Errorf("around it: %w", unanswered.Error(fmt.Errorf("secret: %w, %w", missing, context.Canceled)))
	require.ErrorContains(t, err, "secret")
	require.NotErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorAs(t, err, new(*fs.PathError))

	for _, errno := range []syscall.Errno{syscall.ENOENT, syscall.EACCES, syscall.EEXIST} {
		err := unanswered.Error(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)})
		for _, answer := range []error{fs.ErrNotExist, fs.ErrPermission, fs.ErrExist} {
			require.NotErrorIs(t, err, answer)
		}
		require.ErrorAs(t, err, new(*net.OpError))
		require.ErrorIs(t, err, errno)
	}
}
