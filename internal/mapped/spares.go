package mapped

import (
	"sync"
	"sync/atomic"
)

// spares are areas that memories of an image have left, as they were when they began. To take one saves the system
// calls that map an image, and the one that unmaps it.
type spares struct {
	mu     sync.Mutex
	areas  []spare
	closed bool
}

type spare struct {
	area
	begins uint64 // bytes that can be used
}

// mostSpare is how many there may be, over all images: their addresses, and some page tables, are taken.
const mostSpare = 512

var spared atomic.Int64

// take returns an area of so many bytes that may grow to most, if there is one.
func (s *spares) take(begins, most uint64) (a area, ok bool) {
	if s == nil {
		return a, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.areas)
	if n == 0 || s.areas[n-1].begins != begins || s.areas[n-1].size != wholeArea(most) {
		return a, false
	}
	a, s.areas = s.areas[n-1].area, s.areas[:n-1]
	spared.Add(-1)
	return a, true
}

// put takes an area over, of which that many bytes can be used. It reports false if it doesn't want it.
func (s *spares) put(a area, begins uint64) bool {
	if s == nil || a.nowhere() {
		return false
	}
	if spared.Add(1) > mostSpare || !a.restore(begins) {
		spared.Add(-1)
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		spared.Add(-1)
		return false
	}
	s.areas = append(s.areas, spare{a, begins})
	return true
}

// close unmaps all areas, and has put want no more.
func (s *spares) close() {
	s.mu.Lock()
	areas := s.areas
	s.areas, s.closed = nil, true
	s.mu.Unlock()
	for _, a := range areas {
		a.release()
	}
	spared.Add(-int64(len(areas)))
}
