// Package breaker is a circuit breaker: it keeps calls away from something that fails,
// and finds out whether it works again.
//
//	closed ── Limit soft faults in a row, or a hard one ──▶ open
//	open ── the pause is over, and somebody asks ──▶ probing
//	probing ── the probe fails ──▶ open, for twice as long
//	any ── a call succeeds ──▶ closed
package breaker

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Breaker is closed at first. Its fields are set before it is used. Methods may be
// called from several goroutines at once; as long as nothing fails, they take no lock.
type Breaker struct {
	Limit  int           // soft faults in a row that open it; 0: it never opens
	Pause  time.Duration // the first pause; each that follows is twice as long, up to a minute or Pause
	Jitter bool          // pauses vary by half, so that those who share what failed don't return all at once

	state atomic.Int32 // written under mu

	mu     sync.Mutex
	row    int           // soft faults in a row, while closed
	pause  time.Duration // the last one since a success
	pauses int           // since a success
	asked  time.Duration // how long those of them were that the other side asked for
	until  time.Time     // while open: when to probe; while probing: when the probe is overdue
	opened uint64
}

// The states. Both suspect and closed let calls through; in suspect, there is something
// to forget after a success.
const (
	closed int32 = iota
	suspect
	open
	probing
)

// Fault is how much a failure says about the next call.
type Fault int

const (
	Soft Fault = iota // opens the breaker when there are Limit of them in a row
	Hard              // opens it at once
)

const (
	maxPause      = time.Minute
	maxRetryAfter = 10 * time.Minute // what a server may ask for
)

// Verdict says whether to make a call.
type Verdict int

const (
	No  Verdict = iota
	Yes         // the caller says what became of it, by Succeed, Fail or Abstain
	// Probe is No for everybody else meanwhile: by a call, or by another way, the
	// caller finds out whether there is anything to be had, and calls Succeed,
	// Recover, Fail or Abstain. One from whom nothing is heard for a minute is replaced.
	Probe
)

// ErrOpen is what an error is that says only that a breaker has turned a call away.
var ErrOpen = errors.New("the breaker is open")

// Ask returns whether to make a call.
func (b *Breaker) Ask() Verdict {
	if b.state.Load() < open {
		return Yes
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	switch {
	case b.state.Load() < open: // closed meanwhile
		return Yes
	case now.Before(b.until):
		return No
	}
	b.state.Store(probing)
	b.until = now.Add(maxPause)
	return Probe
}

// Open reports whether calls are turned away.
func (b *Breaker) Open() bool { return b.state.Load() >= open }

// Opened returns how often the breaker has opened; failed probes don't count.
func (b *Breaker) Opened() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened
}

// Remaining returns how long to wait before it makes sense to ask.
func (b *Breaker) Remaining() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state.Load() != open {
		return 0
	}
	return max(0, time.Until(b.until))
}

// Pauses returns how many pauses there were in a row, with no success between them, and how long those of them
// were that the other side asked for.
func (b *Breaker) Pauses() (n int, asked time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pauses, b.asked
}

// Succeed notes that a call was answered.
func (b *Breaker) Succeed() {
	if b.state.Load() == closed {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Store(closed)
	b.row, b.pause, b.pauses, b.asked = 0, 0, 0, 0
}

// Recover notes that a probe other than a call was answered. Only a call proves more, so
// if the next one fails, the pause isn't shorter.
func (b *Breaker) Recover() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Store(suspect)
	b.row = 0
}

// Fail notes that a call failed, and reports whether that has opened the breaker. If
// the other side said how long it wants to be left alone, that is retryAfter; else it is 0.
func (b *Breaker) Fail(f Fault, retryAfter time.Duration) (opened bool) {
	if b.Limit <= 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.state.Load() {
	case open:
		if !b.until.IsZero() {
			return false // of calls that fail together, one counts
		} // or the probe's caller didn't wait, and this is what became of it, or of another
	case closed, suspect:
		if b.row++; f == Soft && b.row < b.Limit {
			b.state.Store(suspect)
			return false
		}
		b.opened++
		opened = true
	}
	b.pauses++
	b.pause = min(max(2*b.pause, b.Pause), max(b.Pause, maxPause))
	d := b.pause
	if b.Jitter && d > 0 {
		d = d/2 + rand.N(d)
	}
	if retryAfter > 0 {
		d = min(retryAfter, maxRetryAfter)
		if b.Jitter {
			d += rand.N(d/4 + 1)
		}
		b.asked += d
	}
	b.state.Store(open)
	b.row, b.until = 0, time.Now().Add(d)
	return opened
}

// Abstain notes that a call says nothing, as its caller didn't wait. If it was the
// probe, the next who asks may try.
func (b *Breaker) Abstain() {
	if !b.Open() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state.Load() == probing {
		b.state.Store(open)
		b.until = time.Time{}
	}
}
