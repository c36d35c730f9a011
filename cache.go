// Package modcache caches the machine code that the wazero runtime compiles
// WebAssembly modules to, so that the second start of a program costs next to
// nothing.
package modcache

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
)

// Key names one piece of machine code: a hash over the module's fingerprint,
// the identity of the engine that compiles it, and the configuration it is
// compiled under. Two artifacts that could differ in behaviour never share one.
type Key [32]byte

// String returns the key as 64 lowercase hexadecimal digits.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// ParseKey is the inverse of [Key.String]. It accepts upper case too.
func ParseKey(s string) (Key, error) {
	var k Key
	err := parseHex32((*[32]byte)(&k), "key", s)
	return k, err
}

// MarshalText implements [encoding.TextMarshaler].
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (k *Key) UnmarshalText(text []byte) (err error) {
	*k, err = ParseKey(string(text))
	return err
}

// parseHex32 decodes exactly 64 hexadecimal digits; what names the thing in errors.
func parseHex32(dst *[32]byte, what, s string) error {
	if len(s) != hex.EncodedLen(len(dst)) {
		return fmt.Errorf("modcache: %s %.80q has %d characters, want 64 hexadecimal digits", what, s, len(s))
	}
	var b [32]byte
	if _, err := hex.Decode(b[:], []byte(s)); err != nil {
		return fmt.Errorf("modcache: %s %.80q: %w", what, s, err)
	}
	*dst = b
	return nil
}

// Store keeps artifacts by [Key]. All methods may be called from several
// goroutines at once (a [Local] is the documented exception).
//
// A Store is a cache: it may drop any entry at any time, and it never returns
// bytes other than those that were added under the key asked for.
type Store interface {
	// Get returns the artifact kept under key. A miss is ok=false with a nil
	// error; an entry that turns out to be damaged is a miss too, which the
	// store counts, reports and heals. An error means that the store could not
	// tell (I/O, timeout, closed, cancelled context); ok is false then.
	//
	// Each call returns a handle of its own, which the caller closes. ctx bounds
	// the call, and not the handle's life.
	Get(ctx context.Context, key Key) (a *Artifact, ok bool, err error)

	// Add keeps a copy of, or shares, the artifact's bytes under key. If a sound
	// entry is present, it does nothing. The handle stays the caller's to close.
	// Memory and Disk stores can read the entry back as soon as Add returns.
	Add(ctx context.Context, key Key, a *Artifact) error

	// Delete drops the entry under key; it is nil if there is none.
	Delete(ctx context.Context, key Key) error

	// Flush returns when everything added before it is as durable as this store
	// makes it, or says what is not. Volatile stores return nil.
	Flush(ctx context.Context) error

	// Metrics returns a snapshot of the store's counters.
	Metrics() Metrics
}

// Locker is implemented by stores that several processes share. The Cache asks
// it for a lock around a compile, so that one process compiles and the others
// find the result.
type Locker interface {
	// Lock waits for the advisory lock on key until ctx ends. The lock dies with
	// its process; unlock is safe to call more than once. A lock is a courtesy: whoever
	// fails to get one compiles all the same.
	Lock(ctx context.Context, key Key) (unlock func(), err error)
}

// Errors to test for with [errors.Is]. What is returned wraps them with what
// was attempted and where.
var (
	// ErrMiss is what a compile returns under Options.RequireHit when the module
	// is not in the cache.
	ErrMiss = errors.New("modcache: not in the cache")
	// ErrCorrupt means that stored bytes are not those that were written, or not
	// those of the key they are found under.
	ErrCorrupt = errors.New("modcache: corrupt entry")
	// ErrAuth means that stored bytes don't carry a valid tag or signature of a
	// trusted key.
	ErrAuth = errors.New("modcache: entry is not authentic")
	// ErrTooLarge means that an artifact exceeds the store's whole budget.
	ErrTooLarge = errors.New("modcache: artifact is larger than the store's budget")
	// ErrInsecureDir means that a cache directory could be written by others, or
	// is not what it seems (a symbolic link, somebody else's).
	ErrInsecureDir = errors.New("modcache: insecure cache directory")
	// ErrUnsupportedWazero means that this build of wazero has a shape that
	// modcache doesn't know, so that nothing can be plugged into it.
	ErrUnsupportedWazero = errors.New("modcache: unsupported wazero version")
	// ErrClosed means that the Cache, Runtime, store, artifact or table was closed.
	ErrClosed = errors.New("modcache: closed")
	// ErrReadOnly is what a read-only store answers to Add and Delete.
	ErrReadOnly = errors.New("modcache: store is read-only")
)
