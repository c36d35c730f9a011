package oci

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/flight"
)

// tokens is what a session remembers. Logins are shared, and belong to none of those who wait for them: with the cache
// of oras alone, all fail when the one who asked first goes away, and where his login hangs, nobody logs in any more.
type tokens struct {
	auth.Cache
	hung *semaphore.Weighted // logins that were given up count, too

	mu      sync.Mutex
	logins  flight.Group[login, string] // under mu
	running sync.WaitGroup
}

// login is what one is for.
type login struct {
	registry string
	scheme   auth.Scheme
	scopes   string
}

const (
	// So long a login may take. Helpers ask servers of their own.
	loginTime = 30 * time.Second
	// So many hang at most.
	maxLogins = 16
)

func newTokens() *tokens {
	t := &tokens{Cache: auth.NewCache(), hung: semaphore.NewWeighted(maxLogins)}
	t.logins = flight.Group[login, string]{Lock: &t.mu, Running: &t.running}
	return t
}

// Set implements [auth.Cache].
func (t *tokens) Set(ctx context.Context, registry string, scheme auth.Scheme, scopes string, fetch func(context.Context) (string, error)) (string, error) {
	for {
		t.mu.Lock()
		joined, _ := t.logins.Join(context.WithoutCancel(ctx), login{registry, scheme, scopes}, func(ctx context.Context) (string, error) {
			token, err := bounded.Call(ctx, bounded.Limit{Wait: loginTime, Slots: t.hung}, fetch, nil)
			if err != nil {
				return "", fmt.Errorf("login: %w", err)
			}
			return t.Cache.Set(ctx, registry, scheme, scopes, func(context.Context) (string, error) { return token, nil })
		})
		t.mu.Unlock()
		token, err := joined.Wait(ctx)
		if !errors.Is(err, flight.ErrAbandoned) || ctx.Err() != nil {
			return token, err
		}
	}
}
