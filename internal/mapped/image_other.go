//go:build !linux

package mapped

import (
	"os"
	"runtime"
)

func anonymousFile() (*os.File, error) {
	switch runtime.GOOS {
	case "darwin", "freebsd", "netbsd", "dragonfly":
		return unlinkedFile()
	}
	return nil, ErrUnsupported // nothing could be mapped
}

func seal(*os.File) {}

const noReserve = 0
