//go:build (linux || darwin || freebsd || netbsd || dragonfly) && (amd64 || arm64)

package mapped

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// area is a range of addresses.
type area struct {
	start unsafe.Pointer
	size  uint64
}

// reserve takes addresses, and no memory.
func reserve(size uint64) (area, error) {
	page := uint64(os.Getpagesize())
	size = max(page, (size+page-1)/page*page)
	start, err := unix.MmapPtr(-1, 0, nil, uintptr(size), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return area{}, fmt.Errorf("reserve %d bytes of addresses: %w", size, err)
	}
	return area{start, size}, nil
}

func (a area) bytes(size uint64) []byte { return unsafe.Slice((*byte)(a.start), size)[:size:size] }

// commit makes the bytes between two places usable.
func (a area) commit(from, to uint64) error {
	if from >= to {
		return nil
	}
	if err := unix.Mprotect(a.bytes(to)[from:], unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return fmt.Errorf("commit %d bytes of memory: %w", to-from, err)
	}
	return nil
}

// mapImage puts the image where the area begins. What is written stays in the area.
func (a area) mapImage(image *Image) error { return a.place(image.size, int(image.file.Fd()), 0) }

// discard replaces the first size bytes by zeros, which take no memory.
func (a area) discard(size uint64) error {
	if size == 0 {
		return nil
	}
	return a.place(size, -1, unix.MAP_ANON)
}

func (a area) place(size uint64, fd, flags int) error {
	_, err := unix.MmapPtr(fd, 0, a.start, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED|flags)
	if err != nil {
		return fmt.Errorf("map %d bytes of memory: %w", size, err)
	}
	return nil
}

func (a area) release() {
	if a.start != nil {
		_ = unix.MunmapPtr(a.start, uintptr(a.size))
	}
}
