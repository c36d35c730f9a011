//go:build unix

package dirfs

import (
	"errors"
	"syscall"
)

const (
	nonBlock = syscall.O_NONBLOCK // a FIFO in the place of a file or directory must not block who opens it
	onlyDir  = syscall.O_DIRECTORY
)

// SyncDir implements FS.
func (r *rootFS) SyncDir(name string) error {
	d, err := r.openDir(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// IsNoSpace reports whether err means that the file system or a quota is full.
func IsNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// IsNoLock reports whether err means that the file system has no locks.
func IsNoLock(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.ENOLCK)
}
