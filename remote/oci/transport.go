package oci

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/unanswered"
	"github.com/modcache/modcache/internal/weburl"
)

// guard is what each request goes through: those of the registry, those to where it redirects, and those to where it says that
// tokens are to be had.
type guard struct {
	next     http.RoundTripper
	registry *url.URL
	plain    bool
}

func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !g.plain {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, fmt.Errorf("the registry leads to %s://%s; without Options.PlainHTTP, only https is spoken", r.URL.Scheme, r.URL.Host)
	}
	resp, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, unanswered.Error(err)
	}
	resp.Request = cmp.Or(resp.Request, r) // net/http's own has set it, and oras relies on that
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		_ = resp.Body.Close()
		return nil, &busyError{status: resp.Status, after: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	}
	if !weburl.Same(r.URL, g.registry) {
		// oras would take it for the registry's, and send that one's password to wherever this host says.
		resp.Header.Del("WWW-Authenticate")
	}
	return resp, nil
}

// homebound is a client that takes credentials along to the registry alone.
type homebound struct {
	client   auth.Client // without a cache
	tokens   *tokens
	registry *url.URL
}

// minTokenLife is how long tokens are valid at least, as the specification of registries' tokens has it. Before, a refusal is meant:
// to log in again would cost each request that isn't allowed three more.
const minTokenLife = time.Minute

// wantedSize is in the context of a request for a layer: an int64, how long the manifest says that it is.
type wantedSize struct{}

// Do implements [orasremote.Client]. A layer of another length is damaged, and no failure of the server; oras says that
// in the text of an error alone.
func (h *homebound) Do(r *http.Request) (*http.Response, error) {
	resp, err := h.do(r)
	if err != nil {
		return nil, err
	}
	want, is := r.Context().Value(wantedSize{}).(int64)
	if n := resp.ContentLength; is && resp.StatusCode == http.StatusOK && n >= 0 && n != want {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%w: the layer has %d bytes, and %d as the manifest says", modcache.ErrCorrupt, n, want)
	}
	return resp, nil
}

// do authorizes a request. An upload goes where the registry has said, and oras authorizes it like the request before, and doesn't
// log in where that token has expired meanwhile.
// What is refused with a remembered token is asked once more without any that isn't new. Others use them until somebody has logged in: the
// refusal may be of what this request wants, and a login may hang.
func (h *homebound) do(r *http.Request) (*http.Response, error) {
	if !weburl.Same(r.URL, h.registry) {
		r.Header.Del("Authorization")
	}
	handed := r.Header.Get("Authorization") != ""
	began, first := time.Now(), &cache{tokens: h.tokens}
	resp, err := h.send(r, first)
	if err != nil {
		return nil, err
	}
	switch {
	case handed && (resp.StatusCode == http.StatusUnauthorized || h.refuses(resp)):
	case h.refuses(resp) && first.sent != nil && time.Since(first.sent.since) >= minTokenLife:
	default:
		return resp, nil
	}
	again := r.Clone(r.Context())
	again.Header.Del("Authorization")
	if r.Body != nil {
		if r.GetBody == nil {
			return resp, nil
		}
		if again.Body, err = r.GetBody(); err != nil {
			return resp, nil
		}
	}
	_ = resp.Body.Close()
	resp, err = h.send(again, &cache{tokens: h.tokens, after: began.Add(-minTokenLife)})
	if err == nil && first.sent != nil && (resp.StatusCode < http.StatusBadRequest || resp.StatusCode == http.StatusNotFound) {
		h.tokens.forget(first.sent) // if no login has replaced it, none is needed
	}
	return resp, err
}

func (h *homebound) send(r *http.Request, c *cache) (*http.Response, error) {
	client := h.client
	client.Cache = c
	return client.Do(r)
}

// refuses reports whether the registry may have refused a token because it has expired, without asking for another one. oras logs
// in again after a 401 alone; Amazon's registries answer 403, and the public one 400.
func (h *homebound) refuses(resp *http.Response) bool {
	return (resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusBadRequest) &&
		weburl.Same(resp.Request.URL, h.registry) && resp.Request.Header.Get("Authorization") != ""
}

// withoutCredentials follows a redirect, to another port or host without what the registry was told: net/http passes it on
// to subdomains, and to any port. A form, as oras sends with an identity token in it, has it in the body, which 307 and 308 have sent
// again. Uploads are no forms.
func withoutCredentials(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	first := via[0].URL
	elsewhere := func(r *http.Request) bool { return !weburl.Same(r.URL, first) }
	if elsewhere(req) || slices.ContainsFunc(via, elsewhere) {
		if req.Method == http.MethodPost && strings.HasPrefix(via[0].Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
			return errors.New("the token server redirects a login to another host, which would get what is in it")
		}
		req.Header.Del("Authorization")
	}
	return nil
}

// busyError is a server that wants to be left alone.
type busyError struct {
	status string
	after  time.Duration
}

func (e *busyError) Error() string { return "the registry says " + e.status }

// RetryAfter is what a [remote.Store] asks for.
func (e *busyError) RetryAfter() time.Duration { return e.after }

// retryAfter reads a number of seconds or a date; 0 is neither.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// statusOf returns the status of a response that was an error, or 0.
func statusOf(err error) int {
	var response *errcode.ErrorResponse
	if errors.As(err, &response) {
		return response.StatusCode
	}
	return 0
}
