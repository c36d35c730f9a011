//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package dirfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// maxInterrupts is how often in a row a lock is tried that a signal interrupts, as a file system may claim for ever.
const maxInterrupts = 100

func tryLock(f *os.File) (bool, error) { return tryFlock(f, unix.Flock) }

func tryFlock(f *os.File, flock func(fd, how int) error) (bool, error) {
	var err error
	for range maxInterrupts {
		err = flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return false, nil
	}
	return false, os.NewSyscallError("flock", err)
}
