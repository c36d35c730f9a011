package dirfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// What POSIX access control lists are called, and the one that what is made in a directory gets.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// listedWriter says whom the access control lists of a directory let write to it, or to what is made in it,
// beside its owner and its group; "" is nobody. Where the group can't, by the mode, nobody of the list can.
func listedWriter(dir string, gid uint32) string {
	for _, name := range []string{aclAccess, aclDefault} {
		who := writerIn(gid, func(b []byte) (int, error) { return unix.Getxattr(dir, name, b) })
		if who != "" {
			return who
		}
	}
	return ""
}

// fileWriter is listedWriter for an open file.
func fileWriter(f *os.File, gid uint32) string {
	conn, err := f.SyscallConn()
	if err != nil {
		return ""
	}
	var who string
	_ = conn.Control(func(fd uintptr) {
		who = writerIn(gid, func(b []byte) (int, error) { return unix.Fgetxattr(int(fd), aclAccess, b) })
	})
	return who
}

// writerIn reads a list in the form in which the kernel shows it: a version, then entries of a tag, what
// it permits, and for whom. The mask counts as permitting all that it could.
func writerIn(gid uint32, read func([]byte) (int, error)) string {
	const (
		header, entry    = 4, 8
		write            = 2
		tagUser, tagMany = 0x02, 0x08
	)
	list := make([]byte, 4<<10)
	n, err := read(list)
	switch {
	case errors.Is(err, unix.ERANGE):
		return "more users than can be told, by its access control list,"
	case err != nil || n < header: // there is none, or no such thing
		return ""
	}
	for list = list[header:n]; len(list) >= entry; list = list[entry:] {
		tag, perm, id := binary.LittleEndian.Uint16(list), binary.LittleEndian.Uint16(list[2:]), binary.LittleEndian.Uint32(list[4:])
		switch {
		case perm&write == 0:
		case tag == tagUser && !isRoot(id) && id != me(): // one that isn't mapped is -1 here
			return userText(id) + ", by its access control list,"
		case tag == tagMany && id != gid:
			return fmt.Sprintf("group %d, by its access control list,", id)
		}
	}
	return ""
}
