// Package weburl says which URLs are of one server, and what of a URL may be shown.
package weburl

import (
	"net/url"
	"regexp"
	"strings"
)

// Host returns the host of a URL in one spelling: in small letters, and with a port only where that isn't its scheme's own.
func Host(u *url.URL) string {
	host := strings.TrimSuffix(strings.ToLower(u.Host), ":")
	switch u.Scheme {
	case "http":
		return strings.TrimSuffix(host, ":80")
	case "https":
		return strings.TrimSuffix(host, ":443")
	}
	return host
}

// Same reports whether two URLs have one origin, to which the same credentials may go: another scheme or port is elsewhere.
func Same(a, b *url.URL) bool { return a.Scheme == b.Scheme && Host(a) == Host(b) }

// Shown returns u without what may be secret: a user and a password, or what is behind the path.
func Shown(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// discreet is an error whose text leaves out what in URLs may let their bearer in.
type discreet struct {
	error
	text string
}

func (d *discreet) Error() string { return d.text }

func (d *discreet) Unwrap() error { return d.error }

var (
	// users are a user and a password in a URL.
	users = regexp.MustCompile(`://[^\s/?#"<>]*@`)
	// queries are a URL up to its query, and the query, in quotes or not.
	queries = regexp.MustCompile(`(://[^\s?"]*)\?(?:[^\s"\\]|\\.)*`)
)

// Discreet returns an error whose text leaves out users, passwords and queries of the URLs in that of err, which it wraps: those to
// which a server redirects, or with which a cloud is asked, may have what lets their bearer in.
func Discreet(err error) error {
	if err == nil {
		return nil
	}
	said := err.Error()
	text := queries.ReplaceAllString(users.ReplaceAllString(said, "://…@"), "$1?…")
	if text == said {
		return err
	}
	return &discreet{err, text}
}
