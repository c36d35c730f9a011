// Package modcache caches the machine code that the wazero runtime compiles
// WebAssembly modules to, so that the second start of a program costs next to
// nothing.
package modcache

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/modcache/modcache/internal/wazerohook"
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

// Hedger is implemented by stores that may be slower than a compile. A [Runtime] has
// the module compiled beside a lookup that takes too long, and uses whatever is there
// first. The lookup that comes second is cancelled, with a cause that wraps
// [context.DeadlineExceeded]. A Get's context says how long compiling is going to take;
// see [CompileEstimate].
type Hedger interface {
	// Patience returns how long to wait for a Get before compiling, which takes
	// about as long as compile says. 0 or less means until Get returns.
	Patience(compile time.Duration) time.Duration
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

// Cache connects a [Store] to wazero. Make one per program and share it: its
// methods may be called from several goroutines at once. There are two ways in.
//
// The drop-in, [Cache.CompilationCache] or [Cache.Attach], gives wazero a cache to use as
// it uses its own: nothing else in the program changes, and modules are decoded and
// validated on every start.
//
// The [Runtime] of [Cache.NewRuntime] is a wazero.Runtime that also compiles each module
// once, however many ask for it, keeps it between uses, and loads it
// without decoding what the machine code makes useless.
//
// Whatever happens to the store, compiles succeed; problems are counted and
// reported. Only Options.RequireHit refuses.
type Cache struct {
	opts   Options
	store  Store
	owned  io.Closer // the store, if Open opened it
	engine string    // identity of the engine, part of every key

	// wazero is nil if nothing can be plugged into this build of it: then every
	// compile is wazero's own.
	wazero *wazerohook.Wazero
	secret [32]byte // in every stub, so that no guest can be one

	ctx      context.Context // ends with the Cache
	cancel   context.CancelFunc
	flights  sync.WaitGroup
	compiles chan struct{} // holds a token for each compile; nil if unlimited
	counters counters

	// mu guards everything below, and the maps and counts of all engines,
	// runtimes and modules of this Cache. It is held for bookkeeping only, never
	// while wazero or a store works.
	mu       sync.Mutex
	closed   bool
	engines  map[string]*engine // by configuration
	idle     retained
	degraded map[string]bool // what was reported already
}

// Open returns a Cache over a [Disk] in dir, which it owns: Close closes it. An
// empty dir means modcache in [os.UserCacheDir]. The directory is created if it is
// missing. Whoever can write to it can run code in this process, so one
// that others can write to, or that is somebody else's, is refused with [ErrInsecureDir].
func Open(dir string, o *Options) (*Cache, error) {
	opts, err := o.validate()
	if err != nil {
		return nil, err
	}
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("modcache: no default directory, name one: %w", err)
		}
		dir = filepath.Join(base, "modcache")
	}
	c, err := newCache(opts)
	if err != nil {
		return nil, err
	}
	disk := opts.Disk
	disk.ReadOnly = disk.ReadOnly || opts.ReadOnly
	own := disk.OnEvent
	disk.OnEvent = func(e Event) {
		notify(own, e)
		c.forward(e)
	}
	d, err := OpenDisk(dir, &disk)
	if err != nil {
		c.cancel()
		return nil, err
	}
	c.store, c.owned = d, d
	return c, nil
}

// New returns a Cache over any store, which stays the caller's to close after
// the Cache.
func New(s Store, o *Options) (*Cache, error) {
	if s == nil {
		return nil, errors.New("modcache: New needs a store")
	}
	opts, err := o.validate()
	if err != nil {
		return nil, err
	}
	c, err := newCache(opts)
	if err != nil {
		return nil, err
	}
	c.store = s
	return c, nil
}

func newCache(opts Options) (*Cache, error) {
	c := &Cache{
		opts:     opts,
		engine:   opts.EngineID,
		engines:  make(map[string]*engine),
		degraded: make(map[string]bool),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if opts.MaxCompiles > 0 {
		c.compiles = make(chan struct{}, opts.MaxCompiles)
	}
	_, _ = rand.Read(c.secret[:]) // never fails
	if c.engine == "" {
		id, err := wazerohook.Identity()
		if err != nil {
			// An identity of its own: nothing is shared with anybody, nothing is wrong.
			id = "unknown " + hex.EncodeToString(c.secret[:16])
			c.degrade("engine identity", err)
		}
		c.engine = trimEngineID(id)
	}
	w, err := wazerohook.Probe()
	if err != nil {
		if opts.RequireHit {
			c.cancel()
			return nil, fmt.Errorf("modcache: nothing can be a hit, as Options.RequireHit asks: %w: %w", ErrUnsupportedWazero, err)
		}
		c.degrade(featureCache, err)
	}
	c.wazero = w
	return c, nil
}

// trimEngineID shortens an identity that has no room in an artifact's header.
func trimEngineID(id string) string {
	if len(id) <= maxEngineID {
		return id
	}
	return "blake3 " + Sum([]byte(id)).String()
}

// Store returns the store under the Cache.
func (c *Cache) Store() Store { return c.store }

// EngineID returns the identity of the wazero in this program, which is a part of
// every key: artifacts of another one are never used.
func (c *Cache) EngineID() string { return c.engine }

// Flush makes everything stored so far durable; see [Store].
func (c *Cache) Flush(ctx context.Context) error {
	return guard("flush", func() error { return c.store.Flush(ctx) })
}

// Close ends the Cache: compiles under way are cancelled and waited for, retained
// machine code is freed, and the store is closed if [Open] opened it. Runtimes,
// modules and instances stay usable; compiling another module with them
// fails with [ErrClosed], or goes uncached with the drop-in. Closing again does nothing.
func (c *Cache) Close(ctx context.Context) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	free := c.idle.shrink(0)
	c.mu.Unlock()

	c.cancel()
	closeAll(ctx, free)
	c.flights.Wait()
	if c.owned != nil {
		return c.owned.Close()
	}
	return nil
}

// checkOpen returns ErrClosed after Close.
func (c *Cache) checkOpen() error {
	if c.ctx.Err() != nil {
		return fmt.Errorf("cache: %w", ErrClosed)
	}
	return nil
}

// Metrics returns a snapshot of the Cache's counters and those of its store.
func (c *Cache) Metrics() CacheMetrics {
	c.mu.Lock()
	retained := uint64(c.idle.order.Len())
	c.mu.Unlock()
	n := &c.counters
	m := CacheMetrics{
		Hits: n.hits.Load(), Misses: n.misses.Load(),
		Corrupt: n.corrupt.Load(), StoreErrors: n.storeErrors.Load(),
		Compiles: n.compiles.Load(), CompileErrors: n.compileErrors.Load(),
		CompileTime: time.Duration(n.compileTime.Load()), Saved: time.Duration(n.saved.Load()),
		Coalesced: n.coalesced.Load(), Hedged: n.hedged.Load(), Stubbed: n.stubbed.Load(), Retained: retained,
	}
	m.Lookups = m.Hits + m.Misses
	_ = guard("metrics", func() error { m.Store = c.store.Metrics(); return nil })
	return m
}
