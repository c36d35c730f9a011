package wazerohook

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a transparent huge page on amd64 and on arm64 with
// pages of 4 KiB. Where it is larger, the advice covers less and does no harm.
const hugePage = 2 << 20

// adviseHugePages asks the kernel to back the whole huge pages inside p, wazero's
// executable mapping, by such. Faulting 66 MB in by pages of 4 KiB costs more
// than reading them from the page cache does. It is advice: errors don't matter.
func adviseHugePages(p []byte) {
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
