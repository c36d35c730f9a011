package oci

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"time"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/flight"
	"github.com/modcache/modcache/internal/unanswered"
)

// tokens are what was had for logins. Logins are shared, and belong to none of those who wait for them: with the cache of
// oras, all fail when the one who asked first goes away, where his login hangs, nobody logs in any more, and
// what a registry asks a login for is kept for ever.
type tokens struct {
	mu      sync.Mutex
	schemes map[string]auth.Scheme      // of registries; guarded by mu
	known   map[login]*token            // guarded by mu
	logins  flight.Group[login, string] // under mu
	begun   map[*login]time.Time        // logins that haven't ended, with those that were given up; guarded by mu
	running sync.WaitGroup
}

type token struct {
	text  string
	since time.Time
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

func newTokens() *tokens {
	t := &tokens{schemes: map[string]auth.Scheme{}, known: map[login]*token{}, begun: map[*login]time.Time{}}
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

// Set implements [auth.Cache]: it returns a token that is had now, by this login or by one that is under way.
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

// cache is that of one request.
type cache struct {
	*tokens
	after time.Time // tokens that were had by then are for others: the registry has refused one, and may all of them
	sent  *token    // which was taken last; nil is none
}

// GetToken implements [auth.Cache].
func (c *cache) GetToken(_ context.Context, registry string, scheme auth.Scheme, scopes string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	token := c.known[login{registry, scheme, scopes}]
	if token == nil || !token.since.After(c.after) {
		return "", errdef.ErrNotFound
	}
	c.sent = token
	return token.text, nil
}

// fetch logs in.
func (t *tokens) fetch(ctx context.Context, l login, fetch func(context.Context) (string, error)) (string, error) {
	alone, ok := t.begin(&l)
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
		defer t.end(&l)
		return fetch(ctx)
	}, nil)
}

// begin reports whether another login may begin, and whether it is the only one of late.
func (t *tokens) begin(l *login) (alone, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	lately := 0
	for _, begun := range t.begun {
		if time.Since(begun) < hungTime {
			lately++
		}
	}
	if lately >= maxLogins || len(t.begun) >= maxAll {
		return false, false
	}
	t.begun[l] = time.Now()
	return lately == 0, true
}

func (t *tokens) end(l *login) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.begun, l)
}

func (t *tokens) keep(l login, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) >= maxTokens || len(t.schemes) >= maxTokens {
		clear(t.known)
		clear(t.schemes)
	}
	t.schemes[l.registry], t.known[l] = l.scheme, &token{text, time.Now()}
}

// forget forgets a token, unless another has taken its place.
func (t *tokens) forget(old *token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.known, func(_ login, token *token) bool { return token == old })
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
