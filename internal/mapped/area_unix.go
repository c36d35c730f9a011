//go:build (linux || darwin || freebsd || netbsd || dragonfly) && (amd64 || arm64)

package mapped

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// area is a range of addresses.
type area struct {
	start unsafe.Pointer
	size  uint64
}

// perArea is how many mappings an area may consist of: an image, what is used behind it, and the rest.
const perArea = 3

// live counts the areas that are mapped.
var live atomic.Int64

// mostLive is how many there may be. Where a process has as many mappings as it may have, Go's
// runtime gets no memory either, and ends it. So half of them are left to others.
var mostLive = sync.OnceValue(func() int64 {
	const usual = 65530
	b, _ := os.ReadFile("/proc/sys/vm/max_map_count")
	most, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	if err != nil {
		most = usual
	}
	return most / 2 / perArea
})

// reserve takes addresses, and no memory. If it is for the whole, what is committed later counts as memory
// only when it is used, where the system can do that.
func reserve(size uint64, whole bool) (_ area, err error) {
	if n := live.Add(1); n > mostLive() {
		live.Add(-1)
		return area{}, fmt.Errorf("reserve addresses: there are %d memories, and more would leave too few of the system's mappings to the program", n-1)
	}
	defer func() {
		if err != nil {
			live.Add(-1)
		}
	}()
	size = wholeArea(size)
	flags := unix.MAP_PRIVATE | unix.MAP_ANON
	if whole {
		flags |= noReserve
	}
	start, err := unix.MmapPtr(-1, 0, nil, uintptr(size), unix.PROT_NONE, flags)
	if err != nil {
		return area{}, fmt.Errorf("reserve %d bytes of addresses: %w", size, err)
	}
	return area{start, size}, nil
}

// wholeArea is the size of an area with room for so many bytes.
func wholeArea(size uint64) uint64 {
	page := uint64(os.Getpagesize())
	return max(page, (size+page-1)/page*page)
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

// place maps over the first size bytes. After an error it isn't known what is there: the kernel may have
// unmapped them, and somebody else may have them.
func (a area) place(size uint64, fd, flags int) error {
	_, err := unix.MmapPtr(fd, 0, a.start, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED|flags)
	if err != nil {
		return fmt.Errorf("map %d bytes of memory: %w", size, err)
	}
	return nil
}

// behind is the area without its first bytes.
func (a area) behind(size uint64) area {
	if size == a.size {
		return area{}
	}
	return area{unsafe.Add(a.start, size), a.size - size}
}

func (a area) nowhere() bool { return a.start == nil }

func (a area) release() {
	if a.start != nil {
		_ = unix.MunmapPtr(a.start, uintptr(a.size))
		live.Add(-1)
	}
}
