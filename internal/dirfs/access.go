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
	above   []Place  // from the root of the file system down
	missing []string // names below Path that don't exist yet
}

// Find returns where dir is, an absolute path, if the rules admit it. It makes it and
// those above it as far as they don't exist, but not before all is judged that can be:
// where it refuses, there is nothing that wasn't there before.
func (r Rules) Find(dir string) (Place, error) {
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
	made, err := r.make(p)
	if err == nil {
		p, err = r.resolve(dir)
	}
	if err == nil && len(p.missing) > 0 {
		err = &fs.PathError{Op: "open", Path: dir, Err: fs.ErrNotExist} // deleted at once
	}
	if err = r.refuse(p, err); err != nil {
		for i := len(made) - 1; i >= 0; i-- {
			_ = os.Remove(made[i]) // unless somebody has put something into it
		}
	}
	return p, err
}

func (r Rules) resolve(dir string) (Place, error) {
	p, err := resolve(dir)
	p.rules = r
	return p, err
}

func (r Rules) refuse(p Place, err error) error {
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

// make makes what is missing, as durable as it can, and returns the paths.
func (r Rules) make(p Place) (made []string, err error) {
	dir := p.Path
	for _, name := range p.missing {
		parent := dir
		dir = filepath.Join(dir, name)
		err := os.Mkdir(dir, private)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return made, err
		}
		made = append(made, dir)
		if r.Group {
			if err := r.share(p, dir); err != nil {
				return made, err
			}
		}
		if tree, err := Open(parent); err == nil {
			_ = tree.SyncDir(".")
			_ = tree.Close()
		}
	}
	return made, nil
}

const (
	private = 0o700
	shared  = fs.ModeSetgid | 0o770
)
