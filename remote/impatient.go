package remote

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/contain"
)

// impatient is a Backend that contains what another one does, and whose calls return soon after their context has ended even if
// those of the other don't: what that asks for credentials, say, may have forgotten the context.
type impatient struct {
	backend Backend
	uploads int64
	calls   *semaphore.Weighted // at once, those included that were left
	puts    *semaphore.Weighted // each holds an entry in memory
}

func newImpatient(b Backend, uploads int) *impatient {
	n := int64(uploads)
	return &impatient{b, n, semaphore.NewWeighted(maxReads), semaphore.NewWeighted(n)}
}

// bound calls f, and leaves it to itself if it goes on for a while after ctx has ended. Until then, who heeds ctx can say what
// the matter was.
func bound[T any](ctx context.Context, slots *semaphore.Weighted, f func() (T, error), late func(T)) (T, error) {
	waiting, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(bounded.Grace, func() { cancel(context.Cause(ctx)) })
	})()
	return bounded.Call(waiting, bounded.Limit{Wait: never, Slots: slots}, func(context.Context) (T, error) { return f() }, late)
}

// Get implements [Backend].
func (i *impatient) Get(ctx context.Context, key modcache.Key) (io.ReadCloser, error) {
	return bound(ctx, i.calls, func() (io.ReadCloser, error) { return i.backend.Get(ctx, key) }, func(late io.ReadCloser) {
		if late != nil {
			contain.Close(late)
		}
	})
}

// look has f read the start of an entry.
func (i *impatient) look(ctx context.Context, key modcache.Key, f func(io.Reader) error) error {
	_, err := bound(ctx, i.calls, func() (struct{}, error) {
		body, err := i.backend.Get(ctx, key)
		if err != nil {
			return struct{}{}, err
		}
		defer contain.Close(body)
		return struct{}{}, f(body)
	}, nil)
	return err
}

// Has implements [Backend].
func (i *impatient) Has(ctx context.Context, key modcache.Key) (bool, error) {
	return bound(ctx, i.calls, func() (bool, error) { return i.backend.Has(ctx, key) }, nil)
}

// Put implements [Backend].
func (i *impatient) Put(ctx context.Context, key modcache.Key, entry []byte, replace bool) error {
	_, err := bound(ctx, i.puts, func() (struct{}, error) { return struct{}{}, i.backend.Put(ctx, key, entry, replace) }, nil)
	return err
}

// Delete implements [Backend].
func (i *impatient) Delete(ctx context.Context, key modcache.Key) error {
	_, err := bound(ctx, i.calls, func() (struct{}, error) { return struct{}{}, i.backend.Delete(ctx, key) }, nil)
	return err
}

// drain waits until no call is under way, but not for those that hang.
func (i *impatient) drain() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := i.calls.Acquire(ctx, maxReads)
	if err == nil {
		i.calls.Release(maxReads)
		err = i.puts.Acquire(ctx, i.uploads)
	}
	if err != nil {
		return fmt.Errorf("requests that hang are left to themselves: %w", bounded.ErrNoAnswer)
	}
	i.puts.Release(i.uploads)
	return nil
}
