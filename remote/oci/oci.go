// Package oci keeps the entries of a [remote.Store] in a registry of containers, such as ghcr.io or one of your own. It is
// a module of its own so that only those who want it get oras.
package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	orasremote "oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/lanes"
	"github.com/modcache/modcache/internal/weburl"
	"github.com/modcache/modcache/remote"
)

// MediaType is that of an entry: the type of the artifact, and of its one layer.
const MediaType = "application/vnd.modcache.entry.v1"

const maxManifest = 64 << 10 // one of ours has 600 bytes

// Options configure a [Backend]. Nil and zero fields mean the defaults.
type Options struct {
	// Credential returns what to log in with at a registry. It is sent to the registry, and to where that says that
	// tokens are to be had; other hosts, to which the registry redirects or has layers uploaded, get nothing of it, even if they
	// ask for it. It is called when the registry has refused what it returned before, and not for each request. The default is
	// what docker login has left: the configuration file of docker, in DOCKER_CONFIG or ~/.docker, with the helpers that it
	// names. The file is read again each time, so that it may appear and change later.
	Credential auth.CredentialFunc

	// PlainHTTP speaks http instead of https. Credentials are then sent in the clear. Without it,
	// nothing is sent over http, wherever the registry redirects to.
	PlainHTTP bool

	// Transport makes the requests. What [remote.Options] says of its Client holds for it. The default is one of the Backend's own,
	// which heeds the proxy settings of the environment.
	Transport http.RoundTripper
}

// Backend is a [remote.Backend] in one repository of a registry. An entry is an artifact with one layer, under a tag that is
// its key. Whoever may push to the repository can put other bytes there, which the store's keys
// don't accept; an entry can't be taken for an image.
type Backend struct {
	repo  *orasremote.Repository
	close func()
	// Held while the config is uploaded, which all entries share: docker's registry answers 400 and 500 to those who
	// upload the same blob at once, or ask for it meanwhile. Another process may still be one of them: the store tries again.
	configLock  chan struct{}
	configThere atomic.Bool // as far as is known
}

var _ remote.Backend = (*Backend)(nil)

// New returns a Backend in a repository, such as ghcr.io/example/modcache. It makes no request. Close it
// after the store that is made with it.
func New(repository string, o *Options) (*Backend, error) {
	var v Options
	if o != nil {
		v = *o
	}
	ref, err := registry.ParseReference(repository)
	if err != nil || ref.Reference != "" {
		// Which isn't quoted: it may be a URL, with a password.
		return nil, errors.New("modcache: repository: want registry/name, without a scheme, tag or digest")
	}
	if v.Credential == nil {
		docker := findDockerConfig()
		if _, err := docker.read(); err != nil {
			return nil, fmt.Errorf("modcache: docker's configuration can't be read; mend it, or set Options.Credential: %w", err)
		}
		v.Credential = docker.credential
	}
	b := &Backend{configLock: make(chan struct{}, 1)}
	if v.Transport != nil {
		v.Transport, b.close = lanes.Over(v.Transport)
	} else {
		own := lanes.New(newTransport())
		v.Transport, b.close = own, own.CloseIdleConnections
	}
	scheme := "https"
	if v.PlainHTTP {
		scheme = "http"
	}
	home := &url.URL{Scheme: scheme, Host: ref.Host()}
	client := auth.Client{
		Client:     &http.Client{Transport: guard{v.Transport, home, v.PlainHTTP}, CheckRedirect: withoutCredentials},
		Credential: v.Credential,
	}
	client.SetUserAgent("modcache")
	b.repo = &orasremote.Repository{
		Client: &homebound{client, newTokens(), home}, Reference: ref, PlainHTTP: v.PlainHTTP, MaxMetadataBytes: maxManifest,
		ManifestMediaTypes: []string{ocispec.MediaTypeImageManifest},
	}
	return b, nil
}

// newTransport is like http.DefaultTransport, which may be of another type: programs that trace their requests wrap it.
func newTransport() *http.Transport {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second}
	if theirs, ok := http.DefaultTransport.(*http.Transport); ok {
		t = theirs.Clone()
	}
	t.DialContext = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	t.MaxIdleConnsPerHost = 8
	t.MaxResponseHeaderBytes = 64 << 10
	t.DisableCompression = true                                                                   // entries are compressed, and a manifest without a length costs another request
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 10 * time.Second} // or a dead connection is used for ever
	return t
}

// Close closes idle connections, unless Options.Transport has them.
func (b *Backend) Close() error {
	b.close()
	return nil
}

// Get implements [remote.Backend]. It takes two requests, for the manifest and for the layer, and more to log in.
func (b *Backend) Get(ctx context.Context, key modcache.Key) (io.ReadCloser, error) {
	layer, err := b.layer(ctx, key)
	if err != nil {
		return nil, understood(err)
	}
	r, err := b.repo.Blobs().Fetch(context.WithValue(ctx, wantedSize{}, layer.Size), layer)
	if err != nil {
		return nil, understood(err)
	}
	return &body{ReadCloser: r, left: layer.Size}, nil
}

// Has implements [remote.Backend]. A registry may have lost the layer, or a part of it, and kept the manifest.
func (b *Backend) Has(ctx context.Context, key modcache.Key) (there bool, err error) {
	layer, err := b.layer(ctx, key)
	if err == nil {
		there, err = b.hasBlob(ctx, layer)
	}
	err = understood(err)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, modcache.ErrCorrupt) {
		return false, nil
	}
	return there, err
}

// hasBlob reports whether the registry has a blob, in its length: a disk that was full, or a crash, may have cut it.
func (b *Backend) hasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	there, err := b.repo.Blobs().Resolve(ctx, d.Digest.String())
	if errors.Is(err, errdef.ErrNotFound) {
		return false, nil
	}
	return err == nil && there.Size == d.Size, err
}

// Put implements [remote.Backend]. The tag comes last, so that nobody finds half of an entry. A repository whose tags are
// immutable can't replace what is damaged.
func (b *Backend) Put(ctx context.Context, key modcache.Key, entry []byte, replace bool) error {
	layer := ocispec.Descriptor{MediaType: MediaType, Digest: digest.FromBytes(entry), Size: int64(len(entry))}
	if err := b.push(ctx, layer, entry, replace); err != nil {
		return understood(err)
	}
	if err := b.pushConfig(ctx); err != nil {
		return understood(err)
	}
	text, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: MediaType,
		Config: ocispec.DescriptorEmptyJSON,
		Layers: []ocispec.Descriptor{layer},
	})
	if err != nil {
		return err
	}
	manifest := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(text), Size: int64(len(text))}
	err = b.repo.Manifests().PushReference(ctx, manifest, bytes.NewReader(text), key.String())
	if err != nil {
		b.configThere.Store(false) // the registry's garbage collection may have taken it
	}
	if err = understood(err); isImmutable(err) {
		return fmt.Errorf("%w: %w", fs.ErrExist, err)
	}
	return err
}

// isImmutable reports whether a registry says of a tag that it can't be another's. The status differs: 400, 409, 412.
func isImmutable(err error) bool {
	var response *errcode.ErrorResponse
	return errors.As(err, &response) && strings.Contains(strings.ToLower(response.Errors.Error()), "immutab")
}

// push uploads a blob, unless it is there.
func (b *Backend) push(ctx context.Context, d ocispec.Descriptor, content []byte, again bool) error {
	if !again {
		if there, err := b.hasBlob(ctx, d); there || err != nil {
			return err
		}
	}
	return b.repo.Blobs().Push(ctx, d, bytes.NewReader(content))
}

// pushConfig uploads what the manifests of all entries name, as some registries refuse one without it.
func (b *Backend) pushConfig(ctx context.Context) error {
	if b.configThere.Load() {
		return nil
	}
	select {
	case b.configLock <- struct{}{}:
		defer func() { <-b.configLock }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if b.configThere.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, configTime)
	defer cancel()
	err := b.push(ctx, ocispec.DescriptorEmptyJSON, ocispec.DescriptorEmptyJSON.Data, false)
	b.configThere.Store(err == nil)
	return err
}

// configTime is how long the upload of the config may take, which has two bytes. Those who wait for it have half a minute or more.
const configTime = 10 * time.Second

// Delete implements [remote.Backend]. It deletes the manifest; the registry's garbage collection frees the layer. Many
// registries have to be told to allow that.
func (b *Backend) Delete(ctx context.Context, key modcache.Key) error {
	tagged := func() (ocispec.Descriptor, error) { return b.repo.Manifests().Resolve(ctx, key.String()) }
	manifest, err := tagged()
	if err == nil {
		if _, is := b.layer(ctx, key); !errors.Is(is, modcache.ErrCorrupt) { // else it is an image, perhaps, with other tags
			err = b.repo.Manifests().Delete(ctx, manifest)
		}
	}
	if err == nil {
		if _, err = tagged(); err == nil { // some registries leave the tag where it was
			err = b.untag(ctx, key)
		}
	}
	if err = understood(err); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// untag deletes a tag, which oras has no call for.
func (b *Backend) untag(ctx context.Context, key modcache.Key) error {
	ref := b.repo.Reference
	ctx = auth.AppendRepositoryScope(ctx, ref, auth.ActionDelete)
	u := url.URL{Scheme: "https", Host: ref.Host(), Path: "/v2/" + ref.Repository + "/manifests/" + key.String()}
	if b.repo.PlainHTTP {
		u.Scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := b.repo.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return &errcode.ErrorResponse{Method: req.Method, URL: req.URL, StatusCode: resp.StatusCode}
	}
	return nil
}

// layer returns what the manifest of an entry says of its layer.
func (b *Backend) layer(ctx context.Context, key modcache.Key) (layer ocispec.Descriptor, err error) {
	_, r, err := b.repo.Manifests().FetchReference(ctx, key.String())
	if err != nil {
		return layer, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return layer, err
	}
	var m ocispec.Manifest
	switch err := json.Unmarshal(text, &m); {
	case len(text) > maxManifest:
		return layer, fmt.Errorf("%w: a manifest of more than %d bytes", modcache.ErrCorrupt, maxManifest)
	case err != nil:
		return layer, fmt.Errorf("%w: the manifest: %w", modcache.ErrCorrupt, err)
	case len(m.Layers) != 1 || m.Layers[0].MediaType != MediaType:
		return layer, fmt.Errorf("%w: what has the tag isn't an entry of modcache", modcache.ErrCorrupt)
	}
	layer = m.Layers[0]
	if err := layer.Digest.Validate(); err != nil || layer.Size < 0 {
		return layer, fmt.Errorf("%w: the manifest describes no layer", modcache.ErrCorrupt)
	}
	return ocispec.Descriptor{MediaType: MediaType, Digest: layer.Digest, Size: layer.Size}, nil
}

// body ends where the manifest says that the layer ends. What is in it is the store's to verify.
type body struct {
	io.ReadCloser
	left int64
}

func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err == io.EOF && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, weburl.Discreet(err)
}

// understood has errors say what a store has to know.
func understood(err error) error {
	if err == nil {
		return nil
	}
	err = weburl.Discreet(err) // storage, to which registries redirect, is asked with a signed query
	means := func(what error) error { return fmt.Errorf("%w: %w", what, err) }
	switch status := statusOf(err); {
	case errors.Is(err, errdef.ErrNotFound), status == http.StatusNotFound:
		return means(fs.ErrNotExist)
	case errors.Is(err, auth.ErrBasicCredentialNotFound),
		status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusMethodNotAllowed:
		return means(fs.ErrPermission)
	case status == http.StatusRequestEntityTooLarge:
		return means(modcache.ErrTooLarge)
	}
	return err
}
