package modcache

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/modcache/modcache/internal/wazerohook"
)

// errUnexpected is what wazero gets when it asks for something that nobody
// announced. It must fail the compile: after a miss, wazero would compile what it has, and a
// compiled stub traps on every call.
var errUnexpected = errors.New("modcache: not announced to the private cache")

// expectations is what wazero sees as the files of an engine's cache. Each load
// is announced before wazero is asked to compile, so that nothing else is ever served.
type expectations struct {
	w    *wazerohook.Wazero
	term bool

	mu        sync.Mutex
	entries   map[wazerohook.WazeroKey]*expected
	listeners map[*listening]struct{}
}

// expected is one announced load; without an entry it is a compile in full.
type expected struct {
	entry *wazerohook.Entry

	mu  sync.Mutex
	err error // of the reader, which wazero doesn't wrap
}

// listening is a compile with listeners, whose key shows only when wazero asks.
type listening struct {
	key  *wazerohook.ListenerKey
	wasm []byte
}

// entry announces that wazero will ask for key and shall get e. done ends that and
// returns the error that e's source failed with, if it did.
func (x *expectations) entry(key wazerohook.WazeroKey, e *wazerohook.Entry) (done func() error) {
	p := &expected{entry: e}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.entries == nil {
		x.entries = make(map[wazerohook.WazeroKey]*expected)
	}
	x.entries[key] = p
	return func() error {
		x.mu.Lock()
		if x.entries[key] == p {
			delete(x.entries, key)
		}
		x.mu.Unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.err
	}
}

// nothing announces a compile in full.
func (x *expectations) nothing(key wazerohook.WazeroKey) (done func() error) {
	return x.entry(key, nil)
}

// listener announces a compile in full with listeners.
func (x *expectations) listener(l *listening) (done func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.listeners == nil {
		x.listeners = make(map[*listening]struct{})
	}
	x.listeners[l] = struct{}{}
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.listeners, l)
	}
}

// find returns what was announced for key. full means a compile in full.
func (x *expectations) find(key wazerohook.WazeroKey) (p *expected, full bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if p := x.entries[key]; p != nil {
		return p, p.entry == nil
	}
	for l := range x.listeners {
		if l.key.Key(x.w, l.wasm, x.term) == key {
			return nil, true
		}
	}
	return nil, false
}

func (x *expectations) Get(key wazerohook.WazeroKey) (io.ReadCloser, bool, error) {
	p, full := x.find(key)
	switch {
	case full:
		return nil, false, nil
	case p == nil:
		return nil, false, errUnexpected
	}
	return p.entry.Open(func(err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.err == nil {
			p.err = err
		}
	}), true, nil
}

// Add is offered what was compiled in full, which the Cache has by other means.
func (x *expectations) Add(key wazerohook.WazeroKey, _ io.Reader) error {
	return x.onlyFull(key)
}

// Delete is called when wazero takes an entry for another version's. It would go
// on to compile a stub.
func (x *expectations) Delete(key wazerohook.WazeroKey) error { return x.onlyFull(key) }

func (x *expectations) onlyFull(key wazerohook.WazeroKey) error {
	if _, full := x.find(key); !full {
		return fmt.Errorf("%w: wazero does not accept what it was given", errUnexpected)
	}
	return nil
}

// capture is an empty cache that takes hold of the code of one module.
type capture struct{ code []byte }

func (c *capture) Get(wazerohook.WazeroKey) (io.ReadCloser, bool, error) { return nil, false, nil }

func (c *capture) Add(_ wazerohook.WazeroKey, content io.Reader) error {
	if code, err := readCode(content); err == nil {
		c.code = code
	}
	return nil
}

func (c *capture) Delete(wazerohook.WazeroKey) error { return nil }
