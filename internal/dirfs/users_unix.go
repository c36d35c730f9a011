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
	return uid == me() && (!users.isOverflow(uid) || isOwnerOf(dir))
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
func isRoot(uid uint32) bool { return uid == 0 && !users.isOverflow(uid) }

// noGroup is no group.
const noGroup = int64(-1)

// isMember reports whether this process is known to be in the group that path shows, or what is made in it.
func isMember(path string, gid uint32) bool {
	if groups.hides(path, gid) {
		return false
	}
	if int(gid) == os.Getegid() {
		return true
	}
	others, err := os.Getgroups()
	return err == nil && slices.Contains(others, int(gid))
}

func userText(uid uint32) string {
	if users.isOverflow(uid) {
		return fmt.Sprintf("a user that can't be told (%d is nobody, and whoever the user namespace or an id-mapped mount doesn't map)", uid)
	}
	return fmt.Sprintf("user %d", uid)
}

// ids are the users or the groups. One of their numbers, the overflow, also stands for all whom the user namespace
// of this process doesn't map, or the mount that a file is on. Linux only has that, and a process with threads
// can't change its namespace.
type ids struct {
	overflow func() int64 // -1: there is none
	mapped   func() bool  // the namespace maps all, which takes /proc to know
}

var users, groups = idsOf("uid"), idsOf("gid")

func idsOf(kind string) ids {
	return ids{sync.OnceValue(func() int64 { return overflow(kind) }), sync.OnceValue(func() bool { return mapsAll(kind) })}
}

func (i ids) isOverflow(id uint32) bool { return int64(id) == i.overflow() }

// hides reports whether id, which path shows, may be another's.
func (i ids) hides(path string, id uint32) bool {
	return i.isOverflow(id) && (!i.mapped() || isIDMapped(path))
}

func overflow(kind string) int64 {
	if runtime.GOOS != "linux" {
		return -1
	}
	if text, err := readProc("/proc/sys/kernel/overflow" + kind); err == nil {
		if id, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
			return id
		}
	}
	return 65534 // unless an administrator has chosen another
}

func mapsAll(kind string) bool {
	text, err := readProc("/proc/self/" + kind + "_map")
	if err != nil {
		return false // there may be a namespace
	}
	var mapped int64
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 { // inside, outside, how many
			n, _ := strconv.ParseInt(fields[2], 10, 64)
			mapped += n
		}
	}
	return mapped >= math.MaxUint32
}

// readProc is os.ReadFile for what never blocks. It takes a third of the time.
func readProc(name string) ([]byte, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	b := make([]byte, 0, 64) // of which most need less
	for {
		b = slices.Grow(b, 16)
		n, err := unix.Read(fd, b[len(b):cap(b)])
		if n <= 0 || err != nil {
			return b, err
		}
		b = b[:len(b)+n]
	}
}

func statOf(fi fs.FileInfo) *syscall.Stat_t { return fi.Sys().(*syscall.Stat_t) }
