//go:build darwin || freebsd || linux

package dirfs

import (
	"os"

	"golang.org/x/sys/unix"
)

func space(d *os.File) (free, total int64, err error) {
	var st unix.Statfs_t
	conn, err := d.SyscallConn() // which holds the descriptor, should the directory be closed meanwhile
	if err != nil {
		return 0, 0, err
	}
	var statErr error
	if err := conn.Control(func(fd uintptr) { statErr = unix.Fstatfs(int(fd), &st) }); err != nil {
		return 0, 0, err
	}
	if statErr != nil {
		return 0, 0, os.NewSyscallError("fstatfs", statErr)
	}
	block := blockSize(&st)
	return int64(st.Bavail) * block, int64(st.Blocks) * block, nil
}
