package remote_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/lanes"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/remote"
)

// request asks a Handler directly. headers are pairs.
func request(t testing.TB, h http.Handler, method, path string, body []byte, headers ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func status(t testing.TB, h http.Handler, method, path string, body []byte, headers ...string) int {
	t.Helper()
	return request(t, h, method, path, body, headers...).StatusCode
}

func content(t testing.TB, r *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return b
}

func TestHandler(t *testing.T) {
	signer := generate(t)
	store := &storetest.Fake{}
	h, err := remote.NewHandler(store, &remote.HandlerOptions{WriteTokens: []string{"other", token}, MaxSize: 10_000})
	require.NoError(t, err)
	b := entry(t, remote.Options{Signer: signer}, key(1), 4000)
	auth := []string{"Authorization", "bearer " + token}
	path := "/any/prefix/" + key(1).String()

	require.Equal(t, "no-store", request(t, h, "GET", path, nil).Header.Get("Cache-Control"))
	require.Equal(t, 404, status(t, h, "GET", path, nil))
	require.Equal(t, 404, status(t, h, "HEAD", path, nil))
	require.Equal(t, 201, status(t, h, "PUT", path, b, auth...))
	r := request(t, h, "GET", path, nil)
	require.Equal(t, 200, r.StatusCode)
	require.Equal(t, b, content(t, r))
	etag := r.Header.Get("ETag")
	require.NotEmpty(t, etag)
	require.Equal(t, 304, status(t, h, "GET", path, nil, "If-None-Match", etag))
	r = request(t, h, "HEAD", path, nil)
	require.EqualValues(t, len(b), r.ContentLength)
	require.Empty(t, content(t, r))
	r = request(t, h, "GET", path, nil, "Range", "bytes=100-199", "If-Range", etag)
	require.Equal(t, 206, r.StatusCode)
	require.Equal(t, b[100:200], content(t, r))
	require.Equal(t, 416, status(t, h, "GET", path, nil, "Range", "bytes=99999-"))

	require.Equal(t, 412, status(t, h, "PUT", path, b, append(auth, "If-None-Match", "*")...))
	newer := entry(t, remote.Options{Signer: generate(t)}, key(1), 4000)
	require.Equal(t, 201, status(t, h, "PUT", path, newer, auth...), "whoever may write may replace")
	require.Equal(t, newer, content(t, request(t, h, "GET", path, nil)))

	// What a program has stored isn't there for clients, so that it keeps no upload out.
	require.NoError(t, store.Add(t.Context(), key(3), modcache.NewArtifact([]byte("code"), modcache.Info{Engine: "of a program"})))
	theirs, b3 := "/"+key(3).String(), entry(t, remote.Options{Signer: signer}, key(3), 4000)
	require.Equal(t, 404, status(t, h, "GET", theirs, nil))
	require.Equal(t, 201, status(t, h, "PUT", theirs, b3, append(auth, "If-None-Match", "*")...))
	require.Equal(t, b3, content(t, request(t, h, "GET", theirs, nil)))

	for name, bad := range map[string][]byte{
		"nothing": nil, "text": []byte("hello"), "short": b[:len(b)-1], "long": append(bytes.Clone(b), 0),
		"of another key": entry(t, remote.Options{Signer: signer}, key(2), 4000),
	} {
		require.Equal(t, 400, status(t, h, "PUT", path, bad, auth...), name)
	}
	require.Equal(t, 413, status(t, h, "PUT", path, make([]byte, 10_001), auth...))
	unknown := httptest.NewRequest("PUT", path, io.MultiReader(bytes.NewReader(make([]byte, 20_000))))
	unknown.Header.Set(auth[0], auth[1])
	w := httptest.NewRecorder()
	h.ServeHTTP(w, unknown)
	require.Equal(t, 413, w.Code)
	require.Equal(t, newer, content(t, request(t, h, "GET", path, nil)), "a PUT that fails changes nothing")

	require.Equal(t, 404, status(t, h, "GET", "/", nil))
	require.Equal(t, 404, status(t, h, "PUT", "/x", b, auth...))
	require.Equal(t, 405, status(t, h, "POST", path, nil, auth...))
	require.Equal(t, 204, status(t, h, "DELETE", path, nil, auth...))
	require.Equal(t, 204, status(t, h, "DELETE", path, nil, auth...))
	require.Equal(t, 404, status(t, h, "GET", path, nil))
}

func TestHandlerTokens(t *testing.T) {
	path := "/" + key(1).String()
	const none, reader, writer = "", "Bearer r", "Bearer w"
	for name, c := range map[string]struct {
		o    remote.HandlerOptions
		want map[string][2]int // status of GET and PUT by token
	}{
		"nobody writes":  {remote.HandlerOptions{}, map[string][2]int{none: {404, 405}, reader: {404, 405}}},
		"some write":     {remote.HandlerOptions{WriteTokens: []string{"w"}}, map[string][2]int{none: {404, 401}, "Bearer x": {404, 401}, "Basic w": {404, 401}, writer: {404, 400}}},
		"some read":      {remote.HandlerOptions{ReadTokens: []string{"r"}}, map[string][2]int{none: {401, 405}, reader: {404, 405}, "Bearer ": {401, 405}}},
		"some of either": {remote.HandlerOptions{ReadTokens: []string{"r"}, WriteTokens: []string{"w"}}, map[string][2]int{none: {401, 401}, reader: {404, 401}, writer: {404, 400}}},
	} {
		h, err := remote.NewHandler(&storetest.Fake{}, &c.o)
		require.NoError(t, err)
		for auth, want := range c.want {
			got := [2]int{status(t, h, "GET", path, nil, "Authorization", auth), status(t, h, "PUT", path, nil, "Authorization", auth)}
			require.Equal(t, want, got, "%s, %q", name, auth)
		}
	}
	empty, err := remote.ParseKeyring([]byte("# all were revoked\n"))
	require.NoError(t, err)
	k := generate(t).Public()
	for _, o := range []remote.HandlerOptions{{ReadTokens: []string{""}}, {WriteTokens: []string{""}}, {ReadTokens: []string{"r", "\ufeffr"}}, {WriteTokens: []string{"w\x00"}}, {WriteTokens: []string{"w "}}, {Signer: generate(t), WriteTokens: []string{"w"}},
		{ReadTokens: []string{}}, {Keyring: empty}, {Keyring: remote.Keyring{Revoked: []remote.KeyID{k.ID()}}},
		{Keyring: remote.Keyring{Keys: []remote.PublicKey{k}, Revoked: []remote.KeyID{k.ID()}}}} {
		_, err := remote.NewHandler(&storetest.Fake{}, &o)
		require.Error(t, err)
	}
	_, err = remote.NewHandler(nil, nil)
	require.Error(t, err)
}

func TestHandlerKeyring(t *testing.T) {
	ours, theirs := generate(t), generate(t)
	h, err := remote.NewHandler(&storetest.Fake{}, &remote.HandlerOptions{
		WriteTokens: []string{token}, Keyring: remote.Keyring{Keys: []remote.PublicKey{ours.Public()}},
	})
	require.NoError(t, err)
	path := "/" + key(1).String()
	auth := []string{"Authorization", "Bearer " + token}
	require.Equal(t, 403, status(t, h, "PUT", path, entry(t, remote.Options{Signer: theirs}, key(1), 10), auth...))
	require.Equal(t, 403, status(t, h, "PUT", path, entry(t, remote.Options{Secret: make([]byte, 16)}, key(1), 10), auth...))
	require.Equal(t, 201, status(t, h, "PUT", path, entry(t, remote.Options{Signer: ours}, key(1), 10), auth...))
}

// TestHandlerOverWarmedStore signs what a Cache has stored.
func TestHandlerOverWarmedStore(t *testing.T) {
	server := generate(t)
	disk, err := modcache.OpenDisk(t.TempDir(), nil)
	require.NoError(t, err)
	defer disk.Close()
	want := code(700_000)
	require.NoError(t, disk.Add(t.Context(), key(1), modcache.NewArtifact(want, info)))
	url := serve(t, disk, &remote.HandlerOptions{Signer: server})
	s := open(t, url, patient(remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{server.Public()}}}))
	a := get(t, s, key(1))
	require.NotNil(t, a)
	require.Equal(t, info, a.Info())
	b, err := a.Bytes()
	require.NoError(t, err)
	require.Equal(t, want, b)
	require.Nil(t, get(t, s, key(2)))

	// Such a store isn't served as if its artifacts were entries.
	h, err := remote.NewHandler(disk, nil)
	require.NoError(t, err)
	require.Equal(t, 404, status(t, h, "GET", "/"+key(1).String(), nil))
}

// TestHandlerIsBusy bounds what is received at once.
func TestHandlerIsBusy(t *testing.T) {
	h, err := remote.NewHandler(&storetest.Fake{}, &remote.HandlerOptions{WriteTokens: []string{token}, MaxUploads: 1})
	require.NoError(t, err)
	srv := httptest.NewServer(h)
	defer srv.Close()
	put := func(ctx context.Context, body io.Reader) (*http.Response, error) {
		r, err := http.NewRequestWithContext(ctx, "PUT", srv.URL+"/"+key(1).String(), body)
		require.NoError(t, err)
		r.Header = bearer(token)
		r.Header.Set("Expect", "100-continue")
		return http.DefaultClient.Do(r)
	}
	body, send := io.Pipe()
	defer send.Close() // or the server waits for more
	begun, done := make(chan struct{}), make(chan int, 1)
	go func() {
		r, err := put(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(begun) }}), body)
		if err != nil {
			done <- 0
			return
		}
		_ = r.Body.Close()
		done <- r.StatusCode
	}()
	<-begun // it has the place
	r, err := put(t.Context(), strings.NewReader("x"))
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	require.Equal(t, 503, r.StatusCode)
	require.NotEmpty(t, r.Header.Get("Retry-After"))
	_, err = send.Write([]byte("half of an entry"))
	require.NoError(t, err)
	require.NoError(t, send.Close())
	require.Equal(t, 400, <-done)
}

// pipes is a server and its clients without a network, so that their clock can be that of a test.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

// servePipes runs a server with h until the test, in a bubble of its own, ends.
func servePipes(t *testing.T, h http.Handler) *pipes {
	p := &pipes{make(chan net.Conn), make(chan struct{})}
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = srv.Serve(p) }()
	t.Cleanup(func() { _ = srv.Close() })
	return p
}

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p.conns <- server
	return client, nil
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestHandlerEndsStalls has clients that stop in the middle free what they hold.
func TestHandlerEndsStalls(t *testing.T) {
	random := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	b := entryOf(t, remote.Options{Signer: generate(t)}, key(1), random, info)
	path := "/" + key(1).String()
	auth := []string{"Authorization", "Bearer " + token}
	for method, c := range map[string]struct {
		headers, body string
		begun         string // what is answered once the client holds its place
		probe         int    // status of a request for nothing sound, when a place is free
		end           string // what is answered at last
		after         time.Duration
	}{
		"PUT": {fmt.Sprintf("Content-Length: %d\r\nExpect: 100-continue\r\n", len(b)), string(b[:1000]), "HTTP/1.1 100 ", 400, "408 Request Timeout", remote.SendsNothing},
		"GET": {"", "", "HTTP/1.1 200 ", 404, "", 30 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			h, err := remote.NewHandler(&storetest.Fake{}, &remote.HandlerOptions{WriteTokens: []string{token}, MaxUploads: 1, MaxDownloads: 1})
			require.NoError(t, err)
			require.Equal(t, 201, status(t, h, "PUT", path, b, auth...))

			conn, err := servePipes(t, h).dial(t.Context(), "", "")
			require.NoError(t, err)
			defer conn.Close()
			_, err = fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\n%s: %s\r\n%s\r\n", method, path, auth[0], auth[1], c.headers)
			require.NoError(t, err)
			begun := make([]byte, len(c.begun))
			_, err = io.ReadFull(conn, begun)
			require.NoError(t, err)
			require.Equal(t, c.begun, string(begun))
			if c.end != "" {
				line, err := bufio.NewReader(io.LimitReader(conn, 12)).ReadString(0) // what is left of that answer
				require.ErrorIs(t, err, io.EOF, line)
				_, err = io.WriteString(conn, c.body)
				require.NoError(t, err)
			}
			probe := func() int { return status(t, h, method, "/"+key(2).String(), nil, auth...) }
			time.Sleep(c.after - 1)
			require.Equal(t, 503, probe(), method)
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if c.end != "" {
				answer, err := io.ReadAll(conn)
				require.NoError(t, err)
				require.Contains(t, string(answer), c.end)
			}
			require.Equal(t, c.probe, probe(), method)
		})
	}
}

// TestHandlerWaitsForFrames has a client upload steadily, with HTTP/2 and at the slowest rate that is waited for: of its frames
// nothing is seen before their end, many seconds later.
func TestHandlerWaitsForFrames(t *testing.T) {
	random := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	b := entryOf(t, remote.Options{Signer: generate(t)}, key(1), random, info)
	synctest.Test(t, func(t *testing.T) {
		h, err := remote.NewHandler(&storetest.Fake{}, &remote.HandlerOptions{WriteTokens: []string{token}})
		require.NoError(t, err)
		server := servePipes(t, h)
		transport := remote.NewTransport(&remote.Options{})
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := server.dial(ctx, network, address)
			return newSlowConn(t.Context(), conn), err
		}
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
		client := lanes.New(transport)
		defer client.CloseIdleConnections()
		for _, c := range []struct {
			body []byte
			want int
		}{{[]byte("no entry"), 400}, {b, 201}} { // the first answer says how large frames may be
			start := time.Now()
			r, err := http.NewRequest("PUT", "http://x/"+key(1).String(), bytes.NewReader(c.body))
			require.NoError(t, err)
			r.Header = bearer(token)
			resp, err := client.RoundTrip(r)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, 2, resp.ProtoMajor)
			require.Equal(t, c.want, resp.StatusCode, "after %v", time.Since(start))
		}
	})
}

// slowConn is a connection over which 33 KB are sent in a second. Write doesn't wait: net/http holds a mutex, at which no
// bubble's clock goes on.
type slowConn struct {
	net.Conn
	ctx  context.Context
	sent chan []byte
}

func newSlowConn(ctx context.Context, conn net.Conn) *slowConn {
	c := &slowConn{conn, ctx, make(chan []byte, 1000)}
	go func() {
		var rest []byte
		for ctx.Err() == nil {
			select {
			case b := <-c.sent:
				rest = append(rest, b...)
			case <-time.After(100 * time.Millisecond):
				n := min(len(rest), 3300)
				_, _ = conn.Write(rest[:n]) // or the server is done with it
				rest = rest[n:]
			case <-ctx.Done():
			}
		}
	}()
	return c
}

func (c *slowConn) Write(b []byte) (int, error) {
	select {
	case c.sent <- bytes.Clone(b):
	case <-c.ctx.Done():
	}
	return len(b), nil
}

// TestHandlerEndsTrickles has a client upload a byte per second, which never stalls: it holds its place for no longer
// than a Store would take for so few bytes.
func TestHandlerEndsTrickles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := remote.NewHandler(&storetest.Fake{}, &remote.HandlerOptions{WriteTokens: []string{token}, MaxUploads: 1})
		require.NoError(t, err)
		b := entry(t, remote.Options{Signer: generate(t)}, key(1), 1000)
		put := func(body io.Reader, w http.ResponseWriter) {
			r := httptest.NewRequest("PUT", "/"+key(1).String(), body)
			r.Header = bearer(token)
			h.ServeHTTP(w, r)
		}
		client := &slowClient{ResponseRecorder: httptest.NewRecorder(), rest: b}
		start := time.Now()
		put(client, client)
		require.Equal(t, 408, client.Code)
		require.Equal(t, 30*time.Second, time.Since(start))
		require.Len(t, client.rest, len(b)-29)
		other := httptest.NewRecorder()
		put(bytes.NewReader(b), other)
		require.Equal(t, 201, other.Code, "its place is free")
	})
}

// slowClient is a client that sends a byte per second until its connection's deadline.
type slowClient struct {
	*httptest.ResponseRecorder
	rest     []byte
	deadline time.Time
}

func (c *slowClient) SetReadDeadline(t time.Time) error {
	c.deadline = t
	return nil
}

func (c *slowClient) Read(p []byte) (int, error) {
	time.Sleep(min(time.Second, time.Until(c.deadline)))
	if !time.Now().Before(c.deadline) {
		return 0, os.ErrDeadlineExceeded
	}
	p[0], c.rest = c.rest[0], c.rest[1:]
	return 1, nil
}

// TestHandlerIsPatient has clients take entries that were proven and that weren't, just fast enough, from a kernel that keeps
// nothing for them, or a lot.
func TestHandlerIsPatient(t *testing.T) {
	random := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	b := entryOf(t, remote.Options{Signer: generate(t)}, key(1), random, info)
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		disk, err := modcache.OpenDisk(dir, nil)
		require.NoError(t, err)
		defer disk.Close()
		h, err := remote.NewHandler(disk, &remote.HandlerOptions{WriteTokens: []string{token}})
		require.NoError(t, err)
		path := "/" + key(1).String()
		require.Equal(t, 201, status(t, h, "PUT", path, b, "Authorization", "Bearer "+token))
		for _, proven := range []bool{false, true} {
			for _, buffer := range []int{0, 4 << 20} {
				client := &steadyClient{ResponseRecorder: httptest.NewRecorder(), buffer: buffer}
				if proven {
					require.Equal(t, b, content(t, request(t, h, "GET", path, nil)))
				}
				h.ServeHTTP(client, httptest.NewRequest("GET", path, nil))
				require.Equal(t, len(b), client.Body.Len(), "proven %v, a buffer of %d bytes", proven, buffer)
				require.Equal(t, b, client.Body.Bytes())
				require.Equal(t, proven, client.copied, "the kernel copies what was proven")
				time.Sleep(time.Hour) // nothing is proven any more
			}
		}
	})
}

// steadyClient is a client that takes 33 KiB per second, and what a kernel does for it: it accepts bytes as long as its buffer is
// less than two thirds full.
type steadyClient struct {
	*httptest.ResponseRecorder
	deadline time.Time
	buffer   int
	taken    time.Time // when all is taken that was accepted
	copied   bool      // by the kernel
}

func (c *steadyClient) SetWriteDeadline(t time.Time) error {
	c.deadline = t
	return nil
}

func (c *steadyClient) Write(p []byte) (n int, err error) {
	const second = 33 << 10
	took := func(n int) time.Duration { return time.Duration(n) * time.Second / second }
	for len(p) > 0 {
		if now := time.Now(); c.taken.Before(now) {
			c.taken = now
		}
		time.Sleep(min(time.Until(c.taken)-took(c.buffer*2/3), time.Until(c.deadline)))
		if !time.Now().Before(c.deadline) {
			return n, os.ErrDeadlineExceeded
		}
		m := min(len(p), max(c.buffer/3, 1<<10))
		_, _ = c.ResponseRecorder.Write(p[:m])
		c.taken = c.taken.Add(took(m))
		n, p = n+m, p[m:]
	}
	return n, nil
}

// ReadFrom has the kernel copy a file.
func (c *steadyClient) ReadFrom(src io.Reader) (int64, error) {
	c.copied = true
	b, err := io.ReadAll(src)
	if err != nil {
		return 0, err
	}
	n, err := c.Write(b)
	return int64(n), err
}

// TestHandlerKeepsConnections serves one request after the other although each was given
// a deadline.
func TestHandlerKeepsConnections(t *testing.T) {
	b := entry(t, remote.Options{Signer: generate(t)}, key(1), 4000)
	synctest.Test(t, func(t *testing.T) {
		h, err := remote.NewHandler(&storetest.Fake{}, &remote.HandlerOptions{WriteTokens: []string{token}})
		require.NoError(t, err)
		server, dials := servePipes(t, h), 0
		transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials++
			return server.dial(ctx, network, addr)
		}}
		defer transport.CloseIdleConnections()
		for _, method := range []string{"PUT", "GET", "PUT", "GET"} {
			r, err := http.NewRequest(method, "http://server/"+key(1).String(), nil)
			require.NoError(t, err)
			if method == "PUT" {
				r.Body = io.NopCloser(bytes.NewReader(b))
			}
			r.Header = bearer(token)
			resp, err := (&http.Client{Transport: transport}).Do(r)
			require.NoError(t, err)
			require.Equal(t, map[string]int{"PUT": 201, "GET": 200}[method], resp.StatusCode)
			_ = content(t, resp)
			require.NoError(t, resp.Body.Close())
			time.Sleep(3 * time.Minute)
		}
		require.Equal(t, 1, dials)
	})
}

// TestHandlerBoundsDownloads turns away whom it couldn't serve well.
func TestHandlerBoundsDownloads(t *testing.T) {
	asked, answer := make(chan bool), make(chan bool)
	slow := &storetest.Fake{OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
		asked <- true
		<-answer
		return nil, false, nil
	}}
	h, err := remote.NewHandler(slow, &remote.HandlerOptions{MaxDownloads: 1})
	require.NoError(t, err)
	path := "/" + key(1).String()
	done := make(chan int)
	go func() { done <- status(t, h, "GET", path, nil) }()
	<-asked
	require.Equal(t, 503, status(t, h, "GET", path, nil))
	close(answer)
	require.Equal(t, 404, <-done)
	go func() { done <- status(t, h, "GET", path, nil) }()
	<-asked
	require.Equal(t, 404, <-done)
}

func TestHandlerOverBrokenStore(t *testing.T) {
	b := entry(t, remote.Options{Signer: generate(t)}, key(1), 10)
	path := "/" + key(1).String()
	for err, want := range map[error]int{
		errors.New("no"): 500,
		fmt.Errorf("x: %w", modcache.ErrTooLarge): 413,
		modcache.ErrReadOnly:                      405,
	} {
		broken := &storetest.Fake{
			OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) { return nil, false, err },
			OnAdd: func(context.Context, modcache.Key, *modcache.Artifact) error { return err },
		}
		h, e := remote.NewHandler(broken, &remote.HandlerOptions{WriteTokens: []string{token}})
		require.NoError(t, e)
		require.Equal(t, want, status(t, h, "PUT", path, b, "Authorization", "Bearer "+token))
		require.NotEqual(t, 404, status(t, h, "GET", path, nil), "not knowing isn't absence")
	}
}

// claimed is a store of artifacts that claim a size and mustn't be read.
type claimed struct {
	*storetest.Fake
	t    *testing.T
	size int64
	info modcache.Info
}

func (c claimed) Get(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
	return modcache.NewArtifactFrom(c, c.size, c.info), true, nil
}

func (c claimed) ReadAt(p []byte, _ int64) (int, error) {
	c.t.Errorf("%d bytes are read", len(p))
	return 0, io.ErrUnexpectedEOF
}

// TestHandlerBelievesNoSize neither signs nor passes on what is larger than it may be.
func TestHandlerBelievesNoSize(t *testing.T) {
	for name, o := range map[string]remote.HandlerOptions{"modcache remote entry": {}, "an engine": {Signer: generate(t)}} {
		o.MaxSize = 1 << 20
		for _, size := range []int64{1<<20 + 1, 60 << 30, 1 << 62} {
			h, err := remote.NewHandler(claimed{&storetest.Fake{}, t, size, modcache.Info{Engine: name}}, &o)
			require.NoError(t, err)
			require.Equal(t, 413, status(t, h, "GET", "/"+key(1).String(), nil), "%s, %d", name, size)
		}
	}
}

// TestHandlerKeepsNoMore: a store in memory keeps what a buffer has to spare, and counts the rest.
func TestHandlerKeepsNoMore(t *testing.T) {
	spare, size := 0, 0
	keeps := &storetest.Fake{OnAdd: func(_ context.Context, _ modcache.Key, a *modcache.Artifact) error {
		b, err := a.Bytes()
		spare, size = cap(b)-len(b), len(b)
		return err
	}}
	h, err := remote.NewHandler(keeps, &remote.HandlerOptions{WriteTokens: []string{token}})
	require.NoError(t, err)
	b := entry(t, remote.Options{Signer: generate(t)}, key(1), 1_100_000)
	for _, length := range []int64{int64(len(b)), -1} {
		r := httptest.NewRequest("PUT", "/"+key(1).String(), bytes.NewReader(b))
		r.ContentLength = length
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, 201, w.Code)
		require.Equal(t, len(b), size)
		require.LessOrEqual(t, spare, size/8)
	}
}

// TestHandlerBelievesNoLength: what is allocated follows what has arrived, and not what a client says that it sends.
func TestHandlerBelievesNoLength(t *testing.T) {
	h, err := remote.NewHandler(&storetest.Fake{}, &remote.HandlerOptions{WriteTokens: []string{token}})
	require.NoError(t, err)
	const says, sends = 64 << 20, 1 << 20
	r := httptest.NewRequest("PUT", "/"+key(1).String(), bytes.NewReader(make([]byte, sends)))
	r.ContentLength = says
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	h.ServeHTTP(w, r)
	runtime.ReadMemStats(&after)
	require.Equal(t, 400, w.Code)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16*sends))
}

// TestHandlerPutOnce uses the conditions of a real request.
func TestHandlerPutOnce(t *testing.T) {
	signer := generate(t)
	store := &storetest.Fake{}
	h, err := remote.NewHandler(store, &remote.HandlerOptions{WriteTokens: []string{token}, MaxSize: 4 << 20})
	require.NoError(t, err)
	// This server doesn't know HEAD, or says so.
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.WriteHeader(404)
			return
		}
		h.ServeHTTP(w, r)
	}))
	defer srv.Close()
	o := patient(remote.Options{Signer: signer, Header: bearer(token)})
	for i := range 2 {
		s := open(t, srv.URL, o)
		require.NoError(t, add(t, s, key(1), 5<<20))
		require.NoError(t, s.Flush(t.Context()))
		require.EqualValues(t, i, s.Report().Present)
		require.EqualValues(t, 1-i, s.Report().Uploads)
	}
	require.Equal(t, 1, store.Len())

	random := make([]byte, 5<<20)
	for i, x := 0, uint32(1); i < len(random); i++ {
		x = x*1664525 + 1013904223
		random[i] = byte(x >> 24)
	}
	s := open(t, srv.URL, o)
	require.NoError(t, s.Add(t.Context(), key(2), modcache.NewArtifact(random, info)))
	require.ErrorIs(t, s.Flush(t.Context()), modcache.ErrTooLarge, "413 arrives before the body is sent")
}
