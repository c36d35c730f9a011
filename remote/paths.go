package remote

import (
	"context"
	"io"

	"github.com/modcache/modcache"
)

// paths are the layouts in which an entry is one object at a path.
type paths uint8

const (
	// Plain is the layout of any server with GET, HEAD, PUT and DELETE: an entry is at
	// <URL>/<first two digits of the key>/<key>. Servers that can only be
	// read, such as a CDN, need GET alone.
	Plain paths = iota

	// BazelAC is the action cache of the Bazel protocol, used for entries as they
	// are: <URL>/ac/<key>. Servers that look into actions refuse it: bazel-remote
	// needs --disable_http_ac_validation.
	BazelAC
)

func (p paths) backend(w *web) (Backend, error) {
	return &objects{w, func(key modcache.Key, body []byte) request {
		name := key.String()
		dir := name[:2]
		if p == BazelAC {
			dir = "ac"
		}
		return request{url: w.base.JoinPath(dir, name), body: body}
	}}, nil
}

func (p paths) kind() string {
	if p == BazelAC {
		return "bazel-ac"
	}
	return "plain"
}

// objects is the Backend of a layout in which an entry is one object.
type objects struct {
	w       *web
	request func(key modcache.Key, body []byte) request
}

func (b *objects) Get(ctx context.Context, key modcache.Key) (io.ReadCloser, error) {
	return b.w.get(ctx, b.request(key, nil))
}

func (b *objects) Has(ctx context.Context, key modcache.Key) (bool, error) {
	return b.w.has(ctx, b.request(key, nil))
}

func (b *objects) Put(ctx context.Context, key modcache.Key, entry []byte, replace bool) error {
	r := b.request(key, entry)
	r.once = !replace
	return b.w.put(ctx, r)
}

func (b *objects) Delete(ctx context.Context, key modcache.Key) error {
	return b.w.remove(ctx, b.request(key, nil))
}
