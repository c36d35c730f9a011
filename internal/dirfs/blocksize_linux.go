package dirfs

import "golang.org/x/sys/unix"

// blockSize is what blocks are counted in: file systems over a network may name another size that is good to read.
func blockSize(st *unix.Statfs_t) int64 {
	if st.Frsize > 0 {
		return int64(st.Frsize)
	}
	return int64(st.Bsize)
}
