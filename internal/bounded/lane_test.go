package bounded

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var bg = context.Background()

// call makes a call that may take so long, and returns what the caller waited.
func call(t *testing.T, l *Lane, f func(context.Context) error) (took time.Duration, err error) {
	t.Helper()
	start := time.Now()
	_, err = Do(bg, l, 5*time.Second, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) }, nil)
	return time.Since(start), err
}

func TestLaneRemembersWhatHangs(t *testing.T) {
	own := errors.New("its own")
	for name, c := range map[string]struct {
		f     func(ctx context.Context, answer chan struct{}) error
		first time.Duration
		hangs bool
	}{
		"hangs":             {func(_ context.Context, answer chan struct{}) error { <-answer; return own }, 5 * time.Second, true},
		"heeds its context": {func(ctx context.Context, _ chan struct{}) error { <-ctx.Done(); return ctx.Err() }, 5*time.Second - Grace, true},
		"answers in time":   {func(context.Context, chan struct{}) error { time.Sleep(4 * time.Second); return nil }, 4 * time.Second, false},
		"answers at last": {func(ctx context.Context, _ chan struct{}) error {
			<-ctx.Done()
			return nil
		}, 5*time.Second - Grace, false},
		"fails": {func(context.Context, chan struct{}) error { return own }, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, answer := NewLane(9), make(chan struct{})
				f := func(ctx context.Context) error { return c.f(ctx, answer) }
				for range 2 {
					took, _ := call(t, l, f)
					require.Equal(t, c.first, took)
					require.Equal(t, c.hangs, l.Hangs())
					took, err := call(t, l, f)
					if !c.hangs {
						require.Equal(t, c.first, took)
						continue
					}
					require.Zero(t, took)
					require.Equal(t, ErrHangs, err)
					time.Sleep(Pause)
				}
				close(answer)
				synctest.Wait()
				_, err := call(t, l, func(context.Context) error { return nil })
				require.NoError(t, err)
				require.False(t, l.Hangs())
			})
		})
	}
}

// What hangs is noticed when nobody waits for it any more, and what its caller has given up isn't blamed.
func TestLaneWhoseCallersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, answer := NewLane(9), make(chan struct{})
		for _, heeds := range []bool{true, false} {
			ctx, cancel := context.WithTimeout(bg, time.Second)
			defer cancel()
			_, err := Do(ctx, l, 5*time.Second, func(ctx context.Context) (struct{}, error) {
				if heeds {
					<-ctx.Done()
				} else {
					<-answer
				}
				return struct{}{}, ctx.Err()
			}, nil)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.False(t, l.Hangs())
			time.Sleep(10 * time.Second)
			require.Equal(t, !heeds, l.Hangs())
		}
		close(answer)
		synctest.Wait()
		require.False(t, l.Hangs())
	})
}

// A call that is to return when its caller leaves, and doesn't, is noticed soon after.
func TestLaneWhoseCallsHeedTheirCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, answer := NewLane(9), make(chan struct{})
		l.Heeds = true
		for _, heeds := range []bool{true, false} {
			ctx, cancel := context.WithCancel(bg)
			time.AfterFunc(time.Second, cancel)
			_, err := Do(ctx, l, time.Hour, func(ctx context.Context) (struct{}, error) {
				if <-ctx.Done(); !heeds {
					<-answer
				}
				return struct{}{}, ctx.Err()
			}, nil)
			require.ErrorIs(t, err, context.Canceled)
			require.False(t, l.Hangs())
			time.Sleep(2 * Grace)
			require.Equal(t, !heeds, l.Hangs())
		}
		close(answer)
		synctest.Wait()
		require.False(t, l.Hangs())
	})
}

// However long something hangs, it is a bounded number of calls that do.
func TestLaneBoundsWhatHangs(t *testing.T) {
	const size = 3
	for name, hang := range map[string]func(l *Lane, f func() error) error{
		"calls": func(l *Lane, f func() error) error {
			_, err := Do(bg, l, 5*time.Second, func(context.Context) (struct{}, error) { return struct{}{}, f() }, nil)
			return err
		},
		"what is given back": func(l *Lane, f func() error) error {
			if _, err := Do(bg, l, 5*time.Second, func(context.Context) (struct{}, error) { return struct{}{}, nil }, nil); err != nil {
				return err
			}
			return l.GiveBack(5*time.Second, f)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, answer := NewLane(size), make(chan struct{})
				var n atomic.Int64
				for i := range 4 * size {
					start := time.Now()
					require.Error(t, hang(l, func() error { n.Add(1); <-answer; return nil }))
					if i < size {
						require.Equal(t, 5*time.Second, time.Since(start))
					} else {
						require.Zero(t, time.Since(start), "there is nobody to wait for")
					}
					require.Equal(t, ErrHangs, hang(l, nil))
					time.Sleep(Pause)
				}
				require.EqualValues(t, size, n.Load())
				full, cancel := context.WithTimeout(bg, time.Second)
				defer cancel()
				require.Error(t, l.Drain(full))
				close(answer)
				require.NoError(t, l.Drain(bg))
				l.Refill()
				require.NoError(t, hang(l, func() error { return nil }))
			})
		})
	}
}

// What was taken is given back, whatever hangs, and is hardly waited for then.
func TestLaneGivesBackInAnyCase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, answer := NewLane(1), make(chan struct{})
		var given atomic.Int64
		_, _ = call(t, l, func(context.Context) error { <-answer; return nil })
		start := time.Now()
		require.NoError(t, l.GiveBack(5*time.Second, func() error { given.Add(1); return nil }))
		require.True(t, l.Hangs(), "which says nothing about others")
		require.Error(t, l.GiveBack(5*time.Second, func() error { given.Add(1); <-answer; return nil }))
		require.Equal(t, Grace, time.Since(start))
		require.EqualValues(t, 2, given.Load())
		close(answer)
		synctest.Wait()
		require.False(t, l.Hangs())
		require.ErrorContains(t, l.GiveBack(5*time.Second, func() error { panic("boom") }), "boom")
	})
}

// What was tried again and answers, be it with an error, doesn't hang any more; what its caller has left says nothing, and
// the next one tries.
func TestLaneTriesAgain(t *testing.T) {
	own := errors.New("its own")
	synctest.Test(t, func(t *testing.T) {
		l, answer := NewLane(9), make(chan struct{})
		defer close(answer)
		_, err := call(t, l, func(context.Context) error { <-answer; return nil })
		require.Equal(t, ErrNoAnswer, err)
		time.Sleep(Pause)
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		_, err = Do(ctx, l, 5*time.Second, func(ctx context.Context) (struct{}, error) { <-ctx.Done(); return struct{}{}, ctx.Err() }, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = call(t, l, func(context.Context) error { return own })
		require.Equal(t, own, err, "it was made")
		_, err = call(t, l, func(context.Context) error { return own })
		require.Equal(t, own, err, "it has answered")
	})
}

// A call that found no slot is waited for once, like one that hangs; and what is only tried needs one too.
func TestLaneThatIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, answer := NewLane(1), make(chan struct{})
		go func() {
			_, _ = Do(bg, l, time.Hour, func(context.Context) (struct{}, error) { <-answer; return struct{}{}, nil }, nil)
		}()
		synctest.Wait()
		took, err := call(t, l, nil)
		require.Equal(t, 5*time.Second, took)
		require.Equal(t, ErrFull, err)
		took, err = call(t, l, nil)
		require.Zero(t, took)
		require.Equal(t, ErrHangs, err)
		_, err = Try(bg, l, Grace, func(context.Context) (struct{}, error) { return struct{}{}, nil }, nil)
		require.Equal(t, ErrFull, err)
		close(answer)
		synctest.Wait()
		require.False(t, l.Hangs())
	})
}

// What comes too late goes to who gives it back, who has the call's slot until then: a Drain waits for it.
func TestLaneOfWhatComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, answer := NewLane(1), make(chan struct{})
		var late int
		_, err := Do(bg, l, 5*time.Second, func(context.Context) (int, error) { <-answer; return 7, nil }, func(v int) {
			require.False(t, l.slots.TryAcquire(1))
			late = v
		})
		require.Equal(t, ErrNoAnswer, err)
		close(answer)
		synctest.Wait()
		require.Equal(t, 7, late)
		require.NoError(t, l.Drain(bg))
		l.Refill()

		stuck := make(chan struct{})
		require.Equal(t, ErrNoAnswer, l.GiveBack(5*time.Second, func() error { <-stuck; return nil }))
		require.True(t, l.Hangs())
		close(stuck)
		synctest.Wait()
		require.False(t, l.Hangs())
	})
}

// Whoever gives back what comes too late may panic, or end the goroutine: the slot is free again.
func TestLaneOutlivesWhoGivesBack(t *testing.T) {
	for _, end := range []func(){func() { panic("closed twice") }, runtime.Goexit} {
		synctest.Test(t, func(t *testing.T) {
			l, answer := NewLane(1), make(chan struct{})
			_, err := Do(bg, l, 5*time.Second, func(context.Context) (int, error) { <-answer; return 7, nil }, func(int) { end() })
			require.Equal(t, ErrNoAnswer, err)
			close(answer)
			synctest.Wait()
			require.NoError(t, l.Drain(bg))
		})
	}
}
