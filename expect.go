package modcache

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/modcache/modcache/internal/wazerohook"
)

// errUnexpected is what wazero gets when it asks for something that nobody
// announced. It must fail the compile: after a miss, wazero would compile what it
// has, and a compiled stub traps on every call.
var errUnexpected = errors.New("modcache: not announced to the private cache")

// expectations is what wazero sees as the files of an engine's cache. Each compile
// is announced before wazero is asked for it, so that nothing else is ever served.
type expectations struct {
	mu      sync.Mutex
	pending map[*expected]struct{}
}

// expected is one announced compile.
type expected struct {
	key   func() wazerohook.WazeroKey // what wazero will ask for; it may take a while to tell
	entry *wazerohook.Entry           // what it gets; nil for a compile in full

	mu  sync.Mutex
	err error // of the entry's source, which wazero doesn't wrap
}

// announce has wazero get entry when it asks for key, or nothing if entry is nil. done
// ends that, and returns the error that the entry's source failed with, if it did.
func (x *expectations) announce(key func() wazerohook.WazeroKey, entry *wazerohook.Entry) (done func() error) {
	p := &expected{key: key, entry: entry}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.pending == nil {
		x.pending = make(map[*expected]struct{})
	}
	x.pending[p] = struct{}{}
	return func() error {
		x.mu.Lock()
		delete(x.pending, p)
		x.mu.Unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.err
	}
}

// find returns what was announced for key, or nil.
func (x *expectations) find(key wazerohook.WazeroKey) *expected {
	x.mu.Lock()
	pending := slices.Collect(maps.Keys(x.pending))
	x.mu.Unlock()
	for _, p := range pending {
		if p.key() == key {
			return p
		}
	}
	return nil
}

func (x *expectations) Get(key wazerohook.WazeroKey) (io.ReadCloser, bool, error) {
	p := x.find(key)
	switch {
	case p == nil:
		return nil, false, errUnexpected
	case p.entry == nil:
		return nil, false, nil
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
func (x *expectations) Add(key wazerohook.WazeroKey, _ io.Reader) error { return x.onlyFull(key) }

// Delete is called when wazero takes an entry for another version's. It would go
// on to compile a stub.
func (x *expectations) Delete(key wazerohook.WazeroKey) error { return x.onlyFull(key) }

func (x *expectations) onlyFull(key wazerohook.WazeroKey) error {
	if p := x.find(key); p == nil || p.entry != nil {
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
