//go:build amd64 || arm64

package mapped

import "golang.org/x/sys/unix"

// restore gives the memory of the first size bytes back, so that they are what was mapped there: an image, and
// zeros behind that. It reports false if the kernel doesn't do that, as for pages that are locked.
func (a area) restore(size uint64) bool {
	return size == 0 || unix.Madvise(a.bytes(size), unix.MADV_DONTNEED) == nil
}
