//go:build !unix

package dirfs

import "io/fs"

// Taken returns the bytes that a file takes on disk, as far as can be told.
func Taken(fi fs.FileInfo) int64 { return Blocks(fi.Size()) }
