//go:build unix

package wazerohook

import (
	"os"

	"golang.org/x/sys/unix"
)

// tryExecutableMemory does what wazero does with each module's code: it writes to a page and
// then makes that executable.
func tryExecutableMemory() error {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil // it is memory that is short
	}
	defer func() { _ = unix.Munmap(page) }()
	page[0] = 0
	return os.NewSyscallError("mprotect", unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC))
}
