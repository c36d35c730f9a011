//go:build !(darwin || freebsd || linux || windows)

package dirfs

import (
	"errors"
	"os"
)

func space(*os.File) (free, total int64, err error) { return 0, 0, errors.ErrUnsupported }
