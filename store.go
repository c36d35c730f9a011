package modcache

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"
)

// Key names one piece of machine code: a hash over the module's fingerprint,
// the identity of the engine that compiles it, and the configuration it is
// compiled under. Two artifacts that could differ in behaviour never share one.
type Key [32]byte

// String returns the key as 64 lowercase hexadecimal digits.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// short returns what tells a key from the others of a name.
func (k Key) short() string { return k.String()[:12] }

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
// bytes other than those that were added under the key asked for. Errors that it returns are kept, and asked what
// they are and say: the methods of one must not block, and nothing bounds one that does.
type Store interface {
	// Get returns the artifact kept under key. A miss is ok=false with a nil
	// error; an entry that turns out to be damaged is a miss too, which the
	// store counts, reports and heals. An error means that the store could not
	// tell (I/O, timeout, closed, cancelled context); ok is false then.
	//
	// Each call returns a handle of its own, which the caller closes. ctx bounds
	// the call, and not the handle's life.
	Get(ctx context.Context, key Key) (a *Artifact, ok bool, err error)

	// Add keeps a copy of, or shares, the artifact's bytes under key. If an intact
	// entry is present, it does nothing; but an alias, whose [Info] has a Module and no
	// WasmSize, should give way to code, and to an alias with another Module, as all
	// stores of this module have it. The handle stays the caller's to close.
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

// Replacer is implemented by stores that can put an entry in the place of another in one step. Servers use
// it, whose clients upload what is to be instead of an entry that they can't use.
type Replacer interface {
	// Replace is Add, but for an intact entry that is present: it isn't kept. Until Replace returns, and if
	// it fails or the process dies, the older entry is there, or the new one, or neither if making room took
	// it away; never a part of one.
	Replace(ctx context.Context, key Key, a *Artifact) error
}

// WithCompileEstimate returns a context for [Store].Get that says how long compiling
// takes if the entry isn't there, so that a store which may be slower can give up in
// time. A [Runtime] says so in each lookup. A negative one says that nothing is going to be compiled, as Options.RequireHit
// has it: such a store gives up only what has come to a halt.
func WithCompileEstimate(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, estimateKey{}, d)
}

// withName returns a context that says to a store of ours what module it is asked about, for its events.
func withName(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, nameKey{}, name)
}

func nameIn(ctx context.Context) string {
	name, _ := ctx.Value(nameKey{}).(string)
	return name
}

type nameKey struct{}

// CompileEstimate returns what [WithCompileEstimate] said, or 0.
func CompileEstimate(ctx context.Context) time.Duration {
	d, _ := ctx.Value(estimateKey{}).(time.Duration)
	return d
}

type estimateKey struct{}
