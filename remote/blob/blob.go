// Package blob keeps the entries of a [remote.Store] in a bucket of Amazon S3, Google Cloud Storage, Azure Blob Storage or
// whatever else gocloud.dev/blob has a driver for, with credentials as these clouds' own tools find them. It is a module of its own because
// of its size: docs/remote.md has the figures. For S3 with credentials that are at hand, [remote.S3] does without.
//
// A program imports the drivers that it needs:
//
//	import _ "gocloud.dev/blob/s3blob" // or gcsblob, azureblob, fileblob
package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/unanswered"
	"github.com/modcache/modcache/internal/weburl"
	"github.com/modcache/modcache/remote"
)

// Backend is a [remote.Backend] in a bucket. What is wrong there is what the driver says: some take a bucket that is missing, or that may not
// be read, for one that has no entries; docs/remote.md names them. Names of objects are those of [remote.S3]:
// <first two digits of the key>/<key>.
type Backend struct {
	bucket *blob.Bucket
}

var _ remote.Backend = (*Backend)(nil)

// Open returns a Backend in the bucket at a URL such as s3://fleet?region=eu-central-1&prefix=modcache/, gs://fleet or azblob://fleet;
// the drivers' documentation has their parameters. Whether the bucket is there isn't asked. ctx may end afterwards, but
// its values stay: docs/remote.md has one for Google's driver. Close it after the store.
func Open(ctx context.Context, bucket string) (*Backend, error) {
	escaped, err := escape(bucket)
	if err != nil {
		return nil, err
	}
	b, err := open(ctx, escaped)
	if err != nil {
		return nil, fmt.Errorf("modcache: the bucket can't be opened; is its driver imported? %w", weburl.Discreet(err))
	}
	return &Backend{b}, nil
}

// open has a driver open the bucket, until ctx ends. What it makes doesn't end with that: some renew credentials under the context that
// they were given, for as long as the process lives.
func open(ctx context.Context, bucket string) (*blob.Bucket, error) {
	return bounded.Call(ctx, bounded.Limit{Wait: bounded.Forever},
		func(context.Context) (*blob.Bucket, error) {
			return blob.OpenBucket(context.WithoutCancel(ctx), bucket)
		},
		func(b *blob.Bucket) {
			if b != nil {
				_ = b.Close()
			}
		})
}

// escape returns a URL whose query is escaped, so that it can be told from the text of an error around it.
func escape(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err == nil {
		var query url.Values
		query, err = url.ParseQuery(u.RawQuery)
		u.RawQuery = query.Encode()
	}
	if err != nil { // it quotes the URL, which may hold a password
		return "", errors.New("modcache: the URL of the bucket can't be parsed: escape what isn't a letter or a digit in it")
	}
	return u.String(), nil
}

// New returns a Backend in a bucket that the program has opened. Close closes it.
func New(b *blob.Bucket) (*Backend, error) {
	if b == nil {
		return nil, errors.New("modcache: a Backend needs a bucket")
	}
	return &Backend{b}, nil
}

// Close closes the bucket. Where a call of the driver hangs, which the store's Close has given up, an error says so after a second.
func (b *Backend) Close() error {
	_, err := bounded.Call(context.Background(), bounded.Limit{Wait: time.Second},
		func(context.Context) (struct{}, error) { return struct{}{}, b.bucket.Close() }, nil)
	if err != nil {
		return fmt.Errorf("modcache: the bucket can't be closed: %w", weburl.Discreet(err))
	}
	return nil
}

func name(key modcache.Key) string {
	s := key.String()
	return s[:2] + "/" + s
}

// Get implements [remote.Backend].
func (b *Backend) Get(ctx context.Context, key modcache.Key) (io.ReadCloser, error) {
	r, err := b.bucket.NewReader(ctx, name(key), nil)
	if err != nil {
		return nil, understood(err)
	}
	return &body{r, r.Size()}, nil
}

// Has implements [remote.Backend].
func (b *Backend) Has(ctx context.Context, key modcache.Key) (bool, error) {
	_, err := b.bucket.Attributes(ctx, name(key)) // Exists takes the driver at its word that there is none
	if err = understood(err); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Put implements [remote.Backend]. It replaces what is there, which can only be the same entry or a damaged one.
func (b *Backend) Put(ctx context.Context, key modcache.Key, entry []byte, _ bool) error {
	return understood(b.bucket.WriteAll(ctx, name(key), entry, &blob.WriterOptions{ContentType: "application/octet-stream"}))
}

// Delete implements [remote.Backend].
func (b *Backend) Delete(ctx context.Context, key modcache.Key) error {
	err := understood(b.bucket.Delete(ctx, name(key)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// body ends where the head of the response says that the object ends.
type body struct {
	io.ReadCloser
	left int64
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if err == io.EOF && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, weburl.Discreet(err)
}

// understood has errors say what a store has to know.
func understood(err error) error {
	code, refused, otherwise := gcerrors.Code(err), amazonRefuses(err), amazonSaysOtherwise(err)
	err = unanswered.Error(weburl.Discreet(err))
	switch {
	case refused, code == gcerrors.PermissionDenied:
		return fmt.Errorf("%w: %w", fs.ErrPermission, err)
	case code == gcerrors.NotFound && !otherwise:
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

// amazonRefuses reports whether S3 has refused what the driver takes for an entry that isn't there, or for a failure that may pass:
// a bucket that is missing or in another region, and keys that it doesn't know.
func amazonRefuses(err error) bool {
	var status interface{ HTTPStatusCode() int }
	var code interface{ ErrorCode() string }
	if errors.As(err, &status) {
		switch status.HTTPStatusCode() {
		case http.StatusMovedPermanently, http.StatusUnauthorized, http.StatusForbidden:
			return true
		}
	}
	return errors.As(err, &code) && code.ErrorCode() == "NoSuchBucket"
}

// amazonSaysOtherwise reports whether S3 hasn't said that there is no such object. The driver takes any failure of an operation for that whose
// text has "301" in it, be it in a port, a key, or an account.
func amazonSaysOtherwise(err error) bool {
	var status interface{ HTTPStatusCode() int }
	var operation interface {
		Service() string
		Operation() string
	}
	return errors.As(err, &operation) && !(errors.As(err, &status) && status.HTTPStatusCode() == http.StatusNotFound)
}
