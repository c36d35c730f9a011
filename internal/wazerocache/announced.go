// Package wazerocache is what wazero is given in place of its files, in engines that
// nobody but modcache knows: code that was announced a moment before, and nothing else.
// It also compiles and validates modules in engines that are thrown away.
package wazerocache

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/modcache/modcache/internal/wazerohook"
)

// ErrUnexpected is what wazero gets when it asks for something that nobody
// announced. It must fail the compile: after a miss, wazero would compile what it
// has, and a compiled stub traps on every call.
var ErrUnexpected = errors.New("not announced to the private cache")

// Announced is what wazero sees as the files of an engine's cache. Each compile
// is announced before wazero is asked for it, so that nothing else is ever served. The
// zero value is ready for use, by several goroutines.
type Announced struct {
	alone sync.RWMutex // read-locked by what was announced, but for AnnounceAny

	mu      sync.Mutex
	pending map[*announcement]struct{}
	refused uint64
	last    wazerohook.WazeroKey // that was refused
	instead wazerohook.FileCache // for what nobody announced, if set
}

// announcement is one compile that is about to happen.
type announcement struct {
	key   func() wazerohook.WazeroKey // what wazero will ask for; it may take a while to tell. Nil for anything
	entry Source                      // of what it gets; nil for a compile in full

	mu  sync.Mutex
	err error // of the entry's source, which wazero doesn't wrap
}

// Source returns an entry, which it may have to wait for. It always returns the same.
type Source func() (*wazerohook.Entry, error)

// Ready is the source of an entry that is there.
func Ready(entry *wazerohook.Entry) Source {
	return func() (*wazerohook.Entry, error) { return entry, nil }
}

// Announce has wazero get the entry of a source when it asks for key, or nothing if entry is nil. done
// ends that, and returns the error that the source failed with, or what the entry is read from, if one did.
func (x *Announced) Announce(key func() wazerohook.WazeroKey, entry Source) (done func() error) {
	x.alone.RLock()
	return x.announce(&announcement{key: key, entry: entry}, x.alone.RUnlock)
}

// AnnounceAny has wazero compile in full, whatever key it asks for. It waits until nothing
// else is announced, and nothing else is until done is called: a stub that was asked for under
// another key than expected must not be compiled.
func (x *Announced) AnnounceAny() (done func() error) {
	x.alone.Lock()
	return x.announce(&announcement{}, x.alone.Unlock)
}

func (x *Announced) announce(p *announcement, unlock func()) (done func() error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.pending == nil {
		x.pending = make(map[*announcement]struct{})
	}
	x.pending[p] = struct{}{}
	unlock = sync.OnceFunc(unlock)
	return func() error {
		x.mu.Lock()
		delete(x.pending, p)
		x.mu.Unlock()
		unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.err
	}
}

// Refused returns how often wazero asked for what nobody had announced.
func (x *Announced) Refused() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.refused
}

// Asked returns the last key that nobody had announced.
func (x *Announced) Asked() (key wazerohook.WazeroKey, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.last, x.refused > 0
}

// Otherwise has files answer from here on when wazero asks for what nobody announced. No
// stub may be in the engine then, or come into it.
func (x *Announced) Otherwise(files wazerohook.FileCache) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.instead = files
}

// Replaced reports whether Otherwise was called.
func (x *Announced) Replaced() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.instead != nil
}

// find returns what was announced for key, or nil and what answers instead, if anything does.
func (x *Announced) find(key wazerohook.WazeroKey) (*announcement, wazerohook.FileCache) {
	x.mu.Lock()
	pending := slices.Collect(maps.Keys(x.pending))
	x.mu.Unlock()
	for _, p := range pending {
		if p.key == nil || p.key() == key {
			return p, nil
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.instead == nil {
		x.refused++
		x.last = key
	}
	return nil, x.instead
}

// Get implements [wazerohook.FileCache].
func (x *Announced) Get(key wazerohook.WazeroKey) (io.ReadCloser, bool, error) {
	p, instead := x.find(key)
	switch {
	case instead != nil:
		return instead.Get(key)
	case p == nil:
		return nil, false, ErrUnexpected
	case p.entry == nil:
		return nil, false, nil
	}
	entry, err := p.entry()
	if err != nil {
		p.failed(err)
		return nil, false, err
	}
	return entry.Open(p.failed), true, nil
}

func (p *announcement) failed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
}

// equal reports whether content is the entry.
func (p *announcement) equal(content io.Reader) bool {
	entry, err := p.entry()
	return err == nil && entry.Equal(content)
}

// Add is offered what was compiled in full, which the caller has by other means, or what
// wazero has just read.
func (x *Announced) Add(key wazerohook.WazeroKey, content io.Reader) error {
	p, instead := x.find(key)
	switch {
	case instead != nil:
		return instead.Add(key, content)
	case p == nil || p.entry != nil && !p.equal(content):
		return errRefused
	}
	return nil
}

// Delete is called when wazero takes an entry for another version's. It would go
// on to compile a stub.
func (x *Announced) Delete(key wazerohook.WazeroKey) error {
	p, instead := x.find(key)
	switch {
	case instead != nil:
		return instead.Delete(key)
	case p == nil || p.entry != nil:
		return errRefused
	}
	return nil
}

var errRefused = fmt.Errorf("%w: wazero does not accept what it was given", ErrUnexpected)
