package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// output lets write fill what a name on the command line stands for. A regular file appears,
// or changes, when it is complete, behind a symbolic link too. All else, such as a device or
// a pipe, isn't ours to replace and is written to; "-" is standard output. A foundError
// completes the output.
func output(ctx context.Context, s *streams, name string, write func(io.Writer) error) error {
	if name == "-" {
		return through(ctx, func() error { return write(s.out) })
	}
	fi, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(name); err == nil {
			return fmt.Errorf("%s is a symbolic link to nothing: name the file itself", name)
		}
		return replace(ctx, s, name, 0o600, write)
	case err != nil:
		return err
	case fi.Mode().IsRegular():
		if name, err = filepath.EvalSymlinks(name); err != nil {
			return err
		}
		return replace(ctx, s, name, fi.Mode().Perm(), write)
	}
	return through(ctx, func() error {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	})
}

// through writes to what somebody may have to read first.
func through(ctx context.Context, write func() error) error {
	_, err := unlessInterrupted(ctx, func() (struct{}, error) { return struct{}{}, write() })
	return err
}

// replace writes a regular file beside the one that it then takes the name of.
func replace(ctx context.Context, s *streams, name string, mode fs.FileMode, write func(io.Writer) error) error {
	if err := s.interruption.begin(ctx); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".part-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	var found foundError
	result := write(f)
	if result != nil && !errors.As(result, &found) {
		return errors.Join(result, f.Close())
	}
	if mode != 0o600 { // which it has; not every file system can change that
		err = f.Chmod(mode)
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return result
}
