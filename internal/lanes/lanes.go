// Package lanes keeps requests from waiting behind uploads.
package lanes

import (
	"net/http"
	"time"
)

// Transport sends what has a body over connections of its own. All else would wait in an HTTP/2 connection
// until the system has taken as much of uploads as the server lets clients send, which is 1 MiB and more.
type Transport struct{ asks, uploads *http.Transport }

// pingTimeout is how long the answer to a ping may wait behind an upload, of which 1 MiB is under way, or with servers that set no
// bound to it as much as the system keeps, which on Linux grows to 4 MiB. A connection that is dead is noticed before an upload has
// failed twice by it.
const pingTimeout = 100 * time.Second

// New returns a Transport of two that are like t, which it takes over.
func New(t *http.Transport) *Transport {
	uploads := t.Clone()
	if o := uploads.HTTP2; o != nil && o.SendPingTimeout > 0 {
		o.PingTimeout = max(o.PingTimeout, pingTimeout)
	}
	return &Transport{t, uploads}
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		return t.uploads.RoundTrip(r)
	}
	return t.asks.RoundTrip(r)
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] asks for.
func (t *Transport) CloseIdleConnections() {
	t.asks.CloseIdleConnections()
	t.uploads.CloseIdleConnections()
}
