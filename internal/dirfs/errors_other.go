//go:build !(unix || windows)

package dirfs

import "errors"

// IsNoSpace reports whether err means that the file system or a quota is full.
func IsNoSpace(error) bool { return false }

// IsNoLock reports whether err means that the file system has no locks.
func IsNoLock(err error) bool { return errors.Is(err, errors.ErrUnsupported) }
