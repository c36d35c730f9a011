package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/modcache/modcache"
)

// dirFlags name a cache directory.
type dirFlags struct {
	dir     string
	keyFile string
}

func (d *dirFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&d.dir, "dir", "", "the cache `directory`; by default the one that modcache.Open(\"\") uses")
	fs.StringVar(&d.keyFile, "key-file", "", "`file` with the secret of DiskOptions.Key, if programs use one; a newline at its end doesn't count")
}

func (d *dirFlags) path() (string, error) {
	if d.dir != "" {
		return filepath.Abs(d.dir)
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", usagef("there is no default directory, name one with -dir: %v", err)
	}
	return filepath.Join(base, "modcache"), nil
}

// readSecret returns what a key file holds, or nil if there is none.
func readSecret(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the secret: %w", err)
	}
	b = bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(b) == 0 {
		return nil, fmt.Errorf("%s is empty; put a secret of at least 16 random bytes into it", file)
	}
	return b, nil
}

// tagName and tagText tell a cache directory from any other. Whoever opens one
// for writing puts the file there.
const (
	tagName = "CACHEDIR.TAG"
	tagText = "github.com/modcache/modcache"
)

// What a directory may be.
type dirKind int

const (
	missing   dirKind = iota
	empty             // or with nothing but what a new file system has
	isCache           // of ours
	isForeign         // anything else: never touched
)

func kindOf(dir string) (dirKind, error) {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return missing, nil
	case err != nil:
		return isForeign, err
	}
	tag, err := readTag(filepath.Join(dir, tagName))
	switch {
	case err == nil && bytes.Contains(tag, []byte(tagText)):
		return isCache, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return isForeign, err
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return isForeign, nil
		}
	}
	return empty, nil
}

// readTag reads what may be anybody's file, or no file at all.
func readTag(name string) ([]byte, error) {
	const enough = 4 << 10
	fi, err := os.Lstat(name)
	if err != nil || !fi.Mode().IsRegular() {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, enough))
}

// mustBe checks that dir is a cache, or could become one.
func mustBe(dir string, orNew bool) error {
	kind, err := kindOf(dir)
	switch {
	case err != nil:
		return fmt.Errorf("look into %s: %w", dir, err)
	case kind == isForeign:
		return fmt.Errorf("%s is not a cache directory of modcache (it has no %s that says so): nothing was touched; name another with -dir", dir, tagName)
	case kind != isCache && !orNew:
		return foundError(fmt.Sprintf("there is no cache in %s: nothing was stored there yet, or -dir names the wrong directory", dir))
	}
	return nil
}

// read opens an existing cache without ever writing to it.
func (d *dirFlags) read() (*modcache.Disk, error) { return d.readObserved(nil) }

func (d *dirFlags) readObserved(observer func(modcache.Event)) (*modcache.Disk, error) {
	dir, err := d.path()
	if err != nil {
		return nil, err
	}
	if err := mustBe(dir, false); err != nil {
		return nil, err
	}
	return d.open(dir, modcache.DiskOptions{ReadOnly: true, OnEvent: observer})
}

// write opens a cache for writing. Unless o bounds it, it bounds nothing: the limits are those of
// the programs that use the cache, which aren't known here.
func (d *dirFlags) write(orNew bool, o modcache.DiskOptions) (*modcache.Disk, error) {
	dir, err := d.path()
	if err != nil {
		return nil, err
	}
	if err := mustBe(dir, orNew); err != nil {
		return nil, err
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = -1
	}
	if o.MaxAge == 0 {
		o.MaxAge = -1
	}
	return d.open(dir, o)
}

func (d *dirFlags) open(dir string, o modcache.DiskOptions) (*modcache.Disk, error) {
	secret, err := readSecret(d.keyFile)
	if err != nil {
		return nil, err
	}
	o.Key = secret
	return modcache.OpenDisk(dir, &o)
}

// otherKey reports that an entry was sealed under a secret that wasn't given, or
// with none. It may be sound.
func otherKey(err error) bool { return errors.Is(err, modcache.ErrOtherKey) }

// troubleText says what is wrong with an entry, without its path, which repeats
// the key.
func troubleText(err error) string {
	for at := (*modcache.Error)(nil); errors.As(err, &at); {
		err = at.Err // without the store and the key
	}
	switch {
	case errors.Is(err, modcache.ErrOtherKey):
		return "sealed with another secret, or none: see -key-file"
	case errors.Is(err, modcache.ErrAuth):
		return "not authentic: " + plain(err)
	case errors.Is(err, modcache.ErrCorrupt):
		return "damaged: " + plain(err)
	}
	return "can't be read: " + plain(err)
}
