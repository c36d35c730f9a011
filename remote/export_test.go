package remote

import (
	"net/http"
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
