package modcache

import (
	"errors"
	"strings"

	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/frame"
)

// Errors to test for with [errors.Is]. What is returned wraps them with what
// was attempted and where.
var (
	// ErrMiss is what a compile returns under Options.RequireHit when the module
	// is not in the cache.
	ErrMiss = errors.New("not in the cache")
	// ErrCorrupt means that stored bytes are not those that were written, or not
	// those of the key they are found under.
	ErrCorrupt = frame.ErrCorrupt // "corrupt entry"
	// ErrAuth means that stored bytes don't carry a valid tag or signature of a
	// trusted key.
	ErrAuth = frame.ErrAuth // "entry is not authentic"
	// ErrOtherKey means that an entry is sealed or signed under a key that isn't among
	// those that are trusted here: it may be intact, and somebody else's. It wraps ErrAuth.
	ErrOtherKey = frame.ErrForeign // "entry is not authentic: sealed under another key"
	// ErrUnavailable means that a layer or a server is not asked for now: it failed too
	// often in a row, too many of its calls hang, or its queue of writes is full.
	ErrUnavailable = errors.New("unavailable for now")
	// ErrTooLarge means that an artifact exceeds the store's whole budget, or what its
	// reader takes.
	ErrTooLarge = frame.ErrTooLarge // "artifact is too large"
	// ErrInsecureDir means that others could write to a cache directory or replace it, or
	// that it is somebody else's.
	ErrInsecureDir = dirfs.ErrInsecure // "insecure cache directory"
	// ErrUnsupportedWazero means that this build of wazero has a shape that
	// modcache doesn't know, so that nothing can be plugged into it.
	ErrUnsupportedWazero = errors.New("unsupported wazero version")
	// ErrClosed means that the Cache, Runtime, store, artifact or table was closed.
	ErrClosed = errors.New("closed")
	// ErrReadOnly is what a read-only store answers to Add and Delete.
	ErrReadOnly = errors.New("store is read-only")
)

// isDamage tells an entry that is wrong from a store that failed.
func isDamage(err error) bool { return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrAuth) }

// Error says what failed, where, and about which entry. Stores, caches and runtimes
// return it around the cause; test for causes with [errors.Is].
type Error struct {
	Op    string // what was attempted: "get", "add", "compile", …
	Store string // what it was attempted with: "disk /var/cache/x", "layer memory"; "" if no store is at fault
	Key   Key    // zero if it isn't about one entry
	Name  string // of the module, as in [Module.Name]; "" where it isn't known
	Err   error  // why it failed; never nil
}

// Error returns one line that names each thing once, however many stores an error has
// passed through.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("modcache: ")
	e.write(&b, &Error{})
	return b.String()
}

// write appends what outer has not said already.
func (e *Error) write(b *strings.Builder, outer *Error) {
	if e.Store != "" && e.Store != outer.Store {
		b.WriteString(e.Store + ": ")
	}
	if key := e.Key != (Key{}) && e.Key != outer.Key; key || e.Op != outer.Op {
		b.WriteString(e.Op)
		switch {
		case key && e.Name != "":
			b.WriteString(" " + e.Name + " (key " + e.Key.short() + "…)")
		case key:
			b.WriteString(" " + e.Key.String())
		}
		b.WriteString(": ")
	}
	writeCause(b, e.Err, e)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// writeCause appends why outer failed.
func writeCause(b *strings.Builder, err error, outer *Error) {
	if c, ok := err.(interface {
		write(*strings.Builder, *Error)
	}); ok {
		c.write(b, outer)
		return
	}
	text := []string{err.Error()}
	if !strings.Contains(text[0], "\n\t") { // as stack traces have it, where errors.Join has a line for each error
		text = strings.Split(text[0], "\n")
	}
	for i, line := range text {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(strings.TrimPrefix(line, "modcache: "))
	}
}

// causes are several errors as the cause of one.
type causes []error

func (c causes) Error() string   { return causeText(c) }
func (c causes) Unwrap() []error { return c }

func (c causes) write(b *strings.Builder, outer *Error) {
	for i, err := range c {
		if i > 0 {
			b.WriteString("; ")
		}
		writeCause(b, err, outer)
	}
}

// annotated is a cause with words before and after it.
type annotated struct {
	before string
	err    error
	after  string
}

func (a *annotated) Error() string { return causeText(a) }
func (a *annotated) Unwrap() error { return a.err }

func (a *annotated) write(b *strings.Builder, outer *Error) {
	b.WriteString(a.before)
	writeCause(b, a.err, outer)
	b.WriteString(a.after)
}

func causeText(err error) string {
	var b strings.Builder
	writeCause(&b, err, &Error{})
	return b.String()
}
