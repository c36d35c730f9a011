package loaded

import (
	"context"
	"errors"
	"runtime"
	"weak"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/flight"
)

// ErrClosed means that the runtime was closed.
var ErrClosed = errors.New("the runtime was closed")

// ErrRegistryClosed means that nothing is loaded any more.
var ErrRegistryClosed = errors.New("the registry was closed")

// Flight is a load that several callers wait for.
type Flight = flight.Flight[*Code]

// Owner is what one runtime has: the modules that its callers and instances hold. Nothing that
// outlives the runtime leads to its Owner, so that a runtime that its program forgets is
// collected. Then its holds end as if it had been closed.
type Owner struct {
	*ledger
	forgotten runtime.Cleanup

	// Guarded by Registry.mu.
	modules map[*Code]*Module
	private map[*Module]struct{} // with listeners
	pins    pins
}

// ledger is what the books know of an Owner.
type ledger struct {
	e     *Engine
	owner weak.Pointer[Owner]

	// Guarded by Registry.mu.
	closed bool // set before wazero's runtime is closed
	uses   map[*use]struct{}
}

// NewOwner opens the books of another runtime over the engine.
func (e *Engine) NewOwner() *Owner {
	e.r.mu.Lock()
	defer e.r.mu.Unlock()
	if e.owners++; e.idle != nil {
		e.r.idle.Remove(e.idle)
		e.idle = nil
	}
	l := &ledger{e: e, uses: make(map[*use]struct{})}
	o := &Owner{ledger: l, modules: make(map[*Code]*Module), private: make(map[*Module]struct{})}
	l.owner = weak.Make(o)
	o.forgotten = runtime.AddCleanup(o, (*ledger).forget, l)
	return o
}

// forget ends the holds of a runtime that was collected.
func (l *ledger) forget() {
	r := l.e.r
	r.mu.Lock()
	var free []wazero.CompiledModule
	if !l.closed {
		l.closed = true
		free = l.leave()
	}
	r.mu.Unlock()
	closeAll(free)
}

// leave ends what holds are left, and says that the engine has one user less. The lock is
// held.
func (l *ledger) leave() (free []wazero.CompiledModule) {
	for u := range l.uses {
		free = append(free, u.end()...)
	}
	delete(l.e.r.pinned, l)
	return append(free, l.e.leave()...)
}

// Find returns the owner's module with a hold on it, or nil if its code isn't loaded.
func (o *Owner) Find(key Key) *Module {
	o.lock()
	defer o.e.r.mu.Unlock()
	return o.find(key)
}

func (o *Owner) find(key Key) *Module {
	c := o.e.code[key]
	if c == nil {
		return nil
	}
	m := o.modules[c]
	if m == nil && !o.closed && !o.e.r.closed {
		m = o.add(c, nil)
	}
	if m != nil {
		m.hold()
	}
	return m
}

// add enters a module that nobody holds yet. cm is nil if it is to be decoded.
func (o *Owner) add(c *Code, cm wazero.CompiledModule) *Module {
	m := &Module{o: o, use: &use{l: o.ledger, code: c}, cm: cm}
	if cm == nil {
		m.decoding = &decoding{}
	}
	o.modules[c] = m
	o.uses[m.use] = struct{}{}
	c.enter(m.use)
	return m
}

// Load is Find, and where that finds nothing, it returns a flight that loads the code: the
// one that is under way, or one that it has started in ctx. The caller waits for
// it, and passes the code on to Take.
func (o *Owner) Load(ctx context.Context, key Key, load func(context.Context) (*Code, error)) (m *Module, f *Flight, started bool, err error) {
	o.lock()
	defer o.e.r.mu.Unlock()
	if m := o.find(key); m != nil {
		return m, nil, false, nil
	}
	switch {
	case o.e.r.closed:
		return nil, nil, false, ErrRegistryClosed
	case o.closed:
		return nil, nil, false, ErrClosed
	}
	f, started = o.e.loads.Join(ctx, key, load)
	return nil, f, started, nil
}

// Take returns the owner's module with a hold on it, for the hold on the code that comes
// with a flight's result.
func (o *Owner) Take(c *Code) (m *Module, err error) {
	r := o.e.r
	r.mu.Lock()
	if o.closed {
		err = ErrClosed
	} else {
		if m = o.modules[c]; m == nil {
			m = o.add(c, nil)
		}
		m.hold()
	}
	free := c.release(1)
	r.mu.Unlock()
	closeAll(free)
	r.Garbage.Collect()
	return m, err
}

// AddPrivate enters a module that nobody else can use, with a hold on it. It reports false
// if the runtime was closed.
func (o *Owner) AddPrivate(cm wazero.CompiledModule, size int64) (*Module, bool) {
	m := &Module{o: o, size: size, cm: cm, holds: 1}
	o.e.r.mu.Lock()
	defer o.e.r.mu.Unlock()
	if o.closed {
		return nil, false
	}
	o.private[m] = struct{}{}
	return m, true
}

// unshared returns the modules of code that goes with the runtime unless it is shared. The lock is held.
func (o *Owner) unshared() map[*Code]wazero.CompiledModule {
	var modules map[*Code]wazero.CompiledModule
	for c, m := range o.modules {
		if c.native == nil && !c.once && m.cm != nil {
			if modules == nil {
				modules = make(map[*Code]wazero.CompiledModule)
			}
			modules[c] = m.cm
		}
	}
	return modules
}

// keep has code outlive the runtime.
func (o *Owner) keep(modules map[*Code]wazero.CompiledModule) {
	for c, cm := range modules {
		native := o.e.share(cm)
		o.e.r.mu.Lock()
		if c.native == nil {
			c.native = native
		}
		o.e.r.mu.Unlock()
	}
}

// Closed reports whether Close has begun.
func (o *Owner) Closed() bool {
	o.e.r.mu.Lock()
	defer o.e.r.mu.Unlock()
	return o.closed
}

// whyGone says why a module of o can't be used any more. The lock is held.
func (o *Owner) whyGone() error {
	if o.closed {
		return ErrClosed
	}
	return ErrGone
}

// Close calls closeRuntime and then lets go of all that the runtime has. Code that nobody
// else uses is retained for the next one.
func (o *Owner) Close(closeRuntime func() error) error {
	r := o.e.r
	r.mu.Lock()
	again := o.closed
	o.closed = true
	kept := o.unshared()
	r.mu.Unlock()
	o.keep(kept)
	err := closeRuntime()

	r.mu.Lock()
	var free []wazero.CompiledModule
	o.pins = pins{}
	for _, m := range o.modules {
		free = append(free, m.remove()...)
	}
	for m := range o.private {
		free = append(free, m.remove()...)
	}
	if !again {
		o.forgotten.Stop()
		free = append(free, o.leave()...)
	}
	r.mu.Unlock()
	closeAll(free)
	r.Garbage.Collect()
	return err
}
