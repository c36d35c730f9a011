//go:build linux || darwin || freebsd || netbsd || dragonfly

package mapped

import "golang.org/x/sys/unix"

func fileLimit() int64 { return limitOf(unix.RLIMIT_NOFILE) }

// limitOf returns a limit of the process, which it may change.
func limitOf(resource int) int64 {
	var l unix.Rlimit
	if unix.Getrlimit(resource, &l) != nil || uint64(l.Cur) > noLimit {
		return noLimit
	}
	return int64(l.Cur)
}
