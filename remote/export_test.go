package remote

import (
	"net/http"
	"testing"
	"time"
)

// SignV4 signs as S3 does, at a given time.
func SignV4(req *http.Request, body [32]byte, c Credentials, region string, now time.Time) {
	signV4(req, body, c, region, now)
}

// Actions, for fuzzing.
func AppendAction(hash [32]byte, size int64) []byte { return appendAction(nil, digest{hash, size}) }

func ParseAction(msg []byte) (hash [32]byte, size int64, err error) {
	d, err := parseAction(msg)
	return d.hash, d.size, err
}

const SendsNothing = sendsNothing

// SameService is what decides whether a redirected request is signed.
func SameService(ours, theirs string) bool { return sameService(ours, theirs) }

// KeepNothing has a handler with a Signer keep no entries in memory.
func KeepNothing(h *Handler) { h.signing.memory.Resize(-1) }

// AskForRoom has a handler with a Signer, which signs nothing just now, ask the store before the next entry how much room there is.
func AskForRoom(h *Handler) {
	h.signing.mu.Lock()
	defer h.signing.mu.Unlock()
	h.signing.again = time.Time{}
}

// NewTransport is that of the default Client.
func NewTransport(o *Options) *http.Transport { return newTransport(o) }

// Dialer limits how long dialing takes.
func Dialer(limit time.Duration, dial dialFunc) dialFunc { return dialer(limit, dial) }

// DialLimits are those of a Store: for a connection, for the first kind of address, and for an answer.
func DialLimits(t testing.TB, o *Options) (limit, fallback, firstByte time.Duration) {
	v, err := o.validate()
	if err != nil {
		t.Fatal(err)
	}
	return v.DialTimeout, v.fallback(), v.FirstByte
}
