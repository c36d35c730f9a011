package dirfs

import (
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func allocate(f *os.File, size int64) error {
	return os.NewSyscallError("fallocate", unix.Fallocate(int(f.Fd()), 0, 0, size))
}

// isOwner reports whether an open file belongs to the user of this process, whatever
// numbers the user namespace shows: only its owner may set the flag.
func isOwner(f *os.File) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	owner := false
	err = conn.Control(func(fd uintptr) {
		flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if err == nil {
			_, err = unix.FcntlInt(fd, unix.F_SETFL, flags|unix.O_NOATIME)
		}
		owner = err == nil
	})
	return err == nil && owner
}

// isIDMapped reports whether path is on a mount that shows other owners than the file system has, or may be.
func isIDMapped(path string) bool {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st); err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return false // such a kernel has none
	}
	mounts, _ := readProc("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 5 && fields[0] == strconv.FormatUint(st.Mnt_id, 10) {
			return slices.Contains(strings.Split(fields[5], ","), "idmapped")
		}
	}
	return true
}

// isUnion reports whether a directory is on a file system that is made of several, or may be.
func isUnion(dir *os.File) bool {
	const aufs = 0x61756673
	conn, err := dir.SyscallConn()
	if err != nil {
		return false
	}
	var st unix.Statfs_t
	_ = conn.Control(func(fd uintptr) { err = unix.Fstatfs(int(fd), &st) })
	switch int64(st.Type) {
	case unix.OVERLAYFS_SUPER_MAGIC, aufs, unix.FUSE_SUPER_MAGIC: // fuse-overlayfs, for example
		return err == nil
	}
	return false
}

// openBeneath opens a file below a directory in one call, if the kernel can do that.
func openBeneath(dir *os.File, name string, flag int) (*os.File, error) {
	conn, err := dir.SyscallConn()
	if err != nil {
		return nil, err
	}
	how := unix.OpenHow{Flags: uint64(flag | unix.O_CLOEXEC), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, opened := -1, error(nil)
	if err := conn.Control(func(dir uintptr) { fd, opened = unix.Openat2(int(dir), name, &how) }); err != nil {
		return nil, err
	}
	if opened != nil {
		return nil, &fs.PathError{Op: "openat2", Path: name, Err: opened}
	}
	return os.NewFile(uintptr(fd), name), nil
}
