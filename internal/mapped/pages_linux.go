package mapped

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a transparent huge page on amd64 and on arm64 with pages of
// 4 KiB. Where it is larger, the advice covers less and does no harm.
const hugePage = 2 << 20

// Pages are memory outside of Go's heap that can change its place without being copied.
type Pages struct {
	start  unsafe.Pointer
	size   uintptr // whole pages, from start
	length int     // bytes in use

	// What was mapped around them, to place them: it stays, as holes would change where the
	// next mapping comes.
	before, behind       unsafe.Pointer
	beforeLen, behindLen uintptr
}

// refused says that the kernel has not moved pages once: no others are made.
var refused atomic.Bool

// NewPages returns memory for n bytes, which are zero. Large ones are made of huge pages.
func NewPages(n int) (*Pages, error) {
	if refused.Load() {
		return nil, ErrUnsupported
	}
	page := uintptr(os.Getpagesize())
	size := (uintptr(n) + page - 1) / page * page
	total := size
	if size >= 2*hugePage {
		total += hugePage
	}
	gap, err := anonymous(total)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of memory: %w", total, err)
	}
	p := &Pages{start: gap, size: size, length: n}
	if total > size {
		// Huge pages are moved as a whole only if they lie in the same way in both places.
		// The next mapping of that size will be where one would be now, most likely.
		p.before, p.beforeLen = gap, (likelyPlace(size)-uintptr(gap))%hugePage
		p.start = unsafe.Add(gap, p.beforeLen)
		p.behind, p.behindLen = unsafe.Add(p.start, size), hugePage-p.beforeLen
		// All of them, though only whole huge pages matter: where the advice ends, the kernel cuts
		// the mapping in two, and before 6.17 it moves nothing that consists of two.
		_ = unix.Madvise(unsafe.Slice((*byte)(p.start), size), unix.MADV_HUGEPAGE)
	}
	return p, nil
}

func anonymous(size uintptr) (unsafe.Pointer, error) {
	return unix.MmapPtr(-1, 0, nil, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
}

// likelyPlace returns where the kernel puts a mapping of that size.
func likelyPlace(size uintptr) uintptr {
	at, err := anonymous(size)
	if err != nil {
		return 0
	}
	_ = unix.MunmapPtr(at, size)
	return uintptr(at)
}

// Bytes returns the memory. It must not be used after MoveTo has succeeded, or Free.
func (p *Pages) Bytes() []byte { return unsafe.Slice((*byte)(p.start), p.length)[:p.length:p.length] }

// MoveTo makes dst consist of the pages, and frees the rest. It succeeds if dst is as long, and is
// exactly what [unix.Mmap] returned, which can be read and written and nobody else uses at the time.
// Else the pages are as they were, and so is dst, but that it may hold zeros. After an error, which
// wraps that of the system, there is no memory at dst.
func (p *Pages) MoveTo(dst []byte) (bool, error) {
	if p.start == nil || len(dst) != p.length || cap(dst) != p.length {
		return false, nil
	}
	// This call changes nothing: it is for the books that package unix keeps of its mappings.
	if _, err := unix.Mremap(dst, len(dst), 0); err != nil {
		return false, nil
	}
	to := unsafe.Pointer(unsafe.SliceData(dst))
	if remap(p.start, to, p.size) != nil {
		refused.Store(true)
		// The kernel may have unmapped dst before it refused. There must be memory again, before
		// somebody else gets the addresses.
		if _, err := unix.MmapPtr(-1, 0, to, p.size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_FIXED); err != nil {
			return false, fmt.Errorf("map %d bytes of memory again: %w", p.size, err)
		}
		return false, nil
	}
	p.size = 0
	p.Free()
	return true, nil
}

// CopyTo copies the pages to dst, which is as long, and frees each as soon as it was copied, so that there is hardly ever
// memory for both.
func (p *Pages) CopyTo(dst []byte) {
	for len(dst) > 0 {
		n := min(hugePage-uintptr(p.start)%hugePage, p.size)
		dst = dst[copy(dst, unsafe.Slice((*byte)(p.start), n)):]
		_ = unix.MunmapPtr(p.start, n)
		p.start, p.size = unsafe.Add(p.start, n), p.size-n
	}
	p.Free()
}

// remap moves mappings over others. Tests have it fail.
var remap = func(from, to unsafe.Pointer, size uintptr) error {
	_, err := unix.MremapPtr(from, size, to, size, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED)
	return err
}

// Free gives the memory back. Freeing again does nothing.
func (p *Pages) Free() {
	// What was between may belong to somebody else already, so that it isn't unmapped with the rest.
	unmap := func(at unsafe.Pointer, size uintptr) {
		if size > 0 {
			_ = unix.MunmapPtr(at, size)
		}
	}
	unmap(p.start, p.size)
	unmap(p.before, p.beforeLen)
	unmap(p.behind, p.behindLen)
	*p = Pages{}
}

// AdviseHugePages asks the kernel to back the whole huge pages inside p by such. Faulting 66 MB in
// by pages of 4 KiB costs more than reading them from the page cache does. It is advice: errors
// don't matter.
func AdviseHugePages(p []byte) {
	if len(p) < 2*hugePage {
		return
	}
	start := uintptr(unsafe.Pointer(unsafe.SliceData(p)))
	skip := (hugePage - start%hugePage) % hugePage
	whole := (uintptr(len(p)) - skip) / hugePage * hugePage
	if whole == 0 {
		return
	}
	_ = unix.Madvise(p[skip:skip+whole], unix.MADV_HUGEPAGE)
}
