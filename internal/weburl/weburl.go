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

// Torn reports whether there is an @ in the path: then what was taken for the host may be a piece of a password, in which a slash
// was left as it is. Asking for it would tell it to name servers, and to whoever reads the error.
func Torn(u *url.URL) bool { return strings.Contains(u.EscapedPath(), "@") }

// Shown returns u without what may be secret: a user and a password, or what is behind the path; and with nothing but the scheme where there may be
// a password elsewhere, as there is if somebody has left a slash, a question mark or a # in it as it is.
func Shown(u *url.URL) string {
	shown := url.URL{Scheme: u.Scheme, Host: u.Host}
	if strings.Contains(u.Path+u.RawQuery+u.Fragment, "@") { // behind a password with a slash or the like, whose beginning was taken for a host or a port
		return u.Scheme + "://…"
	}
	if u.Path != "" && u.Host == "" {
		return shown.String() + "/…"
	}
	shown.Path = u.Path
	return shown.String()
}

// ShownText is Shown for what may be a name, which is shown as it is.
func ShownText(raw string) string {
	scheme, _, ok := strings.Cut(raw, "://")
	if !ok {
		return raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return scheme + "://…"
	}
	return Shown(u)
}

// discreet is an error whose text leaves out what in URLs may let their bearer in.
type discreet struct {
	error
	text string
}

func (d *discreet) Error() string { return d.text }

func (d *discreet) Unwrap() error { return d.error }

// urls are the URLs in a text: up to the quote where they are in quotes, which may be in quotes themselves, or else up to a space.
var urls = regexp.MustCompile(`"[\w+.-]*://(?:[^"\\]|\\.)*|\\"[\w+.-]*://(?:[^\s"\\]|\\.)*|://\S*`)

// mistyped is a URL's user and password behind too few slashes.
var mistyped = regexp.MustCompile(`\b([A-Za-z][\w+.-]+:/|(?i:https?|s3|gs|azblob):)[^/\s"][^\s"]*@`)

// Mistyped reports whether a name looks like such a URL.
func Mistyped(name string) bool { return mistypedName.MatchString(name) }

var mistypedName = regexp.MustCompile(`^(?:[A-Za-z][\w+.-]+:/|(?i:(?:bazel\+)?https?|s3|gs|azblob):).*@`)

// discreetly returns what urls found without what may be secret. What isn't escaped in a password makes it look like a path or a query.
func discreetly(found string) string {
	scheme, path, _ := strings.Cut(found, "://")
	query := ""
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path, query = path[:i+1], path[i+1:]
	}
	if user := strings.LastIndex(path, "@"); user >= 0 {
		path = "…" + path[user:]
	}
	switch {
	case strings.Contains(query, "@"):
		path = "…"
	case query != "":
		path += "…"
	}
	return scheme + "://" + path
}

// Discreet returns an error whose text leaves out users, passwords and queries of the URLs in that of err, which it wraps: those to
// which a server redirects, or with which a cloud is asked, may have what lets their bearer in.
func Discreet(err error) error {
	if err == nil {
		return nil
	}
	said := err.Error()
	text := mistyped.ReplaceAllString(urls.ReplaceAllStringFunc(said, discreetly), "$1…@")
	if text == said {
		return err
	}
	return &discreet{err, text}
}
