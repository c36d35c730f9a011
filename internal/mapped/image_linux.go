package mapped

import (
	"bytes"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// holes reports whether a file of anonymousFile may have some. In memory they cost nothing, and no file system can
// be full. But where the kernel never promises more memory than there is, it may refuse the page for one that is read, by a
// SIGBUS.
func holes() bool {
	b, err := os.ReadFile("/proc/sys/vm/overcommit_memory")
	return err == nil && !strict(b)
}

func strict(overcommit []byte) bool { return string(bytes.TrimSpace(overcommit)) == "2" }

// anonymousFile returns a file in memory. An old kernel or a strict sandbox has none. It is not looked for on a file system,
// which may be full, or a server that goes.
func anonymousFile() (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("modcache image", flags|unix.MFD_NOEXEC_SEAL) // without which hardened systems have none
	if errors.Is(err, unix.EINVAL) {                                          // before Linux 6.3
		fd, err = unix.MemfdCreate("modcache image", flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "modcache image"), nil
}

// seal has the kernel refuse every change of the file, where it can.
func seal(f *os.File) {
	_, _ = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
}

// noReserve has the kernel count private memory by the pages that are used, unless it counts strictly.
const noReserve = unix.MAP_NORESERVE
