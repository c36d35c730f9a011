// Package loaded keeps the books of machine code that is loaded in wazero's engines: who
// uses it, what stays for the next caller, and what is to be closed when it goes.
//
// A [Registry] has one lock, for everything in this package. It is held for bookkeeping
// only, never while wazero works, and nobody else sees it.
package loaded

import (
	"container/list"
	"context"
	"sync"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/flight"
)

// Key names machine code within an engine.
type Key = [32]byte

// Registry is the books of several engines, which share one budget for code that nobody
// uses.
type Registry struct {
	Garbage  *Garbage // machine code of the process
	Memories *Garbage // of guests of the process

	retain  int64          // bytes that code which nobody uses may take
	running sync.WaitGroup // loads and checks

	mu       sync.Mutex
	closed   bool
	unused   list.List            // of *Code, and of *use of code that others use or had first; most recently used in front
	bytes    int64                // in unused
	retained int                  // of *Code in unused
	traced   list.List            // of *Code in unused to tidy again
	idle     list.List            // of *Engine that no runtime uses, most recently used in front
	pinned   map[*ledger]struct{} // that have pins
}

// New returns the books for engines that retain up to so many bytes of code that nobody
// uses.
func New(retain int64) *Registry {
	return &Registry{Garbage: &code, Memories: &memories, retain: retain, pinned: make(map[*ledger]struct{})}
}

// Engine is the books of one engine.
type Engine struct {
	// OnRetire, if set before the first owner, is called when nothing is retained in the engine
	// any more, because too many others were used since. It must not use the books.
	OnRetire func()

	// Share, if set before the first owner, returns the code of a module for the engines of other runtimes,
	// or nil if it can't be had. It must not use the books.
	Share func(wazero.CompiledModule) (native any)

	// Tidy, if set before the first owner, has wazero forget what it gathers in [Loaded.Traced] code while it is in use. It has a
	// module of the code, or the native code, or both. It is called under the lock, and must not use the books.
	Tidy func(cm wazero.CompiledModule, native any)

	r      *Registry
	loads  flight.Group[Key, *Code]
	checks flight.Group[Key, bool]

	// Guarded by Registry.mu.
	code    map[Key]*Code
	sizes   map[int]int  // how many of code there are, by size of the module
	claimed map[int]bool // sizes of modules that somebody prepares
	owners  int
	idle    *list.Element // while owners is 0, and it isn't retired
	retired bool
}

// maxIdle is how many engines stay that no runtime uses. A program may use any number of
// configurations, one after the other.
const maxIdle = 16

// NewEngine opens the books of another engine.
func (r *Registry) NewEngine() *Engine {
	e := &Engine{r: r, code: make(map[Key]*Code), sizes: make(map[int]int), claimed: make(map[int]bool)}
	e.loads = flight.Group[Key, *Code]{Lock: &r.mu, Running: &r.running, Grant: e.grant}
	e.checks = flight.Group[Key, bool]{Lock: &r.mu, Running: &r.running}
	return e
}

// share is Share, if that is set.
func (e *Engine) share(cm wazero.CompiledModule) any {
	if e.Share == nil {
		return nil
	}
	return e.Share(cm)
}

// Check returns a flight that finds out whether there is code to load: the one that is
// under way, or one that it has started in ctx.
func (e *Engine) Check(ctx context.Context, key Key, check func(context.Context) (bool, error)) (*flight.Flight[bool], error) {
	e.r.mu.Lock()
	defer e.r.mu.Unlock()
	if e.r.closed {
		return nil, ErrRegistryClosed
	}
	f, _ := e.checks.Join(ctx, key, check)
	return f, nil
}

// Claim lets the caller alone prepare a module of that size, until Unclaim. It
// reports false if there is code for one, or somebody else is at it.
func (e *Engine) Claim(size int) bool {
	e.r.mu.Lock()
	defer e.r.mu.Unlock()
	if e.claimed[size] || e.sizes[size] > 0 {
		return false
	}
	e.claimed[size] = true
	return true
}

// Unclaim ends a claim.
func (e *Engine) Unclaim(size int) {
	e.r.mu.Lock()
	defer e.r.mu.Unlock()
	delete(e.claimed, size)
}

// Retained returns how many pieces of code stay though nobody uses them.
func (r *Registry) Retained() int {
	r.releaseClosed()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.retained
}

// RetainedBytes returns what that code takes, and what runtimes have that use some no more, though others do.
func (r *Registry) RetainedBytes() int64 {
	r.releaseClosed()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// Close lets go of all code that nobody uses, now and from here on, and keeps new flights
// from starting. Those under way are for the caller to cancel, and for Wait.
func (r *Registry) Close() {
	r.mu.Lock()
	r.closed, r.retain = true, 0
	free := r.shrink()
	r.mu.Unlock()
	closeAll(free)
}

// Wait returns when no flight is under way any more.
func (r *Registry) Wait() { r.running.Wait() }

// shrink gives up the least recently used code until no more than r.retain bytes stay
// unused, and returns what is to be closed when the lock is free.
func (r *Registry) shrink() (free []wazero.CompiledModule) {
	for r.bytes > r.retain || (r.retain == 0 && r.unused.Len() > 0) {
		switch v := r.unused.Back().Value.(type) {
		case *Code:
			r.reuse(v)
			free = append(free, v.drop()...)
		case *use:
			free = append(free, v.drop()...)
		}
	}
	return free
}

// leave notes that one owner less uses the engine. It returns what is to be closed when the
// lock is free.
func (e *Engine) leave() (free []wazero.CompiledModule) {
	r := e.r
	if e.owners--; e.owners > 0 || e.retired {
		return nil
	}
	e.idle = r.idle.PushFront(e)
	for r.idle.Len() > maxIdle {
		free = append(free, r.idle.Back().Value.(*Engine).retire()...)
	}
	return free
}

// retire gives up what is retained in an engine that nobody uses. Should somebody be about
// to, it serves, without retaining anything.
func (e *Engine) retire() (free []wazero.CompiledModule) {
	r := e.r
	r.idle.Remove(e.idle)
	e.idle, e.retired = nil, true
	if e.OnRetire != nil {
		e.OnRetire()
	}
	for _, c := range e.code {
		if c.unused != nil {
			r.reuse(c)
			free = append(free, c.drop()...)
		}
	}
	return free
}

// reuse takes code out of what is unused.
func (r *Registry) reuse(c *Code) {
	r.unused.Remove(c.unused)
	c.unused = nil
	if c.tidied != nil {
		r.traced.Remove(c.tidied)
		c.tidied = nil
	}
	r.retained--
	r.bytes -= c.size()
}

func closeAll(modules []wazero.CompiledModule) {
	for _, cm := range modules {
		_ = cm.Close(context.Background()) // never fails
	}
}
