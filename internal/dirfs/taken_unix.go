//go:build unix

package dirfs

import (
	"io/fs"
	"syscall"
)

// Taken returns the bytes that a file takes on disk, as far as the file system says so.
func Taken(fi fs.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Blocks > 0 {
		return int64(st.Blocks) * 512
	}
	return Blocks(fi.Size())
}
