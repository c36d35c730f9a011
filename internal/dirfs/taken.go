package dirfs

// Blocks returns the bytes that n bytes take on disk on most file systems: whole blocks.
func Blocks(n int64) int64 {
	const block = 4096
	return (n + block - 1) / block * block
}
