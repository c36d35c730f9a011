package remote

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/weburl"
)

// S3 is the layout of a bucket of Amazon S3 or a server of its protocol, whose URL
// is that of the region or server without the bucket, such as
// https://s3.eu-central-1.amazonaws.com. An entry is the object
// <Prefix><first two digits of the key>/<key>, so that a CDN in front of the bucket
// has the [Plain] layout. Reading needs s3:GetObject, and s3:ListBucket too, for
// without it S3 answers 403 to a lookup of what isn't there; writing needs s3:PutObject,
// Delete s3:DeleteObject.
type S3 struct {
	Bucket string
	Region string // the default is us-east-1, which most other servers take
	Prefix string // of the objects' names, such as "modcache/"

	// PathStyle puts the bucket in the path of the URL instead of the host name, as
	// most servers but Amazon's want it.
	PathStyle bool

	// Credentials returns what to sign a request with, for the time of this machine, or, once the server refuses
	// that, the server's, if the two differ by no more than 26 hours. It is called for each, from
	// several goroutines at once, so it should remember what it found, until that
	// expires. Without it, requests aren't signed. What it returns has to have both keys, or the request fails.
	Credentials func(context.Context) (Credentials, error)
}

// Credentials are those of S3.
type Credentials struct {
	AccessKey    string
	SecretKey    string
	SessionToken string // of temporary ones
}

// String returns the name of the access key, and no secret.
func (c Credentials) String() string { return "S3 credentials " + c.AccessKey }

// Format implements [fmt.Formatter] with String, for every verb, with the exception that [Options.Format] has.
func (c Credentials) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// MarshalText implements [encoding.TextMarshaler] with String.
func (c Credentials) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

var (
	bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	prefixName = regexp.MustCompile(`^[A-Za-z0-9/_.=-]*$`)
)

func (S3) kind() string { return "s3" }

func (l S3) backend(w *web) (Backend, error) {
	if !bucketName.MatchString(l.Bucket) {
		return nil, fmt.Errorf("modcache: S3.Bucket %q isn't the name of a bucket", l.Bucket)
	}
	if !prefixName.MatchString(l.Prefix) || strings.HasPrefix(l.Prefix, "/") || strings.Contains("/"+l.Prefix, "/.") || strings.Contains(l.Prefix, "//") {
		return nil, fmt.Errorf("modcache: S3.Prefix %q: want letters, digits, and any of /_=-. within names", l.Prefix)
	}
	l.Region = cmp.Or(l.Region, "us-east-1")
	base := *w.base
	if l.PathStyle {
		base.Path += "/" + l.Bucket
	} else {
		base.Host = l.Bucket + "." + base.Host
	}
	if l.Credentials != nil && w.header.Get("Authorization") != "" {
		return nil, errors.New("modcache: S3.Credentials exclude an Authorization header or a password in the URL")
	}
	return &objects{w, func(key modcache.Key, body []byte) request {
		u, name := base, key.String()
		u.Path += "/" + l.Prefix + name[:2] + "/" + name
		r := request{url: &u, body: body}
		if l.Credentials != nil {
			r.sign = func(req *http.Request, now time.Time) error {
				c, err := l.Credentials(req.Context())
				if err != nil {
					return fmt.Errorf("S3 credentials: %w", err)
				}
				if c.AccessKey == "" || c.SecretKey == "" {
					return errors.New("S3.Credentials has returned no error, and not both an AccessKey and a SecretKey: leave it nil where requests aren't to be signed")
				}
				signV4(req, sha256.Sum256(body), c, l.Region, now)
				return nil
			}
		}
		return r
	}}, nil
}

// moved returns where a signed request is to be sent instead. It is signed anew, for hosts of the same
// service only: of the URL, its subdomains, and other S3 hosts of Amazon's.
func (w *web) moved(from *url.URL, resp *http.Response) (*url.URL, error) {
	to, err := resp.Location()
	switch {
	case err != nil:
		return nil, fmt.Errorf("status %d, and where to isn't understood", resp.StatusCode)
	case from.Scheme == "https" && to.Scheme != "https":
		return nil, errors.New("redirect from https to http")
	case to.RawQuery != "" || !sameService(weburl.Host(w.base), weburl.Host(to)):
		return nil, fmt.Errorf("the server redirects to %s, which isn't sent credentials: if it is yours, put it into the URL", printable(to.Host))
	}
	to.User, to.Fragment = nil, ""
	return to, nil
}

func sameService(ours, theirs string) bool {
	if theirs == ours || strings.HasSuffix(theirs, "."+ours) {
		return true
	}
	amazon := func(host string) string {
		for _, domain := range []string{".amazonaws.com", ".amazonaws.com.cn"} {
			if rest, ok := strings.CutSuffix(host, domain); ok && amazonS3.MatchString(rest) {
				return domain
			}
		}
		return ""
	}
	return amazon(ours) != "" && amazon(ours) == amazon(theirs)
}

// amazonS3 is what S3's hosts have in front of Amazon's domain. Anybody may have others there, such as a load balancer whose name
// begins with s3.
var amazonS3 = regexp.MustCompile(`(^|\.)s3([.-](accelerate|dualstack|external-1|fips|[a-z]+(-[a-z]+)+-[0-9]+))*$`)

const (
	// maxSkew is by how much S3 lets clocks differ, with something to spare.
	maxSkew = 5 * time.Minute
	// maxCorrection is more than time zones differ. What is signed for another time can be sent again then, by
	// whoever has seen it: so a server isn't believed that says it is another year.
	maxCorrection = 26 * time.Hour
)

// correctClock reports whether the server refuses a request because of the time in it, and remembers
// by how much that was wrong.
func (w *web) correctClock(resp *http.Response) bool {
	if resp.StatusCode != http.StatusForbidden {
		return false
	}
	theirs, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return false
	}
	skew := time.Until(theirs)
	if (skew-time.Duration(w.skew.Load())).Abs() < maxSkew || skew.Abs() > maxCorrection {
		return false
	}
	w.skew.Store(int64(skew))
	return true
}

const (
	amzDate   = "20060102T150405Z"
	algorithm = "AWS4-HMAC-SHA256"
)

// signV4 signs a request without a query for the service s3, by version 4 of
// Amazon's scheme. It covers the host, the body's hash, the headers that the scheme
// names itself, and the condition of a PUT.
func signV4(req *http.Request, body [sha256.Size]byte, c Credentials, region string, now time.Time) {
	now = now.UTC()
	req.Header.Set("X-Amz-Date", now.Format(amzDate))
	req.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(body[:]))
	if c.SessionToken != "" {
		req.Header.Set("X-Amz-Security-Token", c.SessionToken)
	}
	host := cmp.Or(req.Host, req.URL.Host)
	headers := map[string]string{"host": host}
	for name, values := range req.Header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-amz-") || name == "if-none-match" || name == "range" {
			headers[name] = strings.TrimSpace(strings.Join(values, ","))
		}
	}
	names := slices.Sorted(maps.Keys(headers))
	var lines strings.Builder
	for _, name := range names {
		lines.WriteString(name + ":" + headers[name] + "\n")
	}
	signed := strings.Join(names, ";")
	canonical := strings.Join([]string{
		req.Method, escapePath(req.URL.Path), "", lines.String(), signed, hex.EncodeToString(body[:]),
	}, "\n")

	scope := strings.Join([]string{now.Format("20060102"), region, "s3", "aws4_request"}, "/")
	sum := sha256.Sum256([]byte(canonical))
	text := strings.Join([]string{algorithm, now.Format(amzDate), scope, hex.EncodeToString(sum[:])}, "\n")
	k := []byte("AWS4" + c.SecretKey)
	for part := range strings.SplitSeq(scope, "/") {
		k = mac(k, part)
	}
	req.Header.Set("Authorization", fmt.Sprintf("%s Credential=%s/%s, SignedHeaders=%s, Signature=%x",
		algorithm, c.AccessKey, scope, signed, mac(k, text)))
}

func mac(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = io.WriteString(h, s)
	return h.Sum(nil)
}

// escapePath escapes everything but what the scheme leaves alone.
func escapePath(path string) string {
	var b strings.Builder
	for i := range len(path) {
		c := path[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~/", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}
