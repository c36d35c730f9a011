//go:build unix

package dirfs

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

func me() uint32 { return uint32(os.Geteuid()) }

// isMine reports whether the directory, which shows uid as its owner, is this user's.
func isMine(dir string, uid uint32) bool {
	return uid == me() && (int64(uid) != unknownUser() || isOwnerOf(dir))
}

func isOwnerOf(dir string) bool {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return isOwner(f)
}

// isRoot reports whether uid is root, who may do anything anyway.
func isRoot(uid uint32) bool { return uid == 0 && unknownUser() != 0 }

// noGroup is no group.
const noGroup = int64(-1)

// isMember reports whether this process is known to be in a group.
func isMember(gid uint32) bool {
	if int64(gid) == unknownGroup() {
		return false
	}
	if int(gid) == os.Getegid() {
		return true
	}
	groups, err := os.Getgroups()
	return err == nil && slices.Contains(groups, int(gid))
}

func userText(uid uint32) string {
	if int64(uid) == unknownUser() {
		return fmt.Sprintf("a user that can't be told (%d is whoever the user namespace doesn't map)", uid)
	}
	return fmt.Sprintf("user %d", uid)
}

// unknownUser and unknownGroup return the number that stands for all whom the user
// namespace of this process doesn't map; -1 if it maps all, which takes /proc to know. There are namespaces on Linux
// only, and a process with threads can't change its own.
var (
	unknownUser  = sync.OnceValue(func() int64 { return unmapped("uid") })
	unknownGroup = sync.OnceValue(func() int64 { return unmapped("gid") })
)

func unmapped(kind string) int64 {
	const overflow = 65534 // unless an administrator has chosen another
	if runtime.GOOS != "linux" {
		return -1
	}
	ids, err := readProc("/proc/self/" + kind + "_map")
	if err != nil {
		return overflow // there may be a namespace
	}
	var mapped int64
	for line := range strings.Lines(string(ids)) {
		if fields := strings.Fields(line); len(fields) == 3 { // inside, outside, how many
			n, _ := strconv.ParseInt(fields[2], 10, 64)
			mapped += n
		}
	}
	if mapped >= math.MaxUint32 {
		return -1
	}
	if text, err := os.ReadFile("/proc/sys/kernel/overflow" + kind); err == nil {
		if id, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
			return id
		}
	}
	return overflow
}

// readProc is os.ReadFile for what never blocks. It takes a third of the time.
func readProc(name string) ([]byte, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	b := make([]byte, 0, 512)
	for {
		b = slices.Grow(b, 512)
		n, err := unix.Read(fd, b[len(b):cap(b)])
		if n <= 0 || err != nil {
			return b, err
		}
		b = b[:len(b)+n]
	}
}

func statOf(fi fs.FileInfo) *syscall.Stat_t { return fi.Sys().(*syscall.Stat_t) }
