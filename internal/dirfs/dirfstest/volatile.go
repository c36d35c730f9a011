package dirfstest

import (
	"bytes"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"

	"github.com/modcache/modcache/internal/dirfs"
)

// Volatile passes operations on to an FS and keeps a model of what is on the
// device: file contents from the last sync of the file, and names from
// the last sync of their directory. Crash shows what a power failure may leave.
type Volatile struct {
	dirfs.FS

	mu      sync.Mutex // guards all below, and every inode
	names   map[string]*inode
	durable map[string]map[string]*inode // by directory
}

type inode struct {
	dir    bool
	data   []byte
	synced []byte // nil: never
}

// NewVolatile returns a model of an empty tree.
func NewVolatile(tree dirfs.FS) *Volatile {
	return &Volatile{FS: tree, names: make(map[string]*inode), durable: make(map[string]map[string]*inode)}
}

// OpenFile implements dirfs.FS.
func (v *Volatile) OpenFile(name string, flag int, perm fs.FileMode) (dirfs.File, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f, err := v.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	ino := v.names[name]
	if ino == nil {
		ino = new(inode)
		v.names[name] = ino
	}
	return &volatileFile{f, v, ino, 0}, nil
}

// Mkdir implements dirfs.FS.
func (v *Volatile) Mkdir(name string, perm fs.FileMode) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	err := v.FS.Mkdir(name, perm)
	if err == nil {
		v.names[name] = &inode{dir: true}
	}
	return err
}

// Rename implements dirfs.FS.
func (v *Volatile) Rename(oldName, newName string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	err := v.FS.Rename(oldName, newName)
	if err == nil {
		v.names[newName] = v.names[oldName]
		delete(v.names, oldName)
	}
	return err
}

// Remove implements dirfs.FS.
func (v *Volatile) Remove(name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	err := v.FS.Remove(name)
	if err == nil {
		delete(v.names, name)
	}
	return err
}

// SyncDir implements dirfs.FS.
func (v *Volatile) SyncDir(name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.durable[name] = v.list(name)
	return nil
}

func (v *Volatile) list(dir string) map[string]*inode {
	out := make(map[string]*inode)
	for name, ino := range v.names {
		if path.Dir(name) == dir {
			out[name] = ino
		}
	}
	return out
}

// Crash writes a state that a power failure could leave at this moment to a new
// directory: what was synced, and any part of what wasn't.
func (v *Volatile) Crash(rng *rand.Rand, dir string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.crashDir(rng, ".", dir)
}

func (v *Volatile) crashDir(rng *rand.Rand, name, to string) error {
	current, durable := v.list(name), v.durable[name]
	left := make(map[string]*inode)
	for _, n := range slices.Sorted(maps.Keys(durable)) {
		if current[n] != nil || rng.IntN(2) == 0 { // else its removal reached the device by itself
			left[n] = durable[n]
		}
	}
	for _, n := range slices.Sorted(maps.Keys(current)) {
		if durable[n] != current[n] && rng.IntN(2) == 0 { // so did its new name
			left[n] = current[n]
		}
	}
	for _, n := range slices.Sorted(maps.Keys(left)) {
		ino := left[n]
		at := filepath.Join(to, path.Base(n))
		var err error
		if ino.dir {
			if err = os.Mkdir(at, 0o700); err == nil {
				err = v.crashDir(rng, n, at)
			}
		} else {
			err = os.WriteFile(at, ino.contents(rng), 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// contents returns what may be on the device of a file.
func (i *inode) contents(rng *rand.Rand) []byte {
	if i.synced != nil && bytes.Equal(i.synced, i.data) {
		return i.synced
	}
	torn := bytes.Clone(i.data)
	switch rng.IntN(4) {
	case 0:
		torn = torn[:rng.IntN(len(torn)+1)]
	case 1: // the length is there, the blocks are not
		if len(torn) > 0 {
			clear(torn[rng.IntN(len(torn)):])
		}
	case 2:
		torn = i.synced
	}
	return torn
}

type volatileFile struct {
	dirfs.File
	v   *Volatile
	ino *inode
	end int64 // of what was written; guarded by v.mu
}

func (f *volatileFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	f.grow(f.end + int64(n))
	copy(f.ino.data[f.end:], p[:n])
	f.end += int64(n)
	return n, err
}

// Allocate implements dirfs.File. The zeros may survive without what is written over
// them.
func (f *volatileFile) Allocate(size int64) error {
	err := f.File.Allocate(size)
	if err == nil {
		f.v.mu.Lock()
		defer f.v.mu.Unlock()
		f.grow(size)
	}
	return err
}

// grow appends zeros. It requires v.mu.
func (f *volatileFile) grow(size int64) {
	if missing := size - int64(len(f.ino.data)); missing > 0 {
		f.ino.data = append(f.ino.data, make([]byte, missing)...)
	}
}

func (f *volatileFile) Sync() error {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	f.ino.synced = bytes.Clone(f.ino.data)
	if f.ino.synced == nil {
		f.ino.synced = []byte{}
	}
	return nil
}
