package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// modeFlag lets other users read what a command has stored: the cache in an image is filled by root
// and read by somebody else.
type modeFlag struct {
	mode    fs.FileMode // of directories; 0: as they are
	missing []string    // the cache directory and those above it, as far as they didn't exist
}

func (m *modeFlag) register(fs *flag.FlagSet) {
	fs.Var(m, "mode", "in the end, give directories this mode, in octal, such as `0755`, which lets every user read the cache, and files the same without x")
}

func (m *modeFlag) String() string {
	if m.mode == 0 {
		return ""
	}
	return fmt.Sprintf("%#o", uint32(m.mode))
}

func (m *modeFlag) Set(s string) error {
	n, err := strconv.ParseUint(s, 8, 9)
	if err != nil || n&0o700 != 0o700 {
		return errors.New("want an octal number from 0700 to 0755")
	}
	if n&0o022 != 0 {
		return errors.New("nobody but the owner may write to a cache, whose code runs in other users' programs; see -group and -key-file")
	}
	m.mode = fs.FileMode(n)
	return nil
}

// begin remembers which directories don't exist yet.
func (m *modeFlag) begin(dir string) {
	for dir != filepath.Dir(dir) {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			return
		}
		m.missing = append(m.missing, dir)
		dir = filepath.Dir(dir)
	}
}

// end sets the mode of all that is in dir, and of what was made above it.
func (m *modeFlag) end(dir string) error {
	if m.mode == 0 {
		return nil
	}
	for _, made := range m.missing {
		if err := os.Chmod(made, m.mode); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		mode := m.mode
		switch {
		case e.Type().IsRegular():
			mode &= 0o666
		case !e.IsDir():
			return nil
		}
		if err = root.Chmod(name, mode); errors.Is(err, fs.ErrNotExist) {
			return nil // others use it
		}
		return err
	})
}
