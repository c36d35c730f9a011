package remote

import (
	"math/rand/v2"
	"sync"
	"time"
)

// breaker keeps requests away from a server that fails.
type breaker struct {
	pause time.Duration // the first; 0 = never keeps anything away

	mu      sync.Mutex
	row     int // faults in a row
	level   int // of the pause
	open    bool
	probing bool
	until   time.Time // while open: when to probe
	opened  uint64
}

// fault is how much a failure says about the next request.
type fault int

const (
	soft fault = iota // opens the breaker when there are several in a row
	hard              // opens it at once
)

const (
	softFaults = 3
	maxPause   = time.Minute
	maxAfter   = 10 * time.Minute // of what a server may ask for
)

// allow reports whether the server may be asked. If it says no and probe, the
// caller finds out whether the server is back, and calls recover or fail.
func (b *breaker) allow() (ok, probe bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return true, false
	}
	if b.probing || time.Now().Before(b.until) {
		return false, false
	}
	b.probing = true
	return false, true
}

func (b *breaker) isOpen() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

// remaining returns how long to wait before it makes sense to ask.
func (b *breaker) remaining() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return 0
	}
	return max(0, time.Until(b.until))
}

// fail notes a failure. The server may have said how long to leave it alone.
func (b *breaker) fail(f fault, after time.Duration) {
	if b.pause <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.row++
	// Of the requests that fail together, one counts.
	late := b.open && !b.probing
	if late || f == soft && b.row < softFaults && !b.probing {
		return
	}
	if !b.open {
		b.opened++
	}
	d := maxPause
	if b.level < 16 {
		d = min(b.pause<<b.level, maxPause)
	}
	b.level++
	d = d/2 + rand.N(d) // so that a fleet doesn't come back all at once
	if after > 0 {
		after = min(after, maxAfter)
		d = after + rand.N(after/4+1)
	}
	b.open, b.probing = true, false
	b.until = time.Now().Add(d)
}

// recover notes that the server answers a probe. Only a request that somebody
// waits for proves more, so that the next pause isn't shorter.
func (b *breaker) recover() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open, b.probing, b.row = false, false, 0
}

// succeed notes that the server works.
func (b *breaker) succeed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open, b.probing, b.row, b.level = false, false, 0, 0
}
