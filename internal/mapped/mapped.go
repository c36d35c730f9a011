// Package mapped has memory outside of Go's heap for guests: addresses are reserved up
// to the most that a memory may grow to, and pages take part as they are used. A memory
// may begin as the copy of an [Image], whose pages are shared until they are written to.
//
// The garbage collector doesn't know this memory. Whoever uses a [Memory] keeps it
// reachable; when nobody does any more, its addresses are given back.
//
// It also has [Pages], for machine code, which change their place without being copied.
package mapped

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
)

// ErrUnsupported means that this platform has no memory outside of Go's heap, or too few
// addresses for it.
var ErrUnsupported = errors.New("no memory outside of Go's heap on this platform")

// Memory is a memory that never moves. Its methods may be called from several goroutines.
type Memory struct {
	mu      sync.Mutex
	area    area
	size    uint64  // of what is used
	whole   uint64  // how much can be used without asking
	ended   bool    // by Discard
	begins  uint64  // size at first
	spares  *spares // where its area goes, if another memory can have it
	cleanup runtime.Cleanup
}

// New returns a memory of size bytes that may grow to most. It begins as the image says, and
// with zeros behind that; image may be nil. If it is whole, most bytes are the capacity of what Resize
// returns, for those who go on without Resize.
func New(size, most uint64, image *Image, whole bool) (*Memory, error) {
	if size > most || image != nil && image.size > size {
		return nil, fmt.Errorf("a memory of %d bytes, %d at most, does not fit its image", size, most)
	}
	m := &Memory{begins: size, size: size}
	shared := image.shared()
	if whole {
		m.whole = most
	} else if shared {
		m.spares = image.spares
	}
	var spare bool
	if m.area, spare = m.spares.take(size, most); !spare {
		var err error
		if m.area, err = mapArea(max(size, m.whole), most, image, shared, whole); err != nil {
			return nil, err
		}
	}
	m.cleanup = runtime.AddCleanup(m, area.release, m.area)
	runtime.KeepAlive(image)
	return m, nil
}

// mapArea returns an area of which that many bytes can be used, and that begins as the image, shared or copied.
func mapArea(usable, most uint64, image *Image, shared, whole bool) (area, error) {
	a, err := reserve(most, whole)
	if err != nil {
		return area{}, err
	}
	begin := uint64(0)
	if shared && image.size > 0 {
		if err := a.mapImage(image); err != nil {
			image.refused.Store(true) // since the area is lost: nothing in it is surely ours any more
			return area{}, err
		}
		begin = image.size
	}
	if err := a.commit(begin, usable); err != nil {
		a.release()
		return area{}, err
	}
	if image != nil && !shared {
		if err := image.CopyTo(a.bytes(usable)); err != nil {
			a.release()
			return area{}, err
		}
	}
	return a, nil
}

// Resize returns the first size bytes, or nil if there is no memory for them. It never takes
// any away.
func (m *Memory) Resize(size uint64) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if size > m.size {
		if m.ended || size > m.area.size || m.area.commit(max(m.size, m.whole), size) != nil {
			return nil
		}
		m.size = size
	}
	return m.area.bytes(max(size, m.whole))[:size]
}

// Size returns how many bytes are used.
func (m *Memory) Size() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size
}

// Discard gives the memory back, but for its addresses: whoever still reads there finds zeros, or what the memory
// began with, and harms nobody by writing. It reports false if that was done before.
func (m *Memory) Discard() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return false
	}
	m.ended = true
	if m.area.restore(m.size) {
		return true
	}
	m.spares = nil
	if m.area.discard(m.size) != nil { // nothing there is surely ours any more
		m.cleanup.Stop()
		m.area, m.size, m.whole = area{}, 0, 0
	}
	return true
}

// Unmap gives everything back, or leaves it to a later memory that begins with the same image. Nobody may use
// the memory any more.
func (m *Memory) Unmap() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cleanup.Stop()
	if m.size != m.begins || !m.spares.put(m.area, m.size) {
		m.area.release()
	}
	m.area, m.size, m.whole, m.ended, m.spares = area{}, 0, 0, true, nil
}

// Leak keeps the addresses until Unmap, or for as long as the program runs.
func (m *Memory) Leak() { m.cleanup.Stop() }
