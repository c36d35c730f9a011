package oci

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"oras.land/oras-go/v2/registry/remote/errcode"
)

// guard is what each request goes through: those of the registry, those to where it redirects, and those to where it says that
// tokens are to be had.
type guard struct {
	next  http.RoundTripper
	plain bool
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
		return nil, err
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		_ = resp.Body.Close()
		return nil, &busyError{status: resp.Status, after: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	}
	return resp, nil
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
