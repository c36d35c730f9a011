package loaded

import (
	"errors"
	"sync"

	"github.com/tetratelabs/wazero"
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
}

// use is what the books know of a Module: how often its runtime holds the code. Nothing in it
// leads to the runtime.
type use struct {
	l    *ledger
	code *Code

	holds int // handles and instances; guarded by Registry.mu
}

// Decoder has a runtime make a module of an image, whose code the engine of another has loaded.
type Decoder interface {
	Decode(image []byte, native any) (wazero.CompiledModule, error)
}

// Compiled returns wazero's module, for whoever has a hold on m. The first who asks has it made of
// what is in memory; that is decoding, not compiling. After an error the hold is worth
// nothing, and needs no Release.
func (m *Module) Compiled(d Decoder) (wazero.CompiledModule, error) {
	x := m.decoding
	if x == nil {
		return m.cm, nil
	}
	x.first.Do(func() {
		x.decoded = sync.OnceValues(func() (wazero.CompiledModule, error) { return m.decode(d) })
	})
	return x.decoded()
}

// Image returns what wazero was given for m, or nil if nobody else can use m.
func (m *Module) Image() []byte {
	if m.use == nil {
		return nil
	}
	return m.use.code.image
}

// Native returns the code of m, for the engines of other runtimes, or nil if nobody else can use m.
func (m *Module) Native() any {
	if m.use == nil {
		return nil
	}
	return m.use.code.native
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
	r.mu.Unlock()

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
		}
		free = append(free, code.release(1)...)
		r.mu.Unlock()
		closeAll(free)
	}()
	cm, err = d.Decode(code.image, code.native)
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
	m.use.holds++
	m.use.code.hold(1)
}

// Release ends one hold.
func (m *Module) Release() {
	r := m.o.e.r
	r.mu.Lock()
	var free []wazero.CompiledModule
	switch {
	case m.gone:
	case m.use != nil:
		m.use.holds--
		free = m.use.code.release(1)
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
	delete(u.l.uses, u)
	u.code.leave(u)
	if u.holds > 0 {
		free = u.code.release(u.holds)
	}
	return free
}
