//go:build linux || darwin || freebsd || netbsd || dragonfly

package mapped

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func fileLimit() int64 { return limitOf(unix.RLIMIT_NOFILE) }

// limitOf returns a limit of the process, which it may change.
func limitOf(resource int) int64 {
	var l unix.Rlimit
	if unix.Getrlimit(resource, &l) != nil || uint64(l.Cur) > noLimit {
		return noLimit
	}
	return int64(l.Cur)
}

// addressSpace is how many bytes of addresses the process has, or 0 where the system doesn't tell. Go's runtime alone
// has more than a gigabyte.
func addressSpace() (size int64) {
	statm, _ := os.ReadFile("/proc/self/statm")
	_, _ = fmt.Sscan(string(statm), &size)
	return size * int64(os.Getpagesize())
}
