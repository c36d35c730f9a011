//go:build unix

package dirfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// NonBlock is a flag of OpenFile that keeps a FIFO in the place of a file from blocking its reader.
const NonBlock = syscall.O_NONBLOCK

// Check refuses a directory that somebody else could put code into. fi is what Lstat says
// of dir, an absolute path.
func Check(dir string, fi fs.FileInfo, readOnly bool) error {
	if !fi.IsDir() {
		return fmt.Errorf("it is not a directory but %v; name the real directory", fi.Mode().Type())
	}
	if perm := fi.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("it can be written by others (%v); chmod 700 it", perm)
	}
	owner, me := ownerOf(fi), uint32(os.Geteuid())
	// Root may do anything anyway, so that its directories are safe to read.
	if owner != me && (!readOnly || owner != 0) {
		return fmt.Errorf("it belongs to user %d, not to user %d; use a directory of your own", owner, me)
	}
	above, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return err
	}
	for parent := above; ; parent = filepath.Dir(parent) {
		fi, err := os.Stat(parent)
		if err != nil {
			return err
		}
		if owner := ownerOf(fi); owner != me && owner != 0 {
			return fmt.Errorf("%s above it belongs to user %d, who could replace it", parent, owner)
		}
		if fi.Mode().Perm()&0o002 != 0 && fi.Mode()&fs.ModeSticky == 0 {
			return fmt.Errorf("%s above it can be written by everybody", parent)
		}
		if parent == filepath.Dir(parent) {
			return nil
		}
	}
}

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

func ownerOf(fi fs.FileInfo) uint32 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Uid
	}
	return uint32(os.Geteuid())
}
