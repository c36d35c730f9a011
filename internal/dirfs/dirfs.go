// Package dirfs is a directory tree that nothing leads out of, behind an
// interface, so that tests can make any operation fail and model what a crash
// leaves behind.
package dirfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

// FS is a directory tree. Names are relative to its root and use slashes. All
// methods may be called from several goroutines at once.
type FS interface {
	// OpenFile and Mkdir are given the owner's part of the mode of what they make. What is
	// no regular file isn't opened: see ErrNotFile. A FIFO keeps nobody waiting. With O_CREATE,
	// a file that exists and has further names isn't opened either.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	Mkdir(name string, perm fs.FileMode) error
	Rename(oldName, newName string) error
	Remove(name string) error
	RemoveAll(name string) error // with what is in it, if it is a directory
	Lstat(name string) (fs.FileInfo, error)
	Chtimes(name string, atime, mtime time.Time) error

	// ReadDir returns what is in a directory, in no order, without what went
	// away meanwhile. It and SyncDir fail at once for what is no directory.
	ReadDir(name string) ([]fs.FileInfo, error)

	// SyncDir makes the names in a directory durable. Where directories can't be
	// synced, it does nothing.
	SyncDir(name string) error

	// Space returns the bytes that are free to this user, and those of the whole
	// file system.
	Space() (free, total int64, err error)

	// CopiesUp reports whether changing a file, even its time only, may write a copy of all
	// of it, as it does for what came with a container's image.
	CopiesUp() bool

	// Close releases the root. Open files stay usable.
	Close() error
}

// File is an open file.
type File interface {
	io.ReaderAt
	io.Writer
	io.Closer
	Stat() (fs.FileInfo, error)

	// IsOwner reports whether the file, which is open for reading, belongs to the user of
	// this process, whatever numbers a user namespace shows.
	IsOwner() bool

	// ListedWriter says whom an access control list lets write to the file beside its owner and
	// the group gid; "" is nobody.
	ListedWriter(gid uint32) string

	// Allocate makes room for size bytes that are about to be written, where file
	// systems have that. Without it, writing works too, only slower.
	Allocate(size int64) error

	Sync() error

	// TryLock takes the advisory lock of the file, which closing it releases. It
	// doesn't wait: false means that another open file has it.
	TryLock() (bool, error)
}

// Open returns the tree below dir, which must exist. What is made in it can be used by
// all who can write to dir.
func Open(dir string) (FS, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	r := &rootFS{Root: root}
	if r.self, err = root.Open("."); err == nil {
		r.fi, err = r.self.Stat()
	}
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// rootFS keeps every access below the directory: no symbolic link and no ".."
// leads out.
type rootFS struct {
	*os.Root
	self *os.File // the directory
	fi   fs.FileInfo
}

// ErrNotFile means that what has a file's name is something else.
var ErrNotFile = errors.New("not a regular file")

// errLinked is about a file that may be one of this user's from elsewhere, which somebody
// who can write to the directory wants to be written to.
var errLinked = errors.New("the file has another name as well")

// OpenFile implements FS.
func (r *rootFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, made, err := r.open(name, flag|nonBlock, perm)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case !fi.Mode().IsRegular():
		err = &fs.PathError{Op: "open", Path: name, Err: ErrNotFile}
	case flag&os.O_CREATE != 0 && !made && links(fi) > 1:
		err = &fs.PathError{Op: "open", Path: name, Err: errLinked}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	if made {
		_ = give(f, r.fi, perm)
	}
	return file{f}, nil
}

// open also says whether it has made the file.
func (r *rootFS) open(name string, flag int, perm fs.FileMode) (f *os.File, made bool, err error) {
	if flag&os.O_CREATE != 0 {
		return r.create(name, flag, perm)
	}
	if flag&(os.O_WRONLY|os.O_RDWR) == 0 {
		// An os.Root opens the directories on the way one by one.
		if f, err := openBeneath(r.self, name, flag); err == nil {
			return f, false, nil
		} else if errors.Is(err, fs.ErrNotExist) {
			return nil, false, err
		}
	}
	f, err = r.Root.OpenFile(name, flag, perm)
	return f, false, err
}

// create makes a file, or opens one that exists.
func (r *rootFS) create(name string, flag int, perm fs.FileMode) (f *os.File, made bool, err error) {
	for range 10 { // others may be making and removing it
		f, err = r.Root.OpenFile(name, flag|os.O_EXCL, perm)
		if flag&os.O_EXCL != 0 || !errors.Is(err, fs.ErrExist) {
			return f, err == nil, err
		}
		f, err = r.Root.OpenFile(name, flag&^os.O_CREATE, 0)
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return f, false, err
}

// openDir opens a directory to list or to sync it.
func (r *rootFS) openDir(name string) (*os.File, error) {
	return r.Root.OpenFile(name, os.O_RDONLY|onlyDir|nonBlock, 0)
}

// Mkdir implements FS.
func (r *rootFS) Mkdir(name string, perm fs.FileMode) error {
	if err := r.Root.Mkdir(name, perm); err != nil {
		return err
	}
	// Others may have put something else in its place: nothing is changed by name.
	d, err := r.openDir(name)
	if errors.Is(err, fs.ErrPermission) && r.fi.Mode()&0o022 == 0 {
		_ = r.Chmod(name, perm) // nobody has; the mask took the owner's part of the mode
		d, err = r.openDir(name)
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return give(d, r.fi, perm)
}

// Close implements FS.
func (r *rootFS) Close() error { return errors.Join(r.self.Close(), r.Root.Close()) }

func (r *rootFS) ReadDir(name string) ([]fs.FileInfo, error) {
	d, err := r.openDir(name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	infos := make([]fs.FileInfo, 0, len(entries))
	for _, e := range entries {
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		infos = append(infos, fi)
	}
	return infos, err
}

func (r *rootFS) Space() (free, total int64, err error) { return space(r.self) }

func (r *rootFS) CopiesUp() bool { return isUnion(r.self) }

type file struct{ *os.File }

// OS returns the file of the operating system that f is, or nil if it is another one.
func OS(f File) *os.File {
	if f, ok := f.(file); ok {
		return f.File
	}
	return nil
}

func (f file) Allocate(size int64) error { return allocate(f.File, size) }

func (f file) IsOwner() bool { return isOwner(f.File) }

func (f file) ListedWriter(gid uint32) string { return fileWriter(f.File, gid) }

func (f file) TryLock() (bool, error) { return tryLock(f.File) }
