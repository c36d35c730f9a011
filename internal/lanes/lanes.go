// Package lanes keeps requests from waiting behind uploads.
package lanes

import (
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// Transport sends uploads over connections of their own. All else would wait in an HTTP/2 connection
// until the system has taken as much of uploads as the server lets clients send, which is 1 MiB and more.
type Transport struct {
	asks    *http.Transport
	uploads atomic.Pointer[http.Transport] // a clone, made when it is needed: until its first use, callers may change theirs
}

// pingTimeout is how long the answer to a ping may wait behind an upload, of which 1 MiB is under way, or with servers that set no
// bound to it as much as the system keeps, which on Linux grows to 4 MiB.
const pingTimeout = 100 * time.Second

// idle is how long a connection that uploads nothing is kept: it may die without a word, which pings tell late.
const idle = 10 * time.Second

// Over returns a [Transport] over somebody else's, and what closes the idle connections that rt doesn't know of. What isn't an
// [http.Transport] is left as it is.
func Over(rt http.RoundTripper) (over http.RoundTripper, closeIdle func()) {
	t, ok := rt.(*http.Transport)
	if !ok {
		return rt, func() {}
	}
	lanes := New(t)
	return lanes, lanes.closeIdle
}

// New returns a Transport of t, and of one like it.
func New(t *http.Transport) *Transport { return &Transport{asks: t} }

func like(t *http.Transport) *http.Transport {
	uploads := t.Clone()
	if o := uploads.TLSClientConfig; o != nil && slices.Contains(o.NextProtos, "h2") {
		uploads.ForceAttemptHTTP2 = true // or it offers what it doesn't speak: net/http takes the config for the caller's own
	}
	if o := uploads.HTTP2; o != nil && o.SendPingTimeout > 0 {
		o.PingTimeout = max(o.PingTimeout, pingTimeout)
	}
	if n := uploads.IdleConnTimeout; n <= 0 || n > idle {
		uploads.IdleConnTimeout = idle
	}
	return uploads
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPut && r.Method != http.MethodPatch { // a POST may be a login, for which lookups wait
		return t.asks.RoundTrip(r)
	}
	uploads := t.uploads.Load()
	for uploads == nil {
		t.uploads.CompareAndSwap(nil, like(t.asks))
		uploads = t.uploads.Load()
	}
	resp, err := uploads.RoundTrip(r)
	if err != nil && t.uploads.CompareAndSwap(uploads, nil) {
		uploads.CloseIdleConnections() // the next upload dials: this connection may be dead, and whatever else it sends goes on
	}
	return resp, err
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] asks for.
func (t *Transport) CloseIdleConnections() {
	t.asks.CloseIdleConnections()
	t.closeIdle()
}

func (t *Transport) closeIdle() {
	if uploads := t.uploads.Load(); uploads != nil {
		uploads.CloseIdleConnections()
	}
}
