package modcache

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/breaker"
	"github.com/modcache/modcache/internal/environ"
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
//
// A test in a bubble of testing/synctest needs a Cache, and stores, of its own, which are closed before it ends.
type Cache struct {
	opts     Options
	now      func() time.Time
	born     time.Time
	engineID string // part of every key

	inUse      atomic.Pointer[inUse]
	owning     sync.Mutex     // guards owned and observing.stop, and that nothing begins in the background after Close
	owned      []io.Closer    // what Open has opened, each before what it uses
	background sync.WaitGroup // what Close waits for: moves from memory into a directory, and Prepare
	env        environ.Settings
	memory     *Memory                  // nil unless memory stood in for the store at first, as it may still do
	late       *lateDisk                // nil unless the directory may yet be had
	idle       atomic.Pointer[stoppage] // why nothing is kept, from the start
	health     health

	observing observing

	unsupported error           // why nothing can be plugged into this build of wazero: every compile is its own then
	secret      func() [32]byte // in every stub, so that no guest can be one

	ctx      context.Context // ends with the Cache
	cancel   context.CancelFunc
	closing  sync.Once
	closed   chan struct{} // closed when Close has done all it does
	closeErr error         // set before closed is closed

	compiles  *semaphore.Weighted // one for each compile; nil if unlimited
	lanes                         // of calls of the store
	adding    sync.Map            // chan struct{} that is closed when an Add ends
	held      breaker.Breaker     // of the store's locks, which somebody may hold for good
	counters  counters
	newcomers newcomers

	storeMetrics atomic.Pointer[Metrics] // that the store returned last

	observerHung, loggerHung, tracerHung atomic.Int64 // calls of them that were given up, and go on

	degraded     sync.Map // why a feature is off: error by string, as was reported
	stubs        sync.Map // *standIn by what wazero calls the stub, and by its fingerprint
	engines      sync.Map // *engine by configuration
	suspects     sync.Map // Keys of artifacts that wazero could not load once; see engine.entry
	snapshotting sync.Map // chan struct{} by key, closed when the turn of him who makes that snapshot ends
	loaded       *loaded.Registry
}

// unknownEngine begins the identity of an engine that nobody knows.
const unknownEngine = "unknown "

var (
	errCacheClosed = fmt.Errorf("the Cache is %w", ErrClosed)
)

// Open returns a Cache over a [Disk] in dir, which it owns: Close closes it. An
// empty dir means modcache in [os.UserCacheDir]. The directory is created if it is
// missing; a URL is refused. Whoever can write to it can run code in this process, so one
// that others can write to, or that is somebody else's, is not used ([ErrInsecureDir]).
//
// A directory that can't be had is no reason not to run: the Cache goes on without. If there
// is a cache in it that can be read, it is only read. Else up to 64 MiB of machine code are kept in memory instead, or an eighth
// of GOMEMLIMIT if that is less. The directory is tried again after a second, and then less
// often, down to once a minute, when a module is looked up; once it can be had, it takes what is in memory. One
// [EventDegraded] says so, and [Cache.Status] at any time. With Options.MustStore, it is an error. Stores in Options.Behind are
// used with the directory and without.
//
// Where dir is empty, operators have a say, unless Options.IgnoreEnv is set. MODCACHE_DIR
// names the directory, as an absolute path. MODCACHE=ro has it only read, as by
// Options.ReadOnly; MODCACHE=off has no directory used, and code kept in memory.
// MODCACHE_MAX_BYTES, such as 500MB or 2GiB, takes the place of Options.Disk.MaxBytes. What
// can't be understood is ignored, with an EventDegraded.
//
// A whole program: examples/quickstart.
func Open(dir string, o *Options) (*Cache, error) {
	opts, err := o.validate()
	if err != nil {
		return nil, err
	}
	var env environ.Settings
	if dir == "" && !opts.IgnoreEnv {
		env = environ.Read(os.Getenv)
		if err := env.Err(); err != nil && opts.MustStore {
			return nil, fmt.Errorf("modcache: %w", err)
		}
		dir = env.Dir
		opts.ReadOnly = opts.ReadOnly || env.ReadOnly
		opts.Disk.MaxBytes = cmp.Or(env.MaxBytes, opts.Disk.MaxBytes)
	}
	if isURL(dir) {
		return nil, errURL
	}
	if opts.Disk, err = opts.Disk.validate(); err != nil {
		return nil, err
	}
	c, err := newCache(opts)
	if err != nil {
		return nil, err
	}
	c.env = env
	if err := env.Err(); err != nil {
		c.degrade("use of the environment as it is", err)
	}
	if err := c.openDirectory(dir); err != nil {
		c.cancel()
		return nil, err
	}
	return c, nil
}

// New returns a Cache over any store, which stays the caller's to close after
// the Cache. A store that is [Observable] reports to Options.OnEvent and Logger too: what is
// evicted, damaged or not trusted in it or its layers, what layers fail that others make up for, and what fails in the background.
//
// Where the engine's identity can't be found out ([EngineID]), nobody else could ever use
// what this process stores. Then a store other than a [Memory] or [Local] isn't used, and some
// code is kept in memory instead, as by Open without a directory; with Options.MustStore, it is an error.
//
// With a store of your own: examples/customstore.
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
	if c.idle.Load() == nil || instant(s) {
		c.use(s)
		c.observe(s)
	} else {
		c.useMemory(nil)
	}
	return c, nil
}

func newCache(opts Options) (*Cache, error) {
	c := &Cache{
		opts: opts, engineID: opts.EngineID, closed: make(chan struct{}), loaded: loaded.New(opts.Retain),
		lanes: newLanes(), now: opts.Disk.Now, secret: sync.OnceValue(newSecret),
	}
	c.opts.Disk.Key = nil // that of Open is a function by now, and New has no use for it
	if c.now == nil {
		c.now = time.Now
	}
	c.held = breaker.Breaker{Limit: 1, Pause: bounded.Pause}
	c.born = c.now()
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.newcomers.trust.Store(int64(opts.SmallModules))
	if opts.MaxCompiles > 0 {
		c.compiles = semaphore.NewWeighted(int64(opts.MaxCompiles))
	}
	if c.engineID == "" {
		id, err := engineID()
		if err != nil {
			// An identity of its own: nothing is shared with anybody, nothing is wrong.
			id = unknownEngine + rand.Text()
			err = fmt.Errorf("%w; build with module checksums, or set Options.EngineID", err)
			if opts.MustStore || opts.RequireHit {
				c.cancel()
				return nil, fmt.Errorf("modcache: no engine identity, without which nothing that is stored is ever found: %w", err)
			}
			c.degrade("engine identity, without which code is kept in memory only", err)
			c.stop(fmt.Errorf("no engine identity: %w", err))
		}
		c.engineID = id
	}
	err := wazerohook.Supported()
	if err == nil && opts.RequireHit {
		_, err = c.plugged() // or else when there is a first runtime
	}
	if err != nil {
		if opts.RequireHit {
			c.cancel()
			return nil, fmt.Errorf("modcache: nothing can be a hit, as Options.RequireHit asks: %w: %w", ErrUnsupportedWazero, err)
		}
		c.degrade(featureCache, err)
		c.unsupported = err
	}
	return c, nil
}

func newSecret() (secret [32]byte) {
	_, _ = rand.Read(secret[:]) // never fails
	return secret
}

// EngineID returns the identity of the wazero in this program, as Caches use it unless
// Options.EngineID says otherwise: its module version and checksum or, failing that, what
// tells this executable from all others. It is an error if there is neither.
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

// Store returns the store that is in use: that of [New] or the [Disk] of [Open], or the
// [Memory] that stands in for it, which a Disk may replace at any time. With Options.Behind, it is a [Layered] of that
// and those, and another Layered after that.
func (c *Cache) Store() Store { return c.inUse.Load().store }

// EngineID returns the identity of the wazero in this program, which is a part of
// every key: artifacts of another one are never used.
func (c *Cache) EngineID() string { return c.engineID }

// Flush makes everything stored so far durable; see [Store]. It waits for what compiles have
// left to the background, because the store was slow. Only ctx bounds that.
func (c *Cache) Flush(ctx context.Context) error {
	for ended := range c.adding.Range {
		select {
		case <-ended.(chan struct{}):
		case <-ctx.Done():
			return &Error{Op: "flush", Err: fmt.Errorf("an add is still under way: %w", context.Cause(ctx))}
		}
	}
	former, err := c.settled(ctx)
	if err != nil {
		return &Error{Op: "flush", Err: err}
	}
	if err := c.write(ctx, noLimit, func(ctx context.Context, s Store) error {
		if former == nil {
			return s.Flush(ctx)
		}
		return errors.Join(former.Flush(ctx), s.Flush(ctx))
	}); err != nil {
		return &Error{Op: "flush", Err: err}
	}
	return nil
}

// Close ends the Cache: compiles under way are cancelled and waited for, retained
// machine code is freed, and the store is closed if [Open] opened it. Runtimes,
// modules and instances stay usable; compiling another module with them
// fails with [ErrClosed], or goes uncached with the drop-in.
//
// A store that hangs is waited for 5 seconds, and its directory as long again. Then Close returns an error, and what hangs
// is left to itself: a few goroutines of this Cache, which end when the store answers. What hangs in a layer of a [Layered]
// isn't waited for.
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
			c.owning.Lock()
			owned := slices.Clone(c.owned)
			defer stopObserving(c.observing.stop)
			c.owning.Unlock()
			c.background.Wait()
			// Nothing is to be under way in the store when it is closed, but what hangs.
			ended, cancel := context.WithTimeout(context.Background(), storeWait)
			defer cancel()
			c.closeErr = c.without(ended, func() error {
				var errs []error
				for _, o := range owned {
					errs = append(errs, o.Close())
				}
				return errors.Join(errs...)
			})
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
		return &Error{Op: "close", Err: fmt.Errorf("not done yet, and goes on: %w", context.Cause(ctx))}
	}
}

// Closed reports whether Close was called.
func (c *Cache) Closed() bool { return c.ctx.Err() != nil }

// Metrics returns a snapshot of the Cache's counters and those of its store. A store that doesn't return them within 5 seconds,
// or fails, is shown with those that it returned last; none at first.
func (c *Cache) Metrics() CacheMetrics {
	n := &c.counters
	m := CacheMetrics{
		Hits: n.hits.Load(), Misses: n.misses.Load(),
		Corrupt: n.corrupt.Load(), StoreErrors: n.storeErrors.Load(),
		Compiles: n.compiles.Load(), CompileErrors: n.compileErrors.Load(),
		CompileTime: time.Duration(n.compileTime.Load()), Saved: time.Duration(n.saved.Load()),
		Coalesced: n.coalesced.Load(), Stubbed: n.stubbed.Load(), Retained: uint64(c.loaded.Retained()),
		RetainedBytes: uint64(c.loaded.RetainedBytes()), RetainedMaxBytes: uint64(c.opts.Retain),
		Direct: n.direct.Load(), DroppedEvents: n.dropped.Load(),
		Templates: n.templates.Load(), Snapshots: n.snapshots.Load(), SnapshotsFound: n.snapshotsFound.Load(),
		OffHeap: n.offHeap.Load(), OffHeapFailed: n.offHeapFailed.Load(),
	}
	m.Lookups = m.Hits + m.Misses
	remember := func(store Metrics) { c.storeMetrics.Store(&store) }
	store, err := ask(context.Background(), c, c.reports, storeWait, func(_ context.Context, s Store) (Metrics, error) {
		store := s.Metrics()
		if c.late == nil || c.late.standIn.store == s {
			return store, nil
		}
		return store.Plus(c.late.standIn.counters()) // which don't go backwards when a directory comes late
	}, remember)
	if err == nil {
		remember(store)
	}
	if last := c.storeMetrics.Load(); last != nil {
		m.Store = *last
	}
	return m
}
