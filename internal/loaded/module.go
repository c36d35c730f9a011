package loaded

import (
	"container/list"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/wasmbin"
)

// ErrGone means that a module can't be used any more, though its runtime is open.
var ErrGone = errors.New("the module was released")

// Module is the compiled module of one runtime.
type Module struct {
	o    *Owner
	use  *use  // nil if nobody else can use the code, as it has listeners
	size int64 // footprint, if use is nil

	decoding *decoding // nil if cm was there from the start

	// Guarded by Registry.mu.
	cm    wazero.CompiledModule // nil until it is decoded, and then never changed
	holds int                   // handles and instances, if use is nil
	gone  bool                  // evicted, or closed with its runtime
}

// decoding is how a Module that another runtime has compiled gets its cm, once.
type decoding struct {
	first   sync.Once
	decoded func() (wazero.CompiledModule, error) // set by first
	begun   atomic.Bool                           // decoded is set
}

// use is what the books know of a Module: how often its runtime holds the code. Nothing in it
// leads to the runtime.
type use struct {
	l    *ledger
	code *Code

	// Guarded by Registry.mu.
	holds int           // handles and instances
	spare *list.Element // while holds is 0, if another runtime had the code first
}

// Decoder has a runtime make a module of what another has loaded. Image and native are nil if they
// weren't kept, or can't be had.
type Decoder interface {
	Decode(image []byte, native any) (wazero.CompiledModule, error)
}

// Compiled returns wazero's module, for whoever has a hold on m. The first who asks has it made of
// what is in memory; that is decoding, not compiling. d may be nil unless m is Undecoded. After an error
// the hold is worth nothing, and needs no Release.
func (m *Module) Compiled(d Decoder) (wazero.CompiledModule, error) {
	x := m.decoding
	if x == nil {
		return m.cm, nil
	}
	x.first.Do(func() {
		x.decoded = sync.OnceValues(func() (wazero.CompiledModule, error) { return m.decode(d) })
		x.begun.Store(true)
	})
	return x.decoded()
}

// Undecoded reports whether nobody has asked for wazero's module yet, which has to be made.
func (m *Module) Undecoded() bool { return m.decoding != nil && !m.decoding.begun.Load() }

// Linkage returns that of the code; ok is false if nobody else can use m.
func (m *Module) Linkage() (l wasmbin.Linkage, ok bool) {
	if m.use == nil {
		return l, false
	}
	return m.use.code.linkage, true
}

// Belongs reports whether m is a module of o.
func (m *Module) Belongs(o *Owner) bool { return m.o == o }

// decode makes the module of another runtime's code. It has a hold on the code of its own.
func (m *Module) decode(d Decoder) (cm wazero.CompiledModule, err error) {
	r := m.o.e.r
	r.mu.Lock()
	if m.gone {
		defer r.mu.Unlock()
		return nil, m.o.whyGone()
	}
	code := m.use.code
	code.hold(1)
	native := code.native
	loaded := code.module()
	r.mu.Unlock()
	if native == nil && loaded != nil {
		native = m.o.e.share(loaded)
	}

	done := false // unless it panics
	defer func() {
		var free []wazero.CompiledModule
		r.mu.Lock()
		switch {
		case !done || err != nil:
			free = m.remove()
		case m.gone:
			free, cm, err = append(free, cm), nil, m.o.whyGone()
		default:
			m.cm = cm
			if code.native == nil {
				code.native = native
			}
		}
		free = append(free, code.release(1)...)
		r.mu.Unlock()
		closeAll(free)
	}()
	cm, err = d.Decode(code.image, native)
	done = true
	return cm, err
}

// Hold takes another hold on m, or says why it can't be used any more: ErrClosed or ErrGone.
func (m *Module) Hold() error {
	m.o.lock()
	defer m.o.e.r.mu.Unlock()
	if m.gone || m.o.closed {
		return m.o.whyGone()
	}
	m.hold()
	return nil
}

func (m *Module) hold() {
	if m.use == nil {
		m.holds++
		return
	}
	m.use.hold()
}

// Release ends one hold.
func (m *Module) Release() {
	r := m.o.e.r
	r.mu.Lock()
	var free []wazero.CompiledModule
	switch {
	case m.gone:
	case m.use != nil:
		free = m.use.release()
	default:
		if m.holds--; m.holds == 0 {
			free = m.remove()
		}
	}
	r.mu.Unlock()
	closeAll(free)
	r.Garbage.Collect()
}

// remove takes m out of the books, with all holds on it, and returns what is to be
// closed. The lock is held.
func (m *Module) remove() (free []wazero.CompiledModule) {
	if m.gone {
		return nil
	}
	m.gone = true
	if m.cm != nil {
		free = append(free, m.cm)
	}
	if m.use == nil {
		delete(m.o.private, m)
		m.o.e.r.Garbage.Add(m.size)
		return free
	}
	delete(m.o.modules, m.use.code)
	return append(free, m.use.end()...)
}

// hold keeps u and its code from being freed. The lock is held.
func (u *use) hold() {
	u.holds++
	u.keep()
	u.code.hold(1)
}

// release is the inverse of hold; it returns what is to be closed once the lock is free. What the first runtime has of
// the code counts with that, but what others have in addition by itself: any number of them may have it, and hold it no more.
func (u *use) release() (free []wazero.CompiledModule) {
	r := u.l.e.r
	switch u.holds--; {
	case u.holds != 0 || u.code.only == u:
	case u.size() > r.retain:
		free = u.drop()
	default:
		u.spare = r.unused.PushFront(u)
		r.bytes += u.size()
		free = r.shrink()
	}
	return append(free, u.code.release(1)...)
}

// keep takes u out of what is unused.
func (u *use) keep() {
	if u.spare != nil {
		r := u.l.e.r
		r.unused.Remove(u.spare)
		u.spare = nil
		r.bytes -= u.size()
	}
}

// size is what u counts for while its runtime doesn't hold it.
func (u *use) size() int64 { return u.code.heap - int64(len(u.code.image)) }

// drop takes u and its module out of the books, with all holds, and returns what is to be closed. The
// lock is held.
func (u *use) drop() (free []wazero.CompiledModule) {
	if o := u.l.owner.Value(); o != nil {
		return o.modules[u.code].remove()
	}
	return u.end() // the collector was here first
}

// end takes u out of the books, with all holds. The lock is held.
func (u *use) end() (free []wazero.CompiledModule) {
	c := u.code
	u.keep()
	delete(u.l.uses, u)
	c.leave(u)
	if u.holds > 0 {
		free = c.release(u.holds)
	}
	if c.lost() {
		free = append(free, c.forget()...)
	}
	return free
}

// module returns wazero's module, or nil if there is none. The lock is held.
func (u *use) module() wazero.CompiledModule {
	if o := u.l.owner.Value(); o != nil {
		if m := o.modules[u.code]; m != nil {
			return m.cm
		}
	}
	return nil
}

// EndWith ends the caller's hold on m when the garbage collector finds that nothing refers to the handle any
// more, unless that is stopped. It does nothing if nobody else can use m, whose books lead to its runtime.
func EndWith[T any](handle *T, m *Module) (c runtime.Cleanup) {
	if m.use != nil {
		c = runtime.AddCleanup(handle, (*use).forget, m.use)
	}
	return c
}

// forget ends a hold that its caller forgot. Code that nobody else has is dropped then, unless it was worth
// keeping for others from the start: who forgets small modules makes them up, as a rule, and
// doesn't come back.
func (u *use) forget() {
	r := u.l.e.r
	r.mu.Lock()
	var free []wazero.CompiledModule
	if _, ok := u.l.uses[u]; ok {
		free = u.release()
		if u.code.native == nil {
			free = append(free, u.code.forget()...)
		}
	}
	r.mu.Unlock()
	closeAll(free)
}
