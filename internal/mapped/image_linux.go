package mapped

import (
	"os"

	"golang.org/x/sys/unix"
)

// anonymousFile returns a file in memory.
func anonymousFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("modcache image", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return unlinkedFile() // an old kernel, or a strict sandbox
	}
	return os.NewFile(uintptr(fd), "modcache image"), nil
}

// seal has the kernel refuse every change of the file, where it can.
func seal(f *os.File) {
	_, _ = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
}

// noReserve has the kernel count private memory by the pages that are used, unless it counts strictly.
const noReserve = unix.MAP_NORESERVE
