package books

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Pending is what was written and isn't known to survive a power failure. Its zero value
// is ready; its methods may be called from several goroutines at once.
type Pending struct {
	mu        sync.Mutex // guards all below
	files     map[[32]byte]*File
	adding    int // Adds under way
	lastFlush time.Time
	lastErr   error
}

// File is a file that is pending, or was. It is not the same as a later one under its key.
type File struct {
	size int64

	Shown atomic.Bool // it has its name; before, there is nothing to sync

	// Rewrite has the next flush write the file anew: a sync has failed, after which the
	// kernel may have dropped what it couldn't write.
	Rewrite atomic.Bool
}

// Status is a summary of what is pending.
type Status struct {
	Files     int
	Adding    int // Adds under way
	Bytes     int64
	LastFlush time.Time // that succeeded
	LastError error     // of the last flush
}

// Status returns a summary.
func (p *Pending) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{Files: len(p.files), Adding: p.adding, LastFlush: p.lastFlush, LastError: p.lastErr}
	for _, f := range p.files {
		s.Bytes += f.size
	}
	return s
}

// Add notes a file that is about to appear under key; undo takes that back.
func (p *Pending) Add(key [32]byte, size int64) (f *File, undo func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.files == nil {
		p.files = make(map[[32]byte]*File)
	}
	f = &File{size: size}
	before, replaced := p.files[key]
	p.files[key] = f
	return f, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch {
		case p.files[key] != f:
		case replaced:
			p.files[key] = before
		default:
			delete(p.files, key)
		}
	}
}

// Begin notes that an Add begins; end, that it has ended.
func (p *Pending) Begin() (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.adding++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.adding--
	}
}

// Visible returns the file that has appeared under key, for Drop; nil if there is none.
func (p *Pending) Visible(key [32]byte) *File {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.files[key]; f != nil && f.Shown.Load() {
		return f
	}
	return nil
}

// Drop forgets a file that is durable or was removed, and is known from before that: a
// later one under the same key is still pending.
func (p *Pending) Drop(key [32]byte, f *File) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.files[key] == f {
		delete(p.files, key)
	}
}

// Snapshot returns what can be synced.
func (p *Pending) Snapshot() map[[32]byte]*File {
	p.mu.Lock()
	defer p.mu.Unlock()
	files := maps.Clone(p.files)
	maps.DeleteFunc(files, func(_ [32]byte, f *File) bool { return !f.Shown.Load() })
	return files
}

// Flushed notes the outcome of a flush.
func (p *Pending) Flushed(now time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastErr = err
	if err == nil {
		p.lastFlush = now
	}
}
