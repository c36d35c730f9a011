//go:build !linux

package mapped

import (
	"os"
	"runtime"
)

// holes reports whether a file of anonymousFile may have some: it may be on a file system that is full by the time
// that they are read.
func holes() bool { return false }

func anonymousFile() (*os.File, error) {
	switch runtime.GOOS {
	case "darwin", "freebsd", "netbsd", "dragonfly":
		return unlinkedFile()
	}
	return nil, ErrUnsupported // nothing could be mapped
}

func seal(*os.File) {}

const noReserve = 0
