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

// There may be so many of them, and so many bytes, over all images: their addresses and some page tables are taken, and
// where the kernel promises no more memory than it has, all their bytes.
const (
	mostSpare      = 512
	mostSpareBytes = 1 << 30
)

var spared, sparedBytes atomic.Int64

// count takes note of so many more, and reports whether there may be as many.
func count(areas, bytes int64) bool {
	n, size := spared.Add(areas), sparedBytes.Add(bytes)
	return n <= mostSpare && size <= mostSpareBytes
}

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
	count(-1, -int64(begins))
	return a, true
}

// put takes an area over, of which that many bytes can be used. It reports false if it doesn't want it.
func (s *spares) put(a area, begins uint64) bool {
	if s == nil || a.nowhere() {
		return false
	}
	if !count(1, int64(begins)) || !a.restore(begins) {
		count(-1, -int64(begins))
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		count(-1, -int64(begins))
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
		count(-1, -int64(a.begins))
		a.release()
	}
}
