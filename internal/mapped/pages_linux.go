package mapped

import (
	"fmt"
	"os"
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

// NewPages returns memory for n bytes, which are zero. Large ones are made of huge pages.
func NewPages(n int) (*Pages, error) {
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
		AdviseHugePages(p.Bytes())
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
// exactly what [unix.Mmap] returned, which nobody else uses at the time; else nothing has changed.
func (p *Pages) MoveTo(dst []byte) bool {
	if p.start == nil || len(dst) != p.length || cap(dst) != p.length {
		return false
	}
	// This call changes nothing: it is for the books that package unix keeps of its mappings.
	if _, err := unix.Mremap(dst, len(dst), 0); err != nil {
		return false
	}
	to := unsafe.Pointer(unsafe.SliceData(dst))
	if _, err := unix.MremapPtr(p.start, p.size, to, p.size, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED); err != nil {
		return false
	}
	p.size = 0
	p.Free()
	return true
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
