package remote

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// running is a timer that counts only time in which this process could run: a process that was
// suspended, throttled or starved has not waited. It finds that out by how late its own beats are.
type running struct {
	f func()

	mu    sync.Mutex // guards these
	timer *time.Timer
	left  time.Duration // until f is called
	step  time.Duration // of it, until the next beat
	last  time.Time     // when left was right
	lost  time.Duration // in which this process couldn't run
	over  bool          // f was called, or isn't to be
}

// beat is how often the timer looks, and how late it may be on a machine that is merely busy.
const beat = 25 * time.Millisecond

// afterRunning calls f on a goroutine of its own once this process could run for so long, unless it
// is stopped before.
func afterRunning(d time.Duration, f func()) *running {
	r := &running{f: f, last: time.Now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timer = time.AfterFunc(never, r.tick)
	r.arm(d)
	return r
}

// arm sets the time that is left; mu is held.
func (r *running) arm(d time.Duration) {
	r.left, r.step = d, max(0, min(d, beat))
	r.timer.Reset(r.step)
}

// account brings what is left up to date, and reports whether this process couldn't run just before; mu
// is held.
func (r *running) account() (starved bool) {
	now := time.Now()
	gone := now.Sub(r.last)
	r.last = now
	if late := gone - r.step; late > beat {
		r.lost += late
		gone, starved = r.step, true
	}
	r.left -= gone
	r.step = max(0, r.step-gone)
	return starved
}

func (r *running) tick() {
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return
	}
	if starved := r.account(); starved && r.left < beat {
		r.left = beat // what has arrived meanwhile is read first
	}
	if r.left > 0 {
		r.arm(r.left)
		r.mu.Unlock()
		return
	}
	r.over = true
	r.mu.Unlock()
	r.f()
}

// reset has f called that long from now.
func (r *running) reset(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.account()
	if !r.over {
		r.arm(d)
	}
}

// missed returns for how long this process couldn't run since the timer began.
func (r *running) missed() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.account()
	return r.lost
}

func (r *running) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	r.timer.Stop()
}

// dialer connects within a limit of such time.
func dialer(limit time.Duration, dial dialFunc) dialFunc {
	if limit <= 0 {
		return dial
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		late := &timeoutError{what: fmt.Sprintf("no connection within %v", limit)}
		t := afterRunning(limit, func() { cancel(late) })
		defer t.stop()
		conn, err := dial(ctx, network, addr)
		if err != nil && context.Cause(ctx) == error(late) {
			err = &net.OpError{Op: "dial", Net: network, Err: late} // and not that somebody has canceled it
		}
		return conn, err
	}
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)
