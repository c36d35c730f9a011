// Package plainfile lets bytes go from a file to a connection without passing through this
// process, where nobody in it looks at them.
package plainfile

import (
	"io"
	"os"
)

// Source is what keeps bytes as they are in a file, from off on.
type Source interface {
	File() (f *os.File, off int64, ok bool)
}

// Taker is a writer to which a whole artifact can be handed as a part of a file. What
// is taken so was not verified by the artifact.
type Taker interface {
	io.Writer
	// TakeFile takes n bytes at off. The file's offset is the Taker's to move.
	TakeFile(f *os.File, off, n int64) (int64, error)
}
