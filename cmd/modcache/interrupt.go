package main

import (
	"context"
	"sync"

	"github.com/modcache/modcache/internal/bounded"
)

// interruption is what a signal does to a command. One that only reads ends at once, whatever it
// waits for. One that has begun to make something ends by itself, once it has tidied up; a second
// signal ends the process all the same.
type interruption struct {
	mu    sync.Mutex
	makes bool // and so has to be waited for
	over  bool // nothing may be made any more
}

// run returns the error of a command, or that of ctx for one that is left where it is.
func (i *interruption) run(ctx context.Context, command func() error) error {
	done := make(chan error, 1)
	go func() { done <- command() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	i.mu.Lock()
	i.over = !i.makes
	left := i.over
	i.mu.Unlock()
	if left {
		return ctx.Err()
	}
	return <-done
}

// begin has to be called before anything is made that must be completed or removed. From then on,
// who reads the output may go away: the command gets an error for that, and no signal.
func (i *interruption) begin(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over {
		return ctx.Err()
	}
	i.makes = true
	ignoreBrokenPipes()
	return nil
}

// unlessInterrupted returns what f does, or the error of ctx as soon as that ends: f may wait for a
// pipe. It goes on then, until the process ends.
func unlessInterrupted[T any](ctx context.Context, f func() (T, error)) (T, error) {
	return bounded.Call(ctx, bounded.Limit{Wait: bounded.Forever}, func(context.Context) (T, error) { return f() }, nil)
}
