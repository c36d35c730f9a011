package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/environ"
	"github.com/modcache/modcache/internal/layout"
)

// dirFlags name a cache directory.
type dirFlags struct {
	dir     string
	keyFile string
	group   bool
}

func (d *dirFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&d.dir, "dir", "", "the cache directory, such as `/var/cache/modcache`; by default the one that modcache.Open(\"\") uses")
	fs.StringVar(&d.keyFile, "key-file", "", "the secret of DiskOptions.Key, if programs use one, in a file such as `cache.secret`; a newline at its end doesn't count")
	fs.BoolVar(&d.group, "group", false, "the directory is shared with its group; see DiskOptions.Group")
}

func (d *dirFlags) path() (string, error) {
	if isURL(d.dir) {
		return "", usagef("-dir names a directory, and this is a URL")
	}
	if d.dir != "" {
		return filepath.Abs(d.dir)
	}
	env := environ.Read(os.Getenv)
	if env.Errors[environ.Dir] != nil { // the default isn't what was meant
		return "", usagef("%s is %q: set it to an absolute path, or name a directory with -dir", environ.Dir, os.Getenv(environ.Dir))
	}
	if env.Dir != "" {
		return env.Dir, nil
	}
	dir, err := environ.DefaultDir()
	if err != nil {
		return "", usagef("there is no default directory, name one with -dir: %v", err)
	}
	return dir, nil
}

const minSecretSize = 16

// readSecret returns what a key file holds, or nil if there is none.
func readSecret(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	b, err := readText(file)
	if err != nil {
		return nil, fmt.Errorf("read the secret: %w", err)
	}
	b = bytes.TrimSuffix(b, []byte("\n")) // and no more, as docs/trust.md has programs do it
	if len(b) < minSecretSize {
		return nil, fmt.Errorf("%s holds %d bytes; a secret needs at least %d random ones", file, len(b), minSecretSize)
	}
	return b, nil
}

// What a directory may be.
type dirKind int

const (
	isVacant  dirKind = iota // missing, or with nothing but what a new file system has
	isCache                  // of ours
	isShared                 // what programs have stored among files of others, where no tag of ours is: read, and never touched
	isForeign                // anything else: never touched
)

func kindOf(dir string) (dirKind, error) {
	files, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return isVacant, nil
	case err != nil:
		return isForeign, err
	}
	kind := isVacant
	for _, f := range files {
		if f.Name() == layout.Tag && f.Type().IsRegular() {
			tag, err := readStart(filepath.Join(dir, layout.Tag))
			if err != nil || layout.IsTag(tag) || len(tag) == 0 {
				return isCache, err // also if it couldn't be written: the next trim does
			}
		}
		switch {
		case f.IsDir() && layout.IsShard(f.Name()) && mayHoldEntries(filepath.Join(dir, f.Name())):
			kind = isShared
		case kind == isVacant && f.Name() != layout.LostAndFound:
			kind = isForeign
		}
	}
	return kind, nil
}

// mayHoldEntries tells a shard from what others call so.
func mayHoldEntries(shard string) bool {
	f, err := os.Open(shard)
	if err != nil {
		return true
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	return err != nil || len(names) == 0 || slices.ContainsFunc(names, func(name string) bool {
		_, _, ok := layout.ParseEntry(name)
		return ok
	})
}

// readStart reads of a file, which may be anybody's, as much as a tag needs.
func readStart(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 4<<10))
}

// mustBe checks that dir is a cache, or could become one, or can be read as one.
func mustBe(dir string, orNew, readOnly bool) error {
	kind, err := kindOf(dir)
	switch {
	case err != nil:
		return fmt.Errorf("look into %s: %w", dir, withModeHint(err))
	case kind == isShared && readOnly:
	case kind >= isShared:
		return fmt.Errorf("%s is not a cache directory of modcache (it has no %s that says so): nothing was touched; name another with -dir; programs leave none among files of others", dir, layout.Tag)
	case kind != isCache && !orNew:
		return foundError(fmt.Sprintf("there is no cache in %s: nothing was stored there yet, or -dir names the wrong directory", dir))
	}
	return nil
}

// readOnly opens a cache without ever writing to it.
var readOnly = modcache.DiskOptions{ReadOnly: true}

// writable refuses to write where the environment has programs not write.
func (d *dirFlags) writable() error {
	if mode := os.Getenv(environ.Mode); d.dir == "" && mode != "" {
		return usagef("%s is %q: nothing is written to the directory that programs use by default; unset it for this command, or name a directory with -dir", environ.Mode, mode)
	}
	return nil
}

// open opens a cache. Unless o bounds it, it bounds nothing: the limits are those of the
// programs that use the cache, which aren't known here.
func (d *dirFlags) open(ctx context.Context, s *streams, o modcache.DiskOptions, orNew bool) (*modcache.Disk, error) {
	dir, err := d.path()
	if err == nil && !o.ReadOnly {
		err = d.writable()
	}
	if err != nil {
		return nil, err
	}
	if err := mustBe(dir, orNew, o.ReadOnly); err != nil {
		return nil, err
	}
	if o.Key, err = readSecret(d.keyFile); err != nil {
		return nil, err
	}
	if !o.ReadOnly {
		if err := s.interruption.begin(ctx); err != nil {
			return nil, err
		}
	}
	o.MaxBytes, o.MaxAge, o.Group = cmp.Or(o.MaxBytes, -1), cmp.Or(o.MaxAge, -1), d.group
	disk, err := modcache.OpenDisk(dir, &o)
	if errors.Is(err, modcache.ErrInsecureDir) {
		err = fmt.Errorf("%w (here: -key-file, -group)", err)
	}
	if o.ReadOnly {
		err = withModeHint(err)
	}
	return disk, err
}

// withModeHint says whose permission it takes.
func withModeHint(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; run this as the user who fills the cache, who can let others read it with the flag -mode 0755 of warm and pull", err)
	}
	return err
}

// cause is err without the store and the entry that it is about, which stand beside it.
func cause(err error) error {
	for at := (*modcache.Error)(nil); errors.As(err, &at); {
		err = at.Err
	}
	return err
}

// troubleText says what is wrong with an entry whose key stands beside it.
func troubleText(err error) string {
	switch err = cause(err); {
	case errors.Is(err, modcache.ErrOtherKey):
		return "sealed with another secret, or none: see -key-file"
	case errors.Is(err, modcache.ErrAuth):
		return "not authentic: " + plain(err)
	case errors.Is(err, modcache.ErrCorrupt):
		return "damaged: " + plain(err)
	}
	return "can't be read: " + plain(withModeHint(err))
}
