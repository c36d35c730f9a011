//go:build unix

package dirfs

import (
	"errors"
	"syscall"
)

// NonBlock is a flag of OpenFile that keeps a FIFO in the place of a file from blocking its reader.
const NonBlock = syscall.O_NONBLOCK

// SyncDir implements FS.
func (r *rootFS) SyncDir(name string) error {
	d, err := r.Open(name)
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
