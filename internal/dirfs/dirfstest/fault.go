// Package dirfstest has file systems that fail on purpose, and one that knows
// what a power failure would leave.
package dirfstest

import (
	"io/fs"
	"sync"
	"time"

	"github.com/modcache/modcache/internal/dirfs"
)

// Op is a kind of operation.
type Op string

// Operations of a file system and of its files.
const (
	Open    Op = "open"
	Mkdir   Op = "mkdir"
	Rename  Op = "rename"
	Remove  Op = "remove"
	Lstat   Op = "lstat"
	Chtimes Op = "chtimes"
	ReadDir Op = "readdir"
	SyncDir Op = "syncdir"
	Space   Op = "space"
	Read    Op = "read"
	Write   Op = "write"
	Alloc   Op = "allocate"
	Stat    Op = "stat"
	Sync    Op = "sync"
	Close   Op = "close"
	Lock    Op = "lock"
)

// Ops lists all of them.
var Ops = []Op{Open, Mkdir, Rename, Remove, Lstat, Chtimes, ReadDir, SyncDir, Space, Read, Write, Alloc, Stat, Sync, Close, Lock}

// Faulty makes operations of an FS fail.
type Faulty struct {
	dirfs.FS

	mu    sync.Mutex
	fail  func(op Op, n int) error
	count map[Op]int
	fired int
}

// NewFaulty returns fs with faults: fail is asked before each operation, with the
// number of operations of its kind so far, from 1. A write that fails has
// written half of what it should have; a close that fails has closed.
func NewFaulty(tree dirfs.FS, fail func(op Op, n int) error) *Faulty {
	return &Faulty{FS: tree, fail: fail, count: make(map[Op]int)}
}

// Heal ends all faults and returns how many there were.
func (f *Faulty) Heal() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = nil
	return f.fired
}

func (f *Faulty) check(op Op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count[op]++
	if f.fail == nil {
		return nil
	}
	if err := f.fail(op, f.count[op]); err != nil {
		f.fired++
		return &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	return nil
}

// OpenFile implements dirfs.FS.
func (f *Faulty) OpenFile(name string, flag int, perm fs.FileMode) (dirfs.File, error) {
	if err := f.check(Open, name); err != nil {
		return nil, err
	}
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, f, name}, nil
}

// Mkdir implements dirfs.FS.
func (f *Faulty) Mkdir(name string, perm fs.FileMode) error {
	if err := f.check(Mkdir, name); err != nil {
		return err
	}
	return f.FS.Mkdir(name, perm)
}

// Rename implements dirfs.FS.
func (f *Faulty) Rename(oldName, newName string) error {
	if err := f.check(Rename, oldName); err != nil {
		return err
	}
	return f.FS.Rename(oldName, newName)
}

// Remove implements dirfs.FS.
func (f *Faulty) Remove(name string) error {
	if err := f.check(Remove, name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

// RemoveAll implements dirfs.FS.
func (f *Faulty) RemoveAll(name string) error {
	if err := f.check(Remove, name); err != nil {
		return err
	}
	return f.FS.RemoveAll(name)
}

// Lstat implements dirfs.FS.
func (f *Faulty) Lstat(name string) (fs.FileInfo, error) {
	if err := f.check(Lstat, name); err != nil {
		return nil, err
	}
	return f.FS.Lstat(name)
}

// Chtimes implements dirfs.FS.
func (f *Faulty) Chtimes(name string, atime, mtime time.Time) error {
	if err := f.check(Chtimes, name); err != nil {
		return err
	}
	return f.FS.Chtimes(name, atime, mtime)
}

// ReadDir implements dirfs.FS.
func (f *Faulty) ReadDir(name string) ([]fs.FileInfo, error) {
	if err := f.check(ReadDir, name); err != nil {
		return nil, err
	}
	return f.FS.ReadDir(name)
}

// SyncDir implements dirfs.FS. It isn't passed on.
func (f *Faulty) SyncDir(name string) error { return f.check(SyncDir, name) }

// Space implements dirfs.FS.
func (f *Faulty) Space() (free, total int64, err error) {
	if err := f.check(Space, "."); err != nil {
		return 0, 0, err
	}
	return f.FS.Space()
}

type faultyFile struct {
	dirfs.File
	fs   *Faulty
	name string
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.check(Read, f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *faultyFile) Write(p []byte) (int, error) {
	if err := f.fs.check(Write, f.name); err != nil {
		n, _ := f.File.Write(p[:len(p)/2])
		return n, err
	}
	return f.File.Write(p)
}

func (f *faultyFile) Allocate(size int64) error {
	if err := f.fs.check(Alloc, f.name); err != nil {
		return err
	}
	return f.File.Allocate(size)
}

func (f *faultyFile) Stat() (fs.FileInfo, error) {
	if err := f.fs.check(Stat, f.name); err != nil {
		return nil, err
	}
	return f.File.Stat()
}

// Sync isn't passed on: nobody could tell, but for the time it takes.
func (f *faultyFile) Sync() error { return f.fs.check(Sync, f.name) }

func (f *faultyFile) Close() error {
	err := f.fs.check(Close, f.name)
	if e := f.File.Close(); err == nil {
		err = e
	}
	return err
}

func (f *faultyFile) TryLock() (bool, error) {
	if err := f.fs.check(Lock, f.name); err != nil {
		return false, err
	}
	return f.File.TryLock()
}
