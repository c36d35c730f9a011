//go:build unix

package dirfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links lead to a directory at most, as in the kernel.
const maxLinks = 40

// resolve follows dir from the root of the file system down. It follows symbolic links of
// this user and of root only: where others may write, they could make one that leads into
// any directory of ours.
func resolve(dir string) (*Place, error) {
	p := &Place{Path: "/", above: make([]parent, 0, strings.Count(dir, "/"))}
	var err error
	if p.Info, err = os.Lstat(p.Path); err != nil {
		return p, err
	}
	links, names := 0, strings.Split(dir, "/")
	for len(names) > 0 {
		name := names[0]
		names = names[1:]
		switch name {
		case "", ".":
			continue
		case "..": // in a link
			p.rise(1)
			continue
		}
		path := filepath.Join(p.Path, name)
		fi, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			p.missing = append([]string{name}, names...)
			return p, nil
		case err != nil:
			return p, err
		case fi.IsDir():
			p.above = append(p.above, parent{p.Path, p.Info})
			p.Path, p.Info = path, fi
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := follow(path, fi)
			if err != nil {
				return p, err
			}
			if links++; links > maxLinks {
				return p, &fs.PathError{Op: "open", Path: dir, Err: syscall.ELOOP}
			}
			if filepath.IsAbs(target) {
				p.rise(len(p.above))
			}
			names = append(strings.Split(target, "/"), names...)
		default:
			return p, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
		}
	}
	return p, nil
}

// rise goes n directories up, as far as there are any.
func (p *Place) rise(n int) {
	if n = min(n, len(p.above)); n > 0 {
		up := len(p.above) - n
		p.Path, p.Info, p.above = p.above[up].path, p.above[up].info, p.above[:up]
	}
}

// follow returns the target of a symbolic link, which must exist.
func follow(link string, fi fs.FileInfo) (string, error) {
	if uid := statOf(fi).Uid; !isRoot(uid) && (uid != me() || users.hides(link, uid)) {
		return "", fmt.Errorf("%w: %s is a symbolic link of %s; name the directory that it leads to", ErrInsecure, link, userText(uid))
	}
	if _, err := os.Stat(link); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the symbolic link %s leads to nothing", link)
	}
	return os.Readlink(link)
}

// judge refuses a directory in which others can change or put something, or in whose
// place they can put another one.
func (r Rules) judge(p *Place) error {
	st, mode := statOf(p.Info), p.Info.Mode()
	perm, mine, group := mode.Perm(), isMine(p.Path, st.Uid), noGroup
	var who string
	switch {
	case perm&0o002 != 0:
		who = fmt.Sprintf("everybody can write to it (%v)", mode)
	case perm&0o020 != 0 && !r.Group:
		who = fmt.Sprintf("its group %d can write to it (%v)", st.Gid, mode)
	case perm&0o020 != 0 && !isMember(p.Path, st.Gid):
		who = fmt.Sprintf("group %d can write to it (%v), in which this process isn't known to be", st.Gid, mode)
	case perm&0o020 != 0:
		group = int64(st.Gid)
		if listed := listedWriter(p.Path, st.Gid); listed != "" {
			who = listed + " can write to it, or to what is made in it; setfacl -b ends that"
		}
	case !mine && !isRoot(st.Uid):
		who = fmt.Sprintf("it belongs to %s, not to user %d", userText(st.Uid), me())
	}
	if exposed := p.exposed(group); who == "" && exposed != "" {
		// What others put in its place is theirs, unless they find another directory of ours
		// there: it has to be one that was made to be private. See RATIONALE.md.
		if mine && perm&0o077 == 0 {
			return nil
		}
		who = fmt.Sprintf("%s, who could replace it, and it isn't private (%v)", exposed, mode)
	}
	if who == "" {
		return nil
	}
	return fmt.Errorf("%w: %s; %s", ErrInsecure, who, r.advice(p, mine))
}

// advice says what helps on that file system.
func (r Rules) advice(p *Place, mine bool) string {
	st, mode := statOf(p.Info), p.Info.Mode()
	var what []string
	if mine && mode&fs.ModeSetgid == 0 { // else it is meant to be shared, and for volumes of Kubernetes done so again
		what = append(what, "chmod 700 "+p.Path)
	}
	if !mine && !isRoot(st.Uid) && !users.isOverflow(st.Uid) && mode&0o022 == 0 {
		what = append(what, "run as that user, or name another directory")
	}
	if !mine && mode&0o002 != 0 {
		what = append(what, "name a directory below it that doesn't exist yet")
	}
	if !r.Group && mode&0o022 == 0o020 && isMember(p.Path, st.Gid) {
		what = append(what, "set DiskOptions.Group if all of the group may decide what this program runs")
	}
	if len(what) == 0 {
		what = append(what, "name another directory")
	}
	return strings.Join(append(what, "set DiskOptions.Key"), ", or ")
}

// exposed says who else could put another directory in the place of this one; "" if nobody
// could but root, this user, and the group that is trusted.
func (p *Place) exposed(trusted int64) string {
	for _, a := range p.above {
		st, mode := statOf(a.info), a.info.Mode()
		switch sticky := mode&fs.ModeSticky != 0; {
		case !isRoot(st.Uid) && !isMine(a.path, st.Uid):
			return fmt.Sprintf("%s above it belongs to %s", a.path, userText(st.Uid))
		case !sticky && mode.Perm()&0o002 != 0:
			return fmt.Sprintf("%s above it can be written by everybody", a.path)
		case !sticky && mode.Perm()&0o020 != 0 && int64(st.Gid) != trusted:
			return fmt.Sprintf("%s above it can be written by group %d", a.path, st.Gid)
		case !sticky && mode.Perm()&0o020 != 0:
			if listed := listedWriter(a.path, st.Gid); listed != "" {
				return fmt.Sprintf("%s above it can be written by %s", a.path, strings.TrimSuffix(listed, ","))
			}
		}
	}
	return ""
}

// mayMake refuses to make anything where only root's power would let it: a directory of
// root's in somebody's home breaks that user's programs.
func (r Rules) mayMake(p *Place) error {
	st, perm := statOf(p.Info), p.Info.Mode().Perm()
	if me() == 0 && !isMine(p.Path, st.Uid) && perm&0o002 == 0 && (perm&0o020 == 0 || !isMember(p.Path, st.Gid)) {
		return fmt.Errorf("%w: root makes no directory in %s, which belongs to %s; run as that user, set HOME, make it yourself, or name another",
			fs.ErrPermission, p.Path, userText(st.Uid))
	}
	if !r.Group || r.Keyed {
		return nil
	}
	group := newGroup(p)
	who := r.below(p).exposed(group)
	if who != "" {
		who += ", who could replace what is made there for a group"
	} else if !isMember(p.Path, uint32(group)) {
		who = fmt.Sprintf("what is made in %s belongs to group %d, in which this process isn't known to be", p.Path, group)
	}
	if who != "" {
		return fmt.Errorf("%w: %s; name another directory, or set DiskOptions.Key instead of Group", ErrInsecure, who)
	}
	return nil
}

// writable asks whether this user could make files in dir, without trying.
func writable(dir string) error {
	if os.Getuid() != os.Geteuid() {
		return nil // the kernel would say what the real user could
	}
	return unix.Access(dir, unix.W_OK|unix.X_OK)
}

// Foreign says who else could have written what is in a file of the directory that is
// open; "" is nobody. The mode of the directory doesn't count: it may once have been open
// to others, who still have the file open, or a name for it elsewhere.
func (p *Place) Foreign(f File, file fs.FileInfo) string {
	st, mode := statOf(file), file.Mode()
	trusted := noGroup
	if p.rules.Group && p.Info.Mode()&0o020 != 0 {
		trusted = int64(statOf(p.Info).Gid)
	}
	switch groups := int64(st.Gid) == trusted; {
	case p.rules.Keyed:
		return ""
	case mode&0o002 != 0:
		return fmt.Sprintf("everybody can write to it (%v)", mode)
	case mode&0o020 != 0 && !groups:
		return fmt.Sprintf("its group %d can write to it (%v)", st.Gid, mode)
	case mode&0o020 != 0 && f.ListedWriter(st.Gid) != "":
		return f.ListedWriter(st.Gid) + " can write to it"
	case groups, isRoot(st.Uid), st.Uid == me() && (!users.isOverflow(st.Uid) || f.IsOwner()):
		return ""
	}
	return "it belongs to " + userText(st.Uid)
}

// below is the place of a directory in p.
func (Rules) below(p *Place) *Place {
	return &Place{above: append(p.above[:len(p.above):len(p.above)], parent{p.Path, p.Info})}
}

// newGroup returns the group of a directory that is made in p.
func newGroup(p *Place) int64 {
	if p.Info.Mode()&fs.ModeSetgid != 0 {
		return int64(statOf(p.Info).Gid)
	}
	return int64(os.Getegid())
}

// share lets the group write to a directory that was just made in p, whatever the mask
// is. Where others could put a link in its place, it stays private.
func (r Rules) share(p *Place, dir *os.Root) error {
	if r.below(p).exposed(newGroup(p)) != "" {
		return nil
	}
	return dir.Chmod(".", shared)
}

// widen gives those who can write to a directory their part of the mode of what is in it.
func widen(dir fs.FileInfo, perm fs.FileMode) fs.FileMode {
	owner := perm & 0o700
	if dir.Mode()&0o020 != 0 {
		perm |= owner >> 3
	}
	if dir.Mode()&0o002 != 0 {
		perm |= owner >> 6
	}
	if owner&0o100 != 0 && dir.Mode()&0o022 != 0 {
		perm |= dir.Mode() & fs.ModeSetgid
	}
	return perm
}

// give lets those who can write to dir use what was just made in it, whatever the mode
// creation mask is. Its group is that of dir then: another one's members have no part in it.
func give(f *os.File, dir fs.FileInfo, perm fs.FileMode) error {
	wide := widen(dir, perm)
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if gid := statOf(dir).Gid; wide&0o020 != 0 && statOf(fi).Gid != gid && f.Chown(-1, int(gid)) != nil {
		wide &^= fs.ModeSetgid | 0o070
	}
	if fi.Mode()&wide == wide {
		return nil
	}
	return f.Chmod(wide | fi.Mode()&fs.ModeSetgid)
}

// links returns how many names a file has.
func links(fi fs.FileInfo) uint64 { return uint64(statOf(fi).Nlink) }
