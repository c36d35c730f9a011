package remote

import (
	"encoding/xml"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/modcache/modcache"
)

// statusError is a response that isn't a success.
type statusError struct {
	code   int
	reason string // in the server's words; "" if it gave none
	after  time.Duration
}

func newStatusError(resp *http.Response) *statusError {
	e := &statusError{code: resp.StatusCode, reason: reasonIn(resp)}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		e.after = parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	return e
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("status %d %s", e.code, http.StatusText(e.code))
	if e.reason != "" && e.reason != http.StatusText(e.code) {
		s += ": " + e.reason
	}
	return s
}

// maxReason is how much of what a server says is passed on.
const maxReason = 200

// reasonIn returns why a server refuses: the text of ours, and code and message of an S3. Pages for
// browsers say nothing that the status doesn't.
func reasonIn(resp *http.Response) string {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	body := start(resp.Body)
	text := string(body)
	switch kind {
	case "application/xml", "text/xml":
		var s3 struct{ Code, Message, Endpoint, Region string }
		if xml.Unmarshal(body, &s3) != nil || s3.Code == "" {
			return ""
		}
		text = s3.Code + ": " + s3.Message
		if s3.Endpoint != "" {
			text += " Endpoint: " + s3.Endpoint
		}
	case "text/plain", "application/json":
	default:
		text = ""
	}
	if region := resp.Header.Get("X-Amz-Bucket-Region"); region != "" && resp.StatusCode/100 == 3 {
		text += " The bucket is in region " + region + ": set S3.Region and the URL."
	}
	if resp.Request != nil && quotes(text, resp.Request.Header) {
		return "" // a server that echoes requests, as some do for debugging
	}
	return printable(text)
}

// quotes reports whether a text has something of what was sent that may be secret.
func quotes(text string, sent http.Header) bool {
	for name, values := range sent {
		for _, v := range strings.Fields(strings.Join(values, " ")) {
			if len(v) >= 8 && !slices.Contains(harmless, name) && strings.Contains(text, v) {
				return true
			}
		}
	}
	return false
}

// printable is the start of a text, in one line and without what could steer a terminal.
func printable(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r) || r == utf8.RuneError
	}), " ")
	if len(text) <= maxReason {
		return text
	}
	end := maxReason
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// noBucket begins the reason where the whole bucket is missing, and not one entry.
const noBucket = "NoSuchBucket: "

// Unwrap says what the status means, in terms of [Backend].
func (e *statusError) Unwrap() error {
	if strings.HasPrefix(e.reason, noBucket) {
		return fs.ErrPermission
	}
	switch e.code {
	case http.StatusNotFound, http.StatusGone:
		return fs.ErrNotExist
	case http.StatusPreconditionFailed:
		return fs.ErrExist
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return fs.ErrPermission
	case http.StatusRequestEntityTooLarge:
		return modcache.ErrTooLarge
	}
	return nil
}

// RetryAfter returns how long the server wants to be left alone; 0 if it didn't say.
func (e *statusError) RetryAfter() time.Duration { return e.after }

func parseRetryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}
