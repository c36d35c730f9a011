//go:build (linux || darwin || freebsd || netbsd || dragonfly) && (amd64 || arm64)

package mapped

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
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

// What the areas take that are mapped.
var (
	mappings = share{what: "mappings", limit: sync.OnceValue(func() int64 {
		const usual = 65530
		b, _ := os.ReadFile("/proc/sys/vm/max_map_count")
		most, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
		if err != nil {
			most = usual
		}
		return most
	})}
	addresses = share{what: "bytes of addresses", limit: func() int64 { return limitOf(unix.RLIMIT_AS) }, used: addressSpace}
)

// reserve takes addresses, and no memory. If it is for the whole, what is committed later counts as memory
// only when it is used, where the system can do that.
func reserve(size uint64, whole bool) (_ area, err error) {
	size = wholeArea(size)
	if dataLimited() {
		return area{}, errData
	}
	if err := mappings.take(perArea); err != nil {
		return area{}, err
	}
	if err := addresses.take(int64(size)); err != nil {
		mappings.give(perArea)
		return area{}, err
	}
	defer func() {
		if err != nil {
			area{size: size}.giveBack()
		}
	}()
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

// dataLimited reports whether the process may have only so many bytes that it can write. Linux counts what is mapped, touched or
// not: idle memories would take what Go's heap needs, which is given back where it isn't used.
var dataLimited = sync.OnceValue(func() bool { return runtime.GOOS == "linux" && limitOf(unix.RLIMIT_DATA) != noLimit })

var errData = errors.New("the process has a limit of writable memory (RLIMIT_DATA), which mapped memories would take")

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

func (a area) nowhere() bool { return a.start == nil }

func (a area) release() {
	if a.start != nil {
		_ = unix.MunmapPtr(a.start, uintptr(a.size))
		a.giveBack()
	}
}

func (a area) giveBack() {
	mappings.give(perArea)
	addresses.give(int64(a.size))
}
