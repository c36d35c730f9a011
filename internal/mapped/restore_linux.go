//go:build amd64 || arm64

package mapped

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// restore gives the memory of the first size bytes back, so that they are what was mapped there: an image, and
// zeros behind that. It reports false if the kernel doesn't do that, as for pages that are locked.
func (a area) restore(size uint64) bool {
	return size == 0 || drops() && unix.Madvise(a.bytes(size), unix.MADV_DONTNEED) == nil
}

// drops finds out, once, whether pages are dropped: qemu-user before 7.1 says so and leaves them as they are.
var drops = sync.OnceValue(func() bool {
	at, err := anonymous(1)
	if err != nil {
		return false
	}
	defer func() { _ = unix.MunmapPtr(at, 1) }()
	page := unsafe.Slice((*byte)(at), 1)
	page[0] = 1
	return unix.Madvise(page, unix.MADV_DONTNEED) == nil && page[0] == 0
})
