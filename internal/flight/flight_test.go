package flight

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/contain"
)

// tower is a group with its lock, and the holds that it has granted.
type tower struct {
	Group[string, *int]
	mu      sync.Mutex
	running sync.WaitGroup
	granted []int
	after   int
}

func newTower(t *testing.T) *tower {
	w := &tower{}
	w.Group = Group[string, *int]{Lock: &w.mu, Running: &w.running, Grant: func(_ string, _ *int, n int) func() {
		w.granted = append(w.granted, n)
		return func() { w.after++ }
	}}
	t.Cleanup(w.running.Wait)
	return w
}

func (w *tower) join(ctx context.Context, work func(context.Context) (*int, error)) (*Flight[*int], bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Join(ctx, "key", work)
}

func TestWaitersShareOneResult(t *testing.T) {
	w := newTower(t)
	release := make(chan struct{})
	v := new(int)
	first, started := w.join(t.Context(), func(context.Context) (*int, error) { <-release; return v, nil })
	require.True(t, started)
	for range 3 {
		f, started := w.join(t.Context(), func(context.Context) (*int, error) { panic("not called") })
		require.False(t, started)
		require.Same(t, first, f)
	}
	close(release)
	for range 4 {
		got, err := first.Wait(t.Context())
		require.NoError(t, err)
		require.Same(t, v, got)
	}
	w.running.Wait()
	require.Equal(t, []int{4}, w.granted)
	require.Equal(t, 1, w.after)

	_, started = w.join(t.Context(), func(context.Context) (*int, error) { return v, nil })
	require.True(t, started, "what has landed is not joined")
}

func TestWorkOutlivesWhoStartedIt(t *testing.T) {
	w := newTower(t)
	release := make(chan struct{})
	f, _ := w.join(t.Context(), func(ctx context.Context) (*int, error) { <-release; return nil, ctx.Err() })
	w.join(t.Context(), nil)

	gone, leave := context.WithCancelCause(t.Context())
	leave(io.ErrClosedPipe)
	_, err := f.Wait(gone)
	require.ErrorIs(t, err, io.ErrClosedPipe)
	close(release)
	_, err = f.Wait(t.Context())
	require.NoError(t, err, "the second caller is served")
	require.Equal(t, []int{1}, w.granted, "who has left holds nothing")
}

func TestLastToLeaveCancels(t *testing.T) {
	w := newTower(t)
	ended := make(chan error)
	late := make(chan struct{})
	f, _ := w.join(t.Context(), func(ctx context.Context) (*int, error) {
		<-ctx.Done()
		ended <- context.Cause(ctx)
		<-late
		return nil, ctx.Err()
	})
	gone, leave := context.WithCancelCause(t.Context())
	leave(io.ErrClosedPipe)
	_, err := f.Wait(gone)
	require.ErrorIs(t, err, io.ErrClosedPipe)
	require.Equal(t, io.ErrClosedPipe, <-ended)

	// It winds down, and who comes now learns that it wasn't about the work.
	f, started := w.join(t.Context(), nil)
	require.False(t, started)
	close(late)
	_, err = f.Wait(t.Context())
	require.Equal(t, ErrAbandoned, err)
	require.Empty(t, w.granted)
}

func TestAbandonedWorkThatSucceedsIsShared(t *testing.T) {
	w := newTower(t)
	release := make(chan struct{})
	f, _ := w.join(t.Context(), func(context.Context) (*int, error) { <-release; return new(int), nil })
	gone, leave := context.WithCancel(t.Context())
	leave()
	_, err := f.Wait(gone)
	require.ErrorIs(t, err, context.Canceled)
	w.join(t.Context(), nil)
	close(release)
	v, err := f.Wait(t.Context())
	require.NoError(t, err)
	require.NotNil(t, v)
	require.Equal(t, []int{1}, w.granted)
}

func TestResultWinsOverEndedContext(t *testing.T) {
	w := newTower(t)
	f, _ := w.join(t.Context(), func(context.Context) (*int, error) { return new(int), nil })
	<-f.Done()
	gone, leave := context.WithCancel(t.Context())
	leave()
	_, err := f.Wait(gone)
	require.NoError(t, err, "the hold that was granted must not be lost")
}

func TestForgottenFlightIsNotJoined(t *testing.T) {
	w := newTower(t)
	release := make(chan struct{})
	old, _ := w.join(t.Context(), func(context.Context) (*int, error) { <-release; return nil, io.EOF })
	w.mu.Lock()
	require.False(t, old.Forgotten())
	w.Forget("key")
	require.True(t, old.Forgotten())
	w.mu.Unlock()
	f, started := w.join(t.Context(), func(context.Context) (*int, error) { return new(int), nil })
	require.True(t, started)
	close(release)
	_, err := old.Wait(t.Context())
	require.Equal(t, io.EOF, err)
	_, err = f.Wait(t.Context())
	require.NoError(t, err)
	require.Empty(t, w.flights)
}

func TestPanicReachesEveryWaiter(t *testing.T) {
	w := newTower(t)
	release := make(chan struct{})
	f, _ := w.join(t.Context(), func(context.Context) (*int, error) { <-release; panic(io.EOF) })
	w.join(t.Context(), nil)
	close(release)
	for range 2 {
		err := contain.Call(func() error { _, err := f.Wait(t.Context()); return err })
		var p *contain.Panic
		require.ErrorAs(t, err, &p)
		require.Equal(t, io.EOF, p.Value)
	}
	require.Empty(t, w.granted)
}

// An error that tells of a panic elsewhere is an error.
func TestContainedPanicIsNoPanic(t *testing.T) {
	w := newTower(t)
	told := contain.Call(func() error { panic("elsewhere") })
	f, _ := w.join(t.Context(), func(context.Context) (*int, error) { return nil, told })
	_, err := f.Wait(t.Context())
	require.Same(t, told, err)
}

func TestGoexitIsAnError(t *testing.T) {
	w := newTower(t)
	f, _ := w.join(t.Context(), func(context.Context) (*int, error) { runtime.Goexit(); return nil, nil })
	_, err := f.Wait(t.Context())
	require.True(t, errors.Is(err, contain.ErrExited))
}
