package remote

import "regexp"

// discreet is an error whose text leaves out the queries of URLs: those to which a server redirects, or with which a cloud is
// asked, may have what lets their bearer in.
type discreet struct {
	error
	text string
}

func (d *discreet) Error() string { return d.text }

func (d *discreet) Unwrap() error { return d.error }

// query is a URL up to its query, and the query, in quotes or not.
var query = regexp.MustCompile(`(://[^\s?"]*)\?(?:[^\s"\\]|\\.)*`)

func withoutQueries(err error) error {
	said := err.Error()
	if text := query.ReplaceAllString(said, "$1?…"); text != said {
		return &discreet{err, text}
	}
	return err
}
