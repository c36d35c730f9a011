//go:build !unix

package dirfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Nothing blocks who opens it here.
const nonBlock, onlyDir = 0, 0

// resolve finds dir. It doesn't follow symbolic links and the like.
func resolve(dir string) (*Place, error) {
	p := &Place{Path: dir}
	for {
		fi, err := os.Lstat(p.Path)
		switch {
		case err == nil && fi.IsDir():
			p.Info = fi
			return p, nil
		case err == nil:
			return p, fmt.Errorf("%s is not a directory but %v; name the real directory", p.Path, fi.Mode().Type())
		case !errors.Is(err, fs.ErrNotExist) || p.Path == filepath.Dir(p.Path):
			return p, err
		}
		p.missing = append([]string{filepath.Base(p.Path)}, p.missing...)
		p.Path = filepath.Dir(p.Path)
	}
}

// judge can't judge access control lists. On Windows, directories in the
// user's profile are writable by the user and administrators only.
func (Rules) judge(*Place) error { return nil }

// Foreign finds nobody: see judge.
func (*Place) Foreign(File, fs.FileInfo) string { return "" }

func writable(string) error { return nil }

func (Rules) mayMake(*Place) error { return nil }

func (Rules) share(*Place, *os.Root) error { return nil }

func links(fs.FileInfo) uint64 { return 1 }

func give(*os.File, fs.FileInfo, fs.FileMode) error { return nil }

// SyncDir implements FS. A directory can't be synced here: the file system
// journals names by itself.
func (r *rootFS) SyncDir(string) error { return nil }

// IsNoLock reports whether err means that the file system has no locks.
func IsNoLock(err error) bool { return errors.Is(err, errors.ErrUnsupported) }
