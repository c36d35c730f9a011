package modcache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache/internal/wasmbin"
)

// A store on the far side of a network may take longer than a compile. When a
// lookup outlasts the store's patience, a compile starts beside it, and
// whichever has code first is used. Both run in goroutines that Close waits for; at
// most one of them places code in the runtime.

// WithCompileEstimate returns a context for [Store].Get that says how long compiling
// will take if the entry isn't there, so that a store knows when waiting for it makes no
// sense. A [Runtime] says it to stores that are a [Hedger].
func WithCompileEstimate(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, estimateKey{}, d)
}

// CompileEstimate returns what [WithCompileEstimate] said, or 0.
func CompileEstimate(ctx context.Context) time.Duration {
	d, _ := ctx.Value(estimateKey{}).(time.Duration)
	return d
}

type estimateKey struct{}

// compilePerByte is what wazero takes for a byte of the code section, on one core: from
// 290 to 540 ns for large modules on a free machine, from 360 to 1300 for all on a busy one.
const compilePerByte = 500 * time.Nanosecond

// patience returns how long to wait for the store before compiling; 0 means
// that compiling has to wait for it. The context for the store comes with an estimate.
func (l *loading) patience(ctx context.Context) (context.Context, time.Duration) {
	c := l.e.c
	if _, ok := c.store.(Hedger); !ok {
		return ctx, 0
	}
	var code int
	l.src.read(func(wasm []byte) {
		code = len(wasm)
		if outline, err := wasmbin.Scan(wasm); err == nil {
			code = outline.CodeSize()
		}
	})
	workers := experimental.GetCompilationWorkers(c.withWorkers(ctx))
	estimate := max(1, time.Duration(code)*compilePerByte/time.Duration(max(1, workers)))
	ctx = WithCompileEstimate(ctx, estimate)
	if c.opts.RequireHit {
		return ctx, 0
	}
	return ctx, patienceOf(c.store, estimate)
}

// patienceOf is the store's Patience, with its panics contained.
func patienceOf(s Store, compile time.Duration) (d time.Duration) {
	if h, ok := s.(Hedger); ok {
		_ = guard("patience", func() error { d = h.Patience(compile); return nil })
	}
	return d
}

// errOvertaken is why a compile has become needless.
var errOvertaken = errors.New("modcache: the store was faster")

// errSlowStore is why a lookup has. Stores take it for a deadline of their caller.
var errSlowStore = fmt.Errorf("modcache: compiling was faster than the store: %w", context.DeadlineExceeded)

// hedge is find and then build, but doesn't wait for find longer than that.
func (l *loading) hedge(ctx context.Context, slow func(), patience time.Duration) (*hot, error) {
	c := l.e.c
	find := l.attempt(ctx, l.find)
	defer find.cancel(errSlowStore)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	intime := true
	select {
	case <-find.done:
	case <-timer.C:
		intime = l.isPlaced()
	}
	if intime {
		if h, err := find.wait(); h != nil || err != nil {
			return h, err
		}
		slow()
		return l.build(ctx, &find.why)
	}

	slow()
	l.src.own() // the one that comes second may go on when the caller is gone
	c.counters.hedged.Add(1)
	l.hedged = true
	build := l.attempt(context.WithValue(ctx, atHandKey{}, patience), l.build)
	defer build.cancel(errOvertaken)
	select {
	case <-find.done:
	case <-build.done:
		if build.failed() && !errors.Is(build.err, errLeaderClosed) {
			<-find.done // it may know better
		}
	}
	why := whyMissed{ReasonTimeout, errSlowStore}
	if find.isDone() && !errors.Is(find.err, errOvertaken) {
		switch {
		case find.h != nil:
			return find.wait()
		case !find.failed():
			why = find.why // a miss, though a late one
		case l.giveUp(): // the compile has placed nothing, and won't
			return find.wait()
		}
	}
	<-build.done
	if build.h == nil && !l.giveUp() {
		return find.wait()
	}
	if build.h == nil || l.fresh {
		c.miss(l.key, why)
	}
	return build.wait()
}

// place runs f, which brings code into the engine, unless there is some.
func (l *loading) place(fresh bool, f func() (*hot, error)) (*hot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.placed {
		return nil, errOvertaken
	}
	h, err := f()
	if err == nil {
		l.placed, l.fresh = true, fresh
	}
	return h, err
}

// isPlaced reports whether there is code, having waited for what is being placed.
func (l *loading) isPlaced() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.placed
}

// giveUp keeps code from being placed that nobody would release, and reports
// whether there is none.
func (l *loading) giveUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	placed := l.placed
	l.placed = true
	return !placed
}

// attempt is one of the two ways to code, under way.
type attempt struct {
	done   chan struct{}
	cancel context.CancelCauseFunc

	// Set before done is closed.
	h        *hot
	err      error
	panicked *flightPanic
	why      whyMissed
}

func (l *loading) attempt(ctx context.Context, f func(context.Context, *whyMissed) (*hot, error)) *attempt {
	t := &attempt{done: make(chan struct{}), err: errFlightExited} // unless f returns
	ctx, t.cancel = context.WithCancelCause(ctx)
	l.e.c.flights.Add(1) // the flight that we are in has not ended
	go func() {
		defer l.e.c.flights.Done()
		defer t.cancel(nil)
		defer close(t.done)
		t.h, t.panicked, t.err = protect(func() (*hot, error) { return f(ctx, &t.why) })
	}()
	return t
}

func (t *attempt) isDone() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

func (t *attempt) failed() bool { return t.err != nil || t.panicked != nil }

func (t *attempt) wait() (*hot, error) {
	<-t.done
	if t.panicked != nil {
		panic(t.panicked)
	}
	return t.h, t.err
}

// atHandKey marks the context of a Get that is about what processes nearby have just
// added, while the same key is being asked for everywhere.
type atHandKey struct{}

// atHand returns how long such a Get may take, or 0 for any other.
func atHand(ctx context.Context) time.Duration {
	d, _ := ctx.Value(atHandKey{}).(time.Duration)
	return d
}
