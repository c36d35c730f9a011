package modcache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"
)

// DurabilityReport says which of the entries that a [Disk] added would survive
// a power failure.
type DurabilityReport struct {
	Pending      int       // entries that were added and aren't known to be durable
	PendingBytes int64     // their size on disk
	Durable      bool      // nothing is pending, and the last Flush didn't fail
	LastFlush    time.Time // when a Flush last succeeded; zero if none has
	LastError    error     // of the last Flush; nil if it succeeded
}

// DurabilityReport may be called at any time. An entry is pending until its
// file and its directory have been synced; one that Flush failed to sync stays
// pending. Entries that were evicted or deleted aren't.
func (d *Disk) DurabilityReport() DurabilityReport {
	s := &d.dirty
	s.mu.Lock()
	defer s.mu.Unlock()
	r := DurabilityReport{Pending: len(s.files), LastFlush: s.lastFlush, LastError: s.lastErr}
	for _, f := range s.files {
		r.PendingBytes += f.size
	}
	r.Durable = r.Pending == 0 && r.LastError == nil
	return r
}

// dirtySet is what was written and not synced.
type dirtySet struct {
	mu        sync.Mutex // guards all below; never held during I/O
	seq       uint64
	files     map[Key]dirtyFile
	lastFlush time.Time
	lastErr   error
}

type dirtyFile struct {
	size    int64
	seq     uint64 // tells a file from a later one under the same key
	rewrite bool   // a sync failed: the kernel may have dropped what it couldn't write
	visible bool   // it has its name; before, Flush has nothing to sync
}

// add notes a file that is about to appear under key; undo takes that back.
func (s *dirtySet) add(key Key, size int64) (f dirtyFile, undo func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files == nil {
		s.files = make(map[Key]dirtyFile)
	}
	s.seq++
	f = dirtyFile{size: size, seq: s.seq}
	before, replaced := s.files[key]
	s.files[key] = f
	return f, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case s.files[key].seq != f.seq:
		case replaced:
			s.files[key] = before
		default:
			delete(s.files, key)
		}
	}
}

// show notes that the file has appeared.
func (s *dirtySet) show(key Key, f dirtyFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if current, ok := s.files[key]; ok && current.seq == f.seq {
		current.visible = true
		s.files[key] = current
	}
}

// visible returns the seq of the file under key, 0 if there is none to sync.
func (s *dirtySet) visible(key Key) (seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.files[key]; f.visible {
		return f.seq
	}
	return 0
}

// drop forgets a file that was removed, whose seq was looked up before: a later one
// under the same key is still pending.
func (s *dirtySet) drop(key Key, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[key].seq == seq {
		delete(s.files, key)
	}
}

// snapshot returns what can be synced.
func (s *dirtySet) snapshot() map[Key]dirtyFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	files := maps.Clone(s.files)
	maps.DeleteFunc(files, func(_ Key, f dirtyFile) bool { return !f.visible })
	return files
}

// settle drops what f says about a key's file if it is durable now, and marks it
// if syncing it failed. A file that replaced it meanwhile stays as it is.
func (s *dirtySet) settle(key Key, f dirtyFile, durable bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch current, ok := s.files[key]; {
	case !ok || current.seq != f.seq:
	case durable:
		delete(s.files, key)
	default:
		current.rewrite = true
		s.files[key] = current
	}
}

func (s *dirtySet) finish(now time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
	if err == nil {
		s.lastFlush = now
	}
}

// Flush implements [Store]: it syncs the files and directories of all entries
// that this Disk added, several at a time. Its error joins all failures; what
// failed stays pending. After a failed sync, the kernel may report the next one
// as successful without having written a thing, so that the next Flush writes such an
// entry anew.
func (d *Disk) Flush(ctx context.Context) error {
	if d.o.ReadOnly {
		return d.ready(ctx)
	}
	err := d.ready(ctx)
	if err == nil {
		err = d.flush(ctx)
	}
	d.counters.flushes.Add(1)
	if err != nil {
		d.counters.flushErrors.Add(1)
	}
	d.dirty.finish(d.o.Now(), err)
	return err
}

func (d *Disk) flush(ctx context.Context) error {
	pending := d.dirty.snapshot()
	keys := slices.Collect(maps.Keys(pending))
	errs := make([]error, len(keys))
	forEach(len(keys), func(i int) {
		if errs[i] = ctx.Err(); errs[i] == nil {
			errs[i] = d.syncEntry(keys[i], pending[keys[i]])
		}
	})
	var dirs []string
	for i, key := range keys {
		if errs[i] == nil {
			dirs = append(dirs, entryName(key)[:1])
		}
	}
	slices.Sort(dirs)
	dirErr := d.syncDirs(slices.Compact(dirs))
	for i, key := range keys {
		switch {
		case errs[i] != nil && ctx.Err() != nil && errors.Is(errs[i], ctx.Err()):
			// Not tried.
		case errs[i] != nil:
			d.dirty.settle(key, pending[key], false)
		default:
			d.dirty.settle(key, pending[key], dirErr == nil)
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("modcache: flush %s: %w", d.dir, ctx.Err())
	}
	if err := errors.Join(append(errs, dirErr)...); err != nil {
		return d.failed(Key{}, fmt.Errorf("modcache: flush %s: %w", d.dir, err))
	}
	return nil
}

// syncEntry makes the contents of an entry's file durable. An entry that is gone
// needs nothing.
func (d *Disk) syncEntry(key Key, f dirtyFile) error {
	if f.rewrite {
		return d.rewrite(key)
	}
	// Windows syncs only what is open for writing.
	file, err := d.fs.OpenFile(entryName(key), os.O_RDWR|openFlags, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = file.Sync()
	return errors.Join(err, file.Close())
}

// rewrite replaces an entry by a synced copy of what can still be read and verified.
func (d *Disk) rewrite(key Key) error {
	e, err := d.open(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	a := NewArtifactFrom(e, e.r.Size(), infoOf(e.r.Meta()))
	defer a.Close()
	tmp, _, err := d.writeTemp(key, a, a.Size(), e.r.Meta(), true)
	if err != nil {
		return err
	}
	defer d.writing.Delete(tmp)
	if err := d.fs.Rename(tmp, entryName(key)); err != nil {
		d.discard(tmp)
		return err
	}
	return nil
}

// syncDirs makes the names in some shards durable, and the shards' own names.
func (d *Disk) syncDirs(dirs []string) error {
	errs := make([]error, len(dirs)+1)
	forEach(len(dirs), func(i int) { errs[i] = d.fs.SyncDir(dirs[i]) })
	if len(dirs) > 0 {
		errs[len(dirs)] = d.fs.SyncDir(".")
	}
	return errors.Join(errs...)
}

// forEach calls f for 0 to n-1, some at a time: devices are faster with several
// requests at hand.
func forEach(n int, f func(i int)) {
	const atOnce = 16
	var (
		wg   sync.WaitGroup
		free = make(chan struct{}, atOnce)
	)
	for i := range n {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			f(i)
		})
	}
	wg.Wait()
}
