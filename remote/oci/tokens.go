package oci

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/flight"
	"github.com/modcache/modcache/internal/unanswered"
)

// tokens is the cache of a session. Logins are shared, and belong to none of those who wait for them: with the cache of
// oras, all fail when the one who asked first goes away, where his login hangs, nobody logs in any more, and
// what a registry asks a login for is kept for ever.
type tokens struct {
	places *places

	mu      sync.Mutex
	schemes map[string]auth.Scheme      // of registries; guarded by mu
	known   map[login]string            // guarded by mu
	logins  flight.Group[login, string] // under mu
	running sync.WaitGroup
}

// places are those for logins, of all sessions.
type places struct {
	mu       sync.Mutex
	underWay int // logins, with those that were given up lately; guarded by mu
	all      int // with those that were given up and have never ended; guarded by mu
}

// take takes one, if there is one, for who frees it when the login has ended. alone is whether no other was taken.
func (p *places) take() (free func(), alone, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.underWay >= maxLogins || p.all >= maxAll {
		return nil, false, false
	}
	alone = p.underWay == 0
	p.underWay++
	p.all++
	forgive := sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.underWay--
	})
	hangs := time.AfterFunc(hungTime, forgive)
	return func() {
		hangs.Stop()
		forgive()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.all--
	}, alone, true
}

// login is what one is for.
type login struct {
	registry string
	scheme   auth.Scheme
	scopes   string
}

// So long a login may take. Helpers ask servers of their own.
var loginTime = 30 * time.Second // but in tests

const (
	// So long others join one that is alone. If nobody answers that, perhaps somebody does the next, which is joined to its end.
	joinTime = 5 * time.Second
	// So many are under way at most, and so many with those that hang for longer than hungTime: what a helper has left behind may do so
	// for ever, when others work again. Each is a process, perhaps.
	maxLogins = 16
	maxAll    = 64
	hungTime  = 30 * time.Minute
	// So many tokens are kept. A repository takes two, to read and to write.
	maxTokens = 16
)

func newTokens(p *places) *tokens {
	t := &tokens{places: p, schemes: map[string]auth.Scheme{}, known: map[login]string{}}
	t.logins = flight.Group[login, string]{Lock: &t.mu, Running: &t.running}
	return t
}

// GetScheme implements [auth.Cache].
func (t *tokens) GetScheme(_ context.Context, registry string) (auth.Scheme, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if scheme, ok := t.schemes[registry]; ok {
		return scheme, nil
	}
	return auth.SchemeUnknown, errdef.ErrNotFound
}

// GetToken implements [auth.Cache].
func (t *tokens) GetToken(_ context.Context, registry string, scheme auth.Scheme, scopes string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if token, ok := t.known[login{registry, scheme, scopes}]; ok {
		return token, nil
	}
	return "", errdef.ErrNotFound
}

// Set implements [auth.Cache].
func (t *tokens) Set(ctx context.Context, registry string, scheme auth.Scheme, scopes string, fetch func(context.Context) (string, error)) (string, error) {
	l := login{registry, scheme, scopes}
	for {
		t.mu.Lock()
		joined, _ := t.logins.Join(context.WithoutCancel(ctx), l, func(ctx context.Context) (string, error) {
			// It goes on if all have left: it may take longer than one lookup does, and the next one finds the token.
			token, err := t.fetch(context.WithoutCancel(ctx), l, fetch)
			if err != nil {
				return "", loginError(err)
			}
			t.keep(l, token)
			return token, nil
		})
		t.mu.Unlock()
		token, err := joined.Wait(ctx)
		if !errors.Is(err, flight.ErrAbandoned) || ctx.Err() != nil {
			return token, err
		}
	}
}

// fetch logs in.
func (t *tokens) fetch(ctx context.Context, l login, fetch func(context.Context) (string, error)) (string, error) {
	free, alone, ok := t.places.take()
	if !ok {
		return "", bounded.ErrFull
	}
	if alone {
		defer time.AfterFunc(joinTime, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.logins.Forget(l)
		}).Stop()
	}
	return bounded.Call(ctx, bounded.Limit{Wait: loginTime}, func(ctx context.Context) (string, error) {
		defer free()
		return fetch(ctx)
	}, nil)
}

func (t *tokens) keep(l login, token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) >= maxTokens || len(t.schemes) >= maxTokens {
		clear(t.known)
		clear(t.schemes)
	}
	t.schemes[l.registry], t.known[l] = l.scheme, token
}

// loginError says what kept somebody from logging in. That there is no such file, or no such service, isn't what the registry
// says of an entry; a refusal is.
func loginError(err error) error {
	switch status := statusOf(err); {
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == 0 && !errors.Is(err, errdef.ErrNotFound):
		return fmt.Errorf("login: %w", unanswered.Error(err))
	}
	return fmt.Errorf("login: %v", err)
}
