// Package modcachetest helps to test implementations of [modcache.Store] and the
// programs that use them.
package modcachetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/contain"
)

// Options says what a store promises [TestStore] beyond the contract, and what it doesn't. The zero value is a volatile store that many goroutines may use,
// without locks, and large enough for what the suite adds.
type Options struct {
	// SingleGoroutine leaves out what calls the store from several goroutines.
	SingleGoroutine bool
	// MayEvict accepts that an entry is gone at any time. Without it, the suite
	// demands that what it added stays: it adds less than 8 MiB to any one store.
	MayEvict bool
	// Deferred says that entries are readable after Flush, and not before.
	Deferred bool
	// MaxSize is the size of the largest artifact that the suite adds; 0 means
	// 1 MiB.
	MaxSize int64
	// Budget is the store's budget in bytes, if it has one: an artifact that
	// exceeds it must be refused with ErrTooLarge. Unless the store MayEvict, it
	// must hold all that the suite adds.
	Budget int64
	// ExclusiveLocks says that two locks on one key exclude each other even
	// within a process, for a store that is a [modcache.Locker].
	ExclusiveLocks bool

	// Reopen closes a store that open returned, and opens what it kept: entries
	// that were flushed must be there.
	Reopen func(tb testing.TB, s modcache.Store) modcache.Store
	// Share returns a second handle on what s holds, as another process would
	// have it.
	Share func(tb testing.TB, s modcache.Store) modcache.Store
	// ReadOnly returns a handle on what s holds that must refuse to change it.
	ReadOnly func(tb testing.TB, s modcache.Store) modcache.Store
	// Damage changes the bytes that s keeps under key.
	Damage func(tb testing.TB, s modcache.Store, key modcache.Key)
	// Observe returns another empty store, which reports its events to observer: each
	// Get must be one hit or one miss. See [modcache.Event].
	Observe func(tb testing.TB, observer func(modcache.Event)) modcache.Store

	// Skip names clauses that are not to run.
	Skip []string
}

// TestStore checks that the stores which open returns keep the contract of
// [modcache.Store], as opts has it; nil opts are the zero value. Every clause is
// a subtest of its own, named after what it demands, with a store of its own,
// which must be empty. open registers the store's closing with Cleanup.
//
// A store that passes returned no wrong bytes in what was tried. The suite can't
// find out whether it survives a crash.
//
// A store with its test: examples/customstore.
func TestStore(t *testing.T, open func(testing.TB) modcache.Store, opts *Options) {
	t.Helper()
	o := opts.validate()
	for _, c := range clauses {
		if slices.Contains(o.Skip, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			if c.needs != nil && !c.needs(&o) {
				t.Skip("not promised by the options")
			}
			if err := c.run(t, open, &o); err != nil {
				t.Error(err)
			}
		})
	}
}

// validate returns a copy with the defaults filled in.
func (o *Options) validate() Options {
	var d Options
	if o != nil {
		d = *o
	}
	if d.MaxSize <= 0 {
		d.MaxSize = 1 << 20
	}
	if d.Budget > 0 {
		d.MaxSize = min(d.MaxSize, d.Budget)
	}
	return d
}

// clause is one demand of the contract. It returns how a store falls short of
// it, so that the suite can be tested on stores that do.
type clause struct {
	name  string
	needs func(*Options) bool // nil: nothing
	check func(*env) error
}

var clauses = slices.Concat(entryClauses, handleClauses, concurrencyClauses, sharingClauses)

// run checks a fresh store. A store that panics breaks the clause it does it in.
func (c clause) run(tb testing.TB, open func(testing.TB) modcache.Store, o *Options) error {
	e := &env{tb: tb, o: o, ctx: context.Background(), s: open(tb)}
	return contain.Call(func() error { return c.check(e) })
}

// env is what a clause works with.
type env struct {
	tb  testing.TB
	o   *Options
	ctx context.Context
	s   modcache.Store
}

// on returns the same environment around another store.
func (e *env) on(s modcache.Store) *env {
	other := *e
	other.s = s
	return &other
}

// keyOf returns the key with number n.
func keyOf(n int) modcache.Key { return sha256.Sum256(fmt.Append(nil, "key ", n)) }

// payload returns size bytes that no other key, version or size has.
func payload(key modcache.Key, version int, size int64) []byte {
	seed := sha256.Sum256(fmt.Append(key[:], version, size))
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

func infoOf(size int64) modcache.Info {
	return modcache.Info{
		Engine:      "modcachetest engine",
		Module:      modcache.Sum([]byte("modcachetest module")),
		WasmSize:    size/4 + 1,
		Name:        "module.wasm",
		CompileTime: 1234567 * time.Nanosecond,
		Created:     time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC),
	}
}

func artifactOf(b []byte) *modcache.Artifact {
	return modcache.NewArtifact(bytes.Clone(b), infoOf(int64(len(b))))
}

// add stores b and makes sure that it can be read.
func (e *env) add(key modcache.Key, b []byte) error {
	if err := e.s.Add(e.ctx, key, artifactOf(b)); err != nil {
		return fmt.Errorf("Add of %d bytes: %w", len(b), err)
	}
	return e.settle()
}

// stored adds an entry of at most that size.
func (e *env) stored(size int64) (modcache.Key, []byte, error) {
	key := keyOf(1)
	b := payload(key, 0, min(size, e.o.MaxSize))
	return key, b, e.add(key, b)
}

// settle makes what was added readable.
func (e *env) settle() error {
	if !e.o.Deferred {
		return nil
	}
	if err := e.s.Flush(e.ctx); err != nil {
		return fmt.Errorf("Flush: %w", err)
	}
	return nil
}

// get checks the form of the store's answer. It returns no handle on a miss.
func (e *env) get(ctx context.Context, key modcache.Key) (*modcache.Artifact, error) {
	a, ok, err := e.s.Get(ctx, key)
	switch {
	case ok && err != nil:
		return nil, fmt.Errorf("Get returned ok = true together with the error %w", err)
	case ok && a == nil:
		return nil, errors.New("Get returned ok = true without an artifact")
	case !ok && a != nil:
		return nil, errors.New("Get returned an artifact together with ok = false")
	case err != nil:
		return nil, fmt.Errorf("Get: %w", err)
	}
	return a, nil
}

// read returns the bytes under key; nil is a miss.
func (e *env) read(key modcache.Key) ([]byte, error) {
	a, err := e.get(e.ctx, key)
	if a == nil {
		return nil, err
	}
	b, err := a.Bytes()
	if err != nil {
		return nil, fmt.Errorf("reading a hit: %w", err)
	}
	if a.Size() != int64(len(b)) {
		return nil, fmt.Errorf("the artifact's Size is %d, but it has %d bytes", a.Size(), len(b))
	}
	b = bytes.Clone(b)
	if err := a.Close(); err != nil {
		return nil, fmt.Errorf("closing a hit: %w", err)
	}
	return b, nil
}

// has demands that key has one of the contents.
func (e *env) has(key modcache.Key, contents ...[]byte) error {
	b, err := e.read(key)
	if err != nil {
		return err
	}
	if b == nil {
		if e.o.MayEvict {
			return nil
		}
		return errors.New("Get missed an entry that was added")
	}
	if contains(contents, b) {
		return nil
	}
	return fmt.Errorf("Get returned %d bytes that were never added under this key", len(b))
}

// hasNot demands that key misses.
func (e *env) hasNot(key modcache.Key) error {
	b, err := e.read(key)
	if err != nil {
		return err
	}
	if b != nil {
		return fmt.Errorf("Get returned %d bytes where there should be no entry", len(b))
	}
	return nil
}
