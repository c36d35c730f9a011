//go:build unix

package dirfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
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
	owner, me, unknown := ownerOf(fi), uint32(os.Geteuid()), unknownUser()
	mine := func(dir string, owner uint32) bool {
		return owner == me && (int64(owner) != unknown || isOwner(dir))
	}
	switch {
	case mine(dir, owner), readOnly && owner == 0 && unknown != 0:
		// Root may do anything anyway, so that its directories are safe to read.
	case int64(owner) == unknown:
		return fmt.Errorf("it belongs to a user that can't be told: %d is whoever the user namespace doesn't map; run as a user that it maps", owner)
	default:
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
		if owner := ownerOf(fi); !mine(parent, owner) && (owner != 0 || unknown == 0) {
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

// unknownUser returns the id that stands for every user whom this process's user namespace
// doesn't map; -1 if it maps all. There are namespaces on Linux only, and a process with
// threads can't change its own.
var unknownUser = sync.OnceValue(func() int64 {
	users, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return -1
	}
	var mapped int64
	for line := range strings.Lines(string(users)) {
		var inside, outside, n int64
		_, _ = fmt.Sscan(line, &inside, &outside, &n)
		mapped += n
	}
	if mapped >= math.MaxUint32 {
		return -1
	}
	if text, err := os.ReadFile("/proc/sys/kernel/overflowuid"); err == nil {
		if id, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
			return id
		}
	}
	return 65534
})

func ownerOf(fi fs.FileInfo) uint32 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Uid
	}
	return uint32(os.Geteuid())
}
