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
		Coalesced: n.coalesced.Load(), Stubbed: n.stubbed.Load(), Retained: retained,
	}
	m.Lookups = m.Hits + m.Misses
	_ = guard("metrics", func() error { m.Store = c.store.Metrics(); return nil })
	return m
}
