package loaded

import (
	"sync"

	"github.com/tetratelabs/wazero"
)

// Module is the compiled module of one runtime.
type Module struct {
	o        *Owner
	code     *Code // nil if nobody else can use it, as it has listeners
	size     int64 // footprint, if code is nil
	compiled func() (wazero.CompiledModule, error)

	// Guarded by Registry.mu.
	cm    wazero.CompiledModule // nil until it is compiled
	holds int                   // handles and instances
	gone  bool                  // evicted, or closed with its runtime
}

// Compiled returns wazero's module, for whoever has a hold on m. The first who asks makes
// it of what the engine has in memory; that is decoding, not compiling. After an error the
// hold is worth nothing, and needs no Release.
func (m *Module) Compiled() (wazero.CompiledModule, error) { return m.compiled() }

// Image returns what wazero was given for m, or nil if nobody else can use m.
func (m *Module) Image() []byte {
	if m.code == nil {
		return nil
	}
	return m.code.image
}

// Belongs reports whether m is a module of o.
func (m *Module) Belongs(o *Owner) bool { return m.o == o }

// decode makes the module of another runtime's code. It has a hold on the code of its own:
// wazero must find it in memory even if the runtime is closed meanwhile, because two loads
// of the same code into one engine aren't safe.
func (m *Module) decode() (cm wazero.CompiledModule, err error) {
	r := m.o.e.r
	r.mu.Lock()
	if m.gone {
		r.mu.Unlock()
		return nil, ErrClosed
	}
	m.code.hold(1)
	r.mu.Unlock()

	done := false // unless it panics
	defer func() {
		var free []wazero.CompiledModule
		r.mu.Lock()
		switch {
		case !done || err != nil:
			free = m.remove()
		case m.gone:
			free, cm, err = append(free, cm), nil, ErrClosed
		default:
			m.cm = cm
		}
		free = append(free, m.code.release(1)...)
		r.mu.Unlock()
		closeAll(free)
	}()
	cm, err = m.o.compile(m.code.image)
	done = true
	return cm, err
}

// Hold takes another hold on m. It reports false if m can't be used any more.
func (m *Module) Hold() bool {
	m.o.lock()
	defer m.o.e.r.mu.Unlock()
	if m.gone || m.o.closed {
		return false
	}
	m.hold()
	return true
}

func (m *Module) hold() {
	m.holds++
	if m.code != nil {
		m.code.hold(1)
	}
}

// Release ends one hold.
func (m *Module) Release() {
	r := m.o.e.r
	r.mu.Lock()
	var free []wazero.CompiledModule
	if !m.gone {
		m.holds--
		switch {
		case m.code != nil:
			free = m.code.release(1)
		case m.holds == 0:
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
	if m.code == nil {
		delete(m.o.private, m)
		m.o.e.r.Garbage.Add(m.size)
		return []wazero.CompiledModule{m.cm}
	}
	delete(m.o.modules, m.code.key)
	delete(m.code.modules, m.o)
	if m.cm != nil && m.cm != m.code.anchor {
		free = append(free, m.cm)
	}
	if m.holds > 0 {
		free = append(free, m.code.release(m.holds)...)
	}
	return free
}

// newModule returns the owner's module of the code, which is compiled when it is asked for.
func newModule(o *Owner, c *Code) *Module {
	m := &Module{o: o, code: c}
	m.compiled = sync.OnceValues(m.decode)
	return m
}
