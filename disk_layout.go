package modcache

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/modcache/modcache/internal/dirfs"
)

// What is in a cache directory:
//
//	README, CACHEDIR.TAG  for people, and for backup programs
//	trimmed               an empty file; its time is that of the last trim
//	0 … f/                entries by the first digit of their key: <key>.v1
//	tmp/                  files being written, renamed into place when whole
//	lock/                 one file per key that is being compiled
//	quarantine/           the last damaged entries
//
// The suffix is the version of the frame format: programs of different
// versions share a directory, and each takes the other's entries for ballast
// that counts and ages out.
const (
	entrySuffix   = ".v1"
	tmpDir        = "tmp"
	lockDir       = "lock"
	quarantineDir = "quarantine"
	stampFile     = "trimmed"

	dirPerm  = 0o700
	filePerm = 0o600
)

const shards = "0123456789abcdef"

const readme = `This directory is a cache of machine code that was compiled from WebAssembly
modules (github.com/modcache/modcache). It may be deleted at any time, whole or
in part: what is missing is compiled again. Programs execute what is in it, so
nobody but its owner should be able to write here.
`

// The signature is the one that https://bford.info/cachedir/ asks for.
const cacheTag = "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of github.com/modcache/modcache.\n"

func entryName(key Key) string {
	b := make([]byte, 0, 2*len(key)+2+len(entrySuffix))
	b = hex.AppendEncode(append(b, "0/"...), key[:])
	b[0] = b[2]
	return string(append(b, entrySuffix...))
}

// keyOfName is the inverse of entryName, for the last element of a name, whatever
// the version. It reports false for a file that is none of ours.
func keyOfName(name string) (key Key, current, ok bool) {
	digits, version, found := strings.Cut(name, ".v")
	if !found || version == "" || len(version) > 3 || strings.Trim(version, "0123456789") != "" ||
		strings.ToLower(digits) != digits {
		return Key{}, false, false
	}
	key, err := ParseKey(digits)
	return key, "."+"v"+version == entrySuffix, err == nil
}

// furnish creates what a store needs before its first Add.
func (d *Disk) furnish() error {
	if err := d.mkdir(tmpDir); err != nil {
		return err
	}
	for name, text := range map[string]string{"README": readme, "CACHEDIR.TAG": cacheTag} {
		if _, err := d.fs.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			// Nothing depends on these two.
			_ = d.writeFile(name, text)
		}
	}
	return nil
}

func (d *Disk) mkdir(name string) error {
	if err := d.fs.Mkdir(name, dirPerm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (d *Disk) writeFile(name, text string) error {
	f, err := d.fs.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, filePerm)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(text))
	return errors.Join(err, f.Close())
}

// tempName returns a name that nothing else has.
func tempName(key Key) string { return key.String() + "-" + rand.Text() }

// isTempName reports whether tempName could have made name.
func isTempName(name string) bool {
	digits, random, ok := strings.Cut(name, "-")
	_, err := ParseKey(digits)
	return ok && err == nil && len(random) == len(rand.Text())
}

// createTemp opens a new file in the directory for files being written. It
// is safe from reap until its name is deleted from d.writing.
func (d *Disk) createTemp(key Key) (name string, f dirfs.File, err error) {
	name = tmpDir + "/" + tempName(key)
	d.writing.Store(name, true)
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err = d.fs.OpenFile(name, flags, filePerm)
	if errors.Is(err, fs.ErrNotExist) { // somebody cleaned up
		if err = d.mkdir(tmpDir); err == nil {
			f, err = d.fs.OpenFile(name, flags, filePerm)
		}
	}
	if err != nil {
		d.writing.Delete(name)
	}
	return name, f, err
}

// renameInto moves a file to dir/name, creating dir if it isn't there.
func (d *Disk) renameInto(from, dir, name string) error {
	err := d.fs.Rename(from, dir+"/"+name)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := d.mkdir(dir); err != nil {
		return err
	}
	return d.fs.Rename(from, dir+"/"+name)
}

// skew is how far a time may lie ahead of the clock before it counts as wrong
// rather than as another clock's.
const skew = time.Hour

// useInterval throttles the recording of uses: an entry's time is set anew
// when it is off by more than this.
func (d *Disk) useInterval() time.Duration {
	if d.o.MaxAge > 0 {
		return min(time.Minute, d.o.MaxAge/8)
	}
	return time.Minute
}

// since is how long ago t was; clocks that were set back don't make it negative.
func (d *Disk) since(t time.Time) time.Duration { return max(0, d.o.Now().Sub(t)) }

// touch records that the entry is used now. It is a hint, whose loss costs an
// entry its place in the order of eviction.
func (d *Disk) touch(key Key, fi fs.FileInfo) {
	if d.o.ReadOnly {
		return
	}
	now := d.o.Now()
	if off := now.Sub(fi.ModTime()).Abs(); off > d.useInterval() {
		_ = d.fs.Chtimes(entryName(key), now, now)
	}
}
