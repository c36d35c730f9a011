package remote

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/lanes"
	"github.com/modcache/modcache/internal/unanswered"
	"github.com/modcache/modcache/internal/weburl"
)

// web makes requests to an HTTP server, for all layouts.
type web struct {
	base   *url.URL // without user and password; its path has no slash at the end
	client *http.Client
	signed *http.Client // for requests that are signed: it follows no redirect, since each needs a signature
	skew   atomic.Int64 // nanoseconds by which the server's clock is ahead, if it has refused our time
	header http.Header
	max    int64  // length of a response that is worth reading: a frame is longer than its artifact by its header
	close  func() // closes connections that are our own
}

const (
	maxRedirects = 5
	maxErrorBody = 4 << 10
	// So long for its body, once the head has said that something is wrong.
	errorBodyTime = time.Second
	// Below it, asking for permission to send costs more than sending.
	expectContinue = 1 << 20
)

func newWeb(rawURL string, o *Options) (*web, error) {
	if !strings.Contains(rawURL, "://") {
		return nil, errors.New("modcache: the URL of the remote store has no scheme: begin with http:// or https://")
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		// The error of url.Parse quotes the URL, which may hold a password.
		return nil, errors.New("modcache: the URL of the remote store can't be parsed")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("modcache: remote store %q: want http://host/path or https://host/path, and nothing behind it",
			weburl.Shown(u))
	}
	if weburl.Torn(u) {
		return nil, errors.New("modcache: the URL of the remote store has an @ in its path: write it as %40 there, and a slash in a password as %2F")
	}
	header := http.Header{}
	for _, name := range slices.Sorted(maps.Keys(o.Header)) {
		canonical := http.CanonicalHeaderKey(name)
		header[canonical] = append(header[canonical], o.Header[name]...)
	}
	if u.User != nil && header.Get("Authorization") == "" {
		password, _ := u.User.Password()
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
	}
	u.User = nil
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""

	if header.Get("User-Agent") == "" {
		header.Set("User-Agent", "modcache/"+moduleVersion())
	}
	w := &web{base: u, header: header, max: o.MaxSize + frame.MaxStreamHeader}
	if o.Client != nil {
		c := *o.Client
		c.Transport, w.close = lanes.Over(c.Transport)
		w.client = &c
	} else {
		t := lanes.New(newTransport(o))
		w.client, w.close = &http.Client{Transport: t}, t.CloseIdleConnections
	}
	next := w.client.CheckRedirect
	w.client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if err := w.redirect(req, via); err != nil || next == nil {
			return err
		}
		return next(req, via)
	}
	w.signed = &http.Client{}
	*w.signed = *w.client
	w.signed.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return w, nil
}

// moduleVersion is that of this module, as the go command recorded it.
func moduleVersion() string {
	const path = "github.com/modcache/modcache"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == path && m.Version != "" {
				return strings.Trim(m.Version, "()")
			}
		}
	}
	return "devel"
}

func newTransport(o *Options) *http.Transport {
	return &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		DialContext:       dialer(o.DialTimeout, (&net.Dialer{FallbackDelay: o.fallback()}).DialContext),
		ForceAttemptHTTP2: true,
		// A connection that something on the way has forgotten is used for ever otherwise: a request that is
		// given up leaves it open.
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 10 * time.Second},
		DisableCompression:     true,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    10 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         64 << 10,
	}
}

// harmless are the headers that are sent to wherever a server redirects.
var harmless = []string{"Accept", "Accept-Encoding", "Content-Type", "Expect", "If-None-Match", "User-Agent"}

// redirect keeps credentials from others than the server, and from unencrypted
// connections. Any header may be one.
func (w *web) redirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	first := via[0].URL
	if first.Scheme == "https" && req.URL.Scheme != "https" {
		return errors.New("redirect from https to http")
	}
	elsewhere := func(r *http.Request) bool { return !weburl.Same(r.URL, first) }
	if elsewhere(req) || slices.ContainsFunc(via, elsewhere) {
		maps.DeleteFunc(req.Header, func(name string, _ []string) bool { return !slices.Contains(harmless, name) })
	}
	return nil
}

// request is what a layout wants done.
type request struct {
	url   *url.URL
	body  []byte // of a PUT
	once  bool   // leave what is there already
	moved bool   // to where the server has redirected it
	taken func() // called when some of body goes
	sign  func(req *http.Request, now time.Time) error
}

// do makes a request whose response is a success, for the caller to close. What a server
// only wants to have asked in another way is asked so.
func (w *web) do(ctx context.Context, method string, r request) (*http.Response, error) {
	expect := method == http.MethodPut && len(r.body) >= expectContinue
	hops, corrected := 0, false
	for {
		req, err := w.newRequest(ctx, method, r, expect)
		if err != nil {
			return nil, unanswered.Error(err)
		}
		client := w.client
		if r.sign != nil {
			client = w.signed
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, unanswered.Error(withoutURL(err))
		}
		switch {
		case expect && resp.StatusCode == http.StatusExpectationFailed:
			expect = false
		case r.sign != nil && resp.StatusCode/100 == 3 && resp.Header.Get("Location") != "":
			if r.url, err = w.moved(r.url, resp); err == nil && hops == maxRedirects {
				err = fmt.Errorf("more than %d redirects", maxRedirects)
			}
			if err != nil {
				discard(resp.Body)
				return nil, err
			}
			hops++
			r.moved = true
		case r.sign != nil && !corrected && w.correctClock(resp):
			corrected = true
		default:
			return w.accept(method, cmp.Or(resp.Request, req).Method, resp)
		}
		discard(resp.Body)
	}
}

func (w *web) newRequest(ctx context.Context, method string, r request, expect bool) (*http.Request, error) {
	var body io.Reader
	if method == http.MethodPut {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.url.String(), body)
	if err != nil {
		return nil, err
	}
	if again := req.GetBody; again != nil && len(r.body) > 0 {
		req.GetBody = func() (io.ReadCloser, error) {
			b, err := again()
			return taking{b, r.taken}, err
		}
		req.Body, _ = req.GetBody()
	}
	for k, v := range w.header {
		if !r.moved || slices.Contains(harmless, k) {
			req.Header[k] = v
		}
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	// Entries are compressed already; what a server compresses on the fly isn't one.
	req.Header.Set("Accept-Encoding", "identity")
	if method == http.MethodPut {
		req.Header.Set("Content-Type", "application/octet-stream")
		if r.once {
			req.Header.Set("If-None-Match", "*")
		}
		if expect {
			req.Header.Set("Expect", "100-continue")
		}
	}
	if r.sign != nil {
		err = r.sign(req, time.Now().Add(time.Duration(w.skew.Load())))
	}
	return req, err
}

// accept returns a response that is a success. A redirect may have turned a PUT into a GET.
func (w *web) accept(method, final string, resp *http.Response) (*http.Response, error) {
	var err error
	switch {
	case resp.StatusCode/100 != 2, method == http.MethodGet && resp.StatusCode != http.StatusOK:
		err = newStatusError(resp)
	case final != method:
		err = fmt.Errorf("%s was redirected and became %s", method, final)
	case method == http.MethodGet && resp.ContentLength > w.max:
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%w: a response of %d bytes", modcache.ErrTooLarge, resp.ContentLength)
	default:
		return resp, nil
	}
	discard(resp.Body)
	return nil, err
}

// withoutURL replaces the URL in an error of a client by its host: after a redirect, the rest of
// it may be what lets its bearer in.
func withoutURL(err error) error {
	failed, ok := err.(*url.Error)
	if !ok {
		return err
	}
	u, parseErr := url.Parse(failed.URL)
	if parseErr != nil {
		return failed.Err
	}
	return &url.Error{Op: failed.Op, URL: u.Scheme + "://" + u.Host + "/…", Err: failed.Err}
}

// discard ends a response so that its connection can be used again, unless that
// would take long.
func discard(body io.ReadCloser) {
	_ = start(body)
	_ = body.Close()
}

// start returns the first bytes of a body that is read for what the server says, and not for an entry: it
// isn't worth waiting for.
func start(body io.ReadCloser) []byte {
	defer time.AfterFunc(errorBodyTime, func() { _ = body.Close() }).Stop()
	b, _ := io.ReadAll(io.LimitReader(body, maxErrorBody))
	return b
}

// send is do for requests whose response has nothing more to say.
func (w *web) send(ctx context.Context, method string, r request) error {
	resp, err := w.do(ctx, method, r)
	if err == nil {
		discard(resp.Body)
	}
	return err
}

// get, has, put and remove are what all layouts do with single objects.

func (w *web) get(ctx context.Context, r request) (io.ReadCloser, error) {
	resp, err := w.do(ctx, http.MethodGet, r)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func (w *web) has(ctx context.Context, r request) (bool, error) {
	err := w.send(ctx, http.MethodHead, r)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (w *web) put(ctx context.Context, r request) error {
	// A server that takes nothing is not waited for as long as the whole would take.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := afterRunning(takesNothing, func() { cancel(errTakesNothing) })
	defer t.stop()
	r.taken = func() { t.reset(takesNothing) }
	err := w.send(ctx, http.MethodPut, r)
	var status *statusError
	if !r.once || !errors.As(err, &status) {
		return err
	}
	switch status.code {
	case http.StatusNotImplemented: // this server has no conditional writes
		r.once = false
		return w.send(ctx, http.MethodPut, r)
	case http.StatusNotModified:
		return fmt.Errorf("%w: %w", fs.ErrExist, err)
	case http.StatusConflict: // perhaps with another upload, or a directory is missing
		r.body = nil
		if there, _ := w.has(ctx, r); there {
			return fmt.Errorf("%w: %w", fs.ErrExist, err)
		}
	}
	return err
}

var errTakesNothing = &timeoutError{what: fmt.Sprintf("the server takes nothing for %v, or doesn't answer", takesNothing)}

// taking is a body that says when some of it goes.
type taking struct {
	io.ReadCloser
	taken func()
}

func (t taking) Read(p []byte) (int, error) {
	t.taken()
	return t.ReadCloser.Read(p)
}

func (w *web) remove(ctx context.Context, r request) error {
	err := w.send(ctx, http.MethodDelete, r)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
