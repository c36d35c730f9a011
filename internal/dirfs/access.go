package dirfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrInsecure means that somebody else could put code into a directory.
var ErrInsecure = errors.New("insecure cache directory")

// Rules say who may write to a directory beside its owner and root. docs/trust.md has
// them as a table.
type Rules struct {
	Keyed    bool // everybody: what is in it proves who wrote it
	Group    bool // its group, if this process is a member
	ReadOnly bool // nobody is asked to: a directory that is missing isn't made
}

// Place is where a directory is.
type Place struct {
	Path string      // without symbolic links
	Info fs.FileInfo // what is there

	rules   Rules
	above   []parent // from the root of the file system down
	missing []string // names below Path that don't exist yet
}

// parent is a directory on the way to a place.
type parent struct {
	path string
	info fs.FileInfo
}

// Find returns where dir is, an absolute path, if the rules admit it. It makes it and
// those above it as far as they don't exist, but not before all is judged that can be:
// where it refuses, there is nothing that wasn't there before.
func (r Rules) Find(dir string) (*Place, error) {
	p, err := r.resolve(dir)
	if err != nil || len(p.missing) == 0 {
		return p, r.refuse(p, err)
	}
	if r.ReadOnly {
		return p, &fs.PathError{Op: "open", Path: dir, Err: fs.ErrNotExist}
	}
	if err := r.mayMake(p); err != nil {
		return p, err
	}
	end, err := r.make(p)
	if err == nil {
		p, err = r.resolve(dir)
	}
	if err == nil && len(p.missing) > 0 {
		err = &fs.PathError{Op: "open", Path: dir, Err: fs.ErrNotExist} // deleted at once
	}
	err = r.refuse(p, err)
	end(err == nil)
	return p, err
}

// Judge says why Find would refuse dir, as far as that can be told without making anything.
func (r Rules) Judge(dir string) error {
	p, err := r.resolve(dir)
	if err != nil || len(p.missing) == 0 {
		return r.refuse(p, err)
	}
	if err := r.mayMake(p); err != nil {
		return err
	}
	if err := writable(p.Path); err != nil {
		return &fs.PathError{Op: "mkdir", Path: filepath.Join(p.Path, p.missing[0]), Err: err}
	}
	return nil
}

func (r Rules) resolve(dir string) (*Place, error) {
	p, err := resolve(dir)
	p.rules = r
	return p, err
}

func (r Rules) refuse(p *Place, err error) error {
	if err == nil && !r.Keyed {
		err = r.judge(p)
	}
	if err == nil && !r.ReadOnly {
		if err = writable(p.Path); err != nil {
			err = fmt.Errorf("you can't write to it: %w; set ReadOnly to use what is in it", err)
		}
	}
	return err
}

// make makes what is missing, as durable as it can, and returns what ends that: keep says
// whether it stays. Others may be able to write above it, and to put a link in the place of
// what was made: so each directory is made and removed through the open one above it.
func (r Rules) make(p *Place) (end func(keep bool), err error) {
	var made []madeDir
	var open []*os.Root
	end = func(keep bool) {
		for i := len(made) - 1; i >= 0 && !keep; i-- {
			made[i].remove()
		}
		for _, root := range open {
			_ = root.Close()
		}
	}
	above, err := os.OpenRoot(p.Path)
	if err != nil {
		return end, err
	}
	open = append(open, above)
	if fi, err := above.Stat("."); err != nil || !os.SameFile(fi, p.Info) {
		return end, fmt.Errorf("%w: %s was replaced while a directory was made in it", ErrInsecure, p.Path)
	}
	for _, name := range p.missing {
		err := above.Mkdir(name, private)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return end, err
		}
		if err == nil {
			fi, err := above.Lstat(name)
			if err != nil {
				return end, err
			}
			made = append(made, madeDir{above, name, fi})
			if fi.Mode()&private != private && fi.IsDir() {
				_ = above.Chmod(name, private) // the mask took the owner's part of the mode
			}
		}
		dir, openErr := above.OpenRoot(name)
		if openErr != nil {
			return end, openErr
		}
		open = append(open, dir)
		if err == nil && r.Group {
			if err := r.share(p, dir); err != nil {
				return end, err
			}
		}
		if err == nil {
			_ = (&rootFS{Root: above}).SyncDir(".")
		}
		above = dir
	}
	return end, nil
}

// madeDir is a directory that was made in another one.
type madeDir struct {
	in   *os.Root
	name string
	info fs.FileInfo
}

// remove removes the directory, unless somebody has put something into it.
func (m madeDir) remove() {
	if fi, err := m.in.Lstat(m.name); err == nil && fi.IsDir() && os.SameFile(fi, m.info) {
		_ = m.in.Remove(m.name)
	}
}

const (
	private = 0o700
	shared  = fs.ModeSetgid | 0o770
)
