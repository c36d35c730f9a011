package modcache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/modcache/modcache/internal/loaded"
	"github.com/modcache/modcache/internal/wazerohook"
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
	opts     Options
	store    Store
	owned    io.Closer // the store, if Open opened it
	engineID string    // part of every key

	// wazero is nil if nothing can be plugged into this build of it: then every
	// compile is wazero's own.
	wazero *wazerohook.Wazero
	secret [32]byte // in every stub, so that no guest can be one

	ctx      context.Context // ends with the Cache
	cancel   context.CancelFunc
	closing  sync.Once
	closed   chan struct{} // closed when Close has done all it does
	closeErr error         // set before closed is closed

	compiles   *semaphore.Weighted // one for each compile; nil if unlimited
	storeCalls *semaphore.Weighted // one for each call of the store
	counters   counters
	degraded   sync.Map // features that were reported, as strings
	engines    sync.Map // *engine by configuration
	loaded     *loaded.Registry
}

var (
	errCacheClosed   = fmt.Errorf("the Cache is %w", ErrClosed)
	errRuntimeClosed = fmt.Errorf("the Runtime is %w", ErrClosed)
)

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
		opts: opts, engineID: opts.EngineID, closed: make(chan struct{}), loaded: loaded.New(opts.Retain),
		storeCalls: semaphore.NewWeighted(maxStoreCalls),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if opts.MaxCompiles > 0 {
		c.compiles = semaphore.NewWeighted(int64(opts.MaxCompiles))
	}
	_, _ = rand.Read(c.secret[:]) // never fails
	if c.engineID == "" {
		id, err := engineID()
		if err != nil {
			// An identity of its own: nothing is shared with anybody, nothing is wrong.
			id = "unknown " + rand.Text()
			c.degrade("engine identity", err)
		}
		c.engineID = id
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

// EngineID returns the identity of the wazero in this program, as Caches use it unless
// Options.EngineID says otherwise: its module version and checksum or, failing that, a hash
// of the executable. It is an error if there is neither.
func EngineID() (string, error) {
	id, err := engineID()
	if err != nil {
		err = fmt.Errorf("modcache: no engine identity: %w", err)
	}
	return id, err
}

func engineID() (string, error) {
	id, err := wazerohook.Identity()
	if len(id) > maxEngineID { // which has no room in an artifact's header
		id = "blake3 " + Sum([]byte(id)).String()
	}
	return id, err
}

// Store returns the store under the Cache.
func (c *Cache) Store() Store { return c.store }

// EngineID returns the identity of the wazero in this program, which is a part of
// every key: artifacts of another one are never used.
func (c *Cache) EngineID() string { return c.engineID }

// Flush makes everything stored so far durable; see [Store].
func (c *Cache) Flush(ctx context.Context) error {
	if err := c.do(ctx, noLimit, c.store.Flush); err != nil {
		return &Error{Op: "flush", Err: err}
	}
	return nil
}

// Close ends the Cache: compiles under way are cancelled and waited for, retained
// machine code is freed, and the store is closed if [Open] opened it. Runtimes,
// modules and instances stay usable; compiling another module with them
// fails with [ErrClosed], or goes uncached with the drop-in.
//
// If ctx ends first, Close returns its cause, and closing goes on. Closing again waits for
// that too, and returns what the first Close did.
func (c *Cache) Close(ctx context.Context) error {
	c.closing.Do(func() {
		c.loaded.Close()
		c.cancel()
		go func() {
			defer close(c.closed)
			c.loaded.Wait()
			// Nothing is to be under way in the store when it is closed, but what hangs.
			ended, cancel := context.WithTimeout(context.Background(), storeWait)
			defer cancel()
			if c.storeCalls.Acquire(ended, maxStoreCalls) == nil {
				defer c.storeCalls.Release(maxStoreCalls)
			}
			if c.owned != nil {
				c.closeErr = c.owned.Close()
			}
		}()
	})
	select {
	case <-c.closed:
		return c.closeErr
	default:
	}
	select {
	case <-c.closed:
		return c.closeErr
	case <-ctx.Done():
		return &Error{Op: "close", Err: fmt.Errorf("compiles are still under way: %w", context.Cause(ctx))}
	}
}

// Closed reports whether Close was called.
func (c *Cache) Closed() bool { return c.ctx.Err() != nil }

// Metrics returns a snapshot of the Cache's counters and those of its store.
func (c *Cache) Metrics() CacheMetrics {
	n := &c.counters
	m := CacheMetrics{
		Hits: n.hits.Load(), Misses: n.misses.Load(),
		Corrupt: n.corrupt.Load(), StoreErrors: n.storeErrors.Load(),
		Compiles: n.compiles.Load(), CompileErrors: n.compileErrors.Load(),
		CompileTime: time.Duration(n.compileTime.Load()), Saved: time.Duration(n.saved.Load()),
		Coalesced: n.coalesced.Load(), Stubbed: n.stubbed.Load(), Retained: uint64(c.loaded.Retained()),
	}
	m.Lookups = m.Hits + m.Misses
	m.Store, _ = ask(context.Background(), c, storeWait, func(context.Context) (Metrics, error) { return c.store.Metrics(), nil }, nil)
	return m
}
