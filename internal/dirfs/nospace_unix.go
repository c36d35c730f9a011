//go:build unix

package dirfs

import (
	"errors"
	"syscall"
)

// IsNoSpace reports whether err means that the file system or a quota is full.
func IsNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
