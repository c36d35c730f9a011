//go:build unix

package wazerohook

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tryExecutableMemory does what wazero does with each module's code, short of writing any: it makes a page of
// memory executable that could be written to.
func tryExecutableMemory() error {
	size := uintptr(os.Getpagesize())
	page, err := unix.MmapPtr(-1, 0, nil, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil // it is memory that is short
	}
	defer func() { _ = unix.MunmapPtr(page, size) }()
	err = unix.Mprotect(unsafe.Slice((*byte)(page), size), unix.PROT_READ|unix.PROT_EXEC)
	if err == unix.ENOMEM {
		return nil
	}
	return os.NewSyscallError("mprotect", err)
}
