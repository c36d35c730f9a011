package modcache

import (
	"sync"
	"sync/atomic"
	"time"
)

// breaker decides whether a layer is worth asking. It opens after a number of
// failures in a row; from then on one call is let through per cooldown to
// probe the layer, and the first success closes it. The cooldown doubles with
// every probe that fails.
type breaker struct {
	limit    int32         // failures in a row that open it; 0: never opens
	cooldown time.Duration // first pause
	failures atomic.Int32  // in a row; written under mu

	mu      sync.Mutex
	pause   time.Duration // current cooldown
	until   time.Time     // no probe before this
	probing bool          // a probe is under way, unless it is overdue
}

const maxCooldown = time.Minute

// isOpen reports whether calls are being turned away.
func (b *breaker) isOpen() bool { return b.limit > 0 && b.failures.Load() >= b.limit }

// allow reports whether to make the call. The caller then owes exactly one of
// success, failure or abstain.
func (b *breaker) allow() bool {
	if !b.isOpen() {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.failures.Load() < b.limit: // closed meanwhile
		return true
	case time.Now().Before(b.until):
		return false
	}
	// Nobody else until the probe is over, or so late that nothing will be
	// heard of it.
	b.probing, b.until = true, time.Now().Add(maxCooldown)
	return true
}

// success closes the breaker: the layer answered.
func (b *breaker) success() {
	if b.failures.Load() == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures.Store(0)
	b.pause, b.probing = 0, false
}

// failure counts a call that failed, and reports whether it opened the breaker.
func (b *breaker) failure() (opened bool) {
	if b.limit == 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.failures.Load()
	if n < b.limit {
		n++
		b.failures.Store(n)
		opened = n == b.limit
	}
	// Calls that were under way when the breaker opened don't prolong the pause.
	if opened || b.probing {
		b.pause = min(max(2*b.pause, b.cooldown), max(b.cooldown, maxCooldown))
		b.until = time.Now().Add(b.pause)
		b.probing = false
	}
	return opened
}

// abstain says that the call told nothing about the layer.
func (b *breaker) abstain() {
	if !b.isOpen() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.probing {
		b.probing, b.until = false, time.Time{} // the next one may try
	}
}
