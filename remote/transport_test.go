package remote_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/remote"
)

// forgotten is a connection that something on the way forgets: what is written goes nowhere, and nothing comes.
type forgotten struct {
	net.Conn
	dead atomic.Bool
}

func (c *forgotten) Write(b []byte) (int, error) {
	if c.dead.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// TestStoreLeavesDeadConnections has a connection die without a word, and others work. It is left over HTTP/2, too, where a request
// that is given up doesn't close it.
func TestStoreLeavesDeadConnections(t *testing.T) {
	signer := generate(t)
	b := entry(t, remote.Options{Signer: signer}, key(1), 1000)
	for _, c := range []struct {
		http2   bool
		answers time.Duration // within which a caller wants them
	}{{false, 0}, {true, 0}, {true, 20 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			h, err := remote.NewHandler(&storetest.Fake{}, &remote.HandlerOptions{WriteTokens: []string{token}})
			require.NoError(t, err)
			require.Equal(t, 201, status(t, h, "PUT", "/"+key(1).String(), b, "Authorization", "Bearer "+token))
			p := servePipes(t, h)
			transport := remote.NewTransport(&remote.Options{})
			transport.Protocols = new(http.Protocols)
			transport.Protocols.SetHTTP1(!c.http2)
			transport.Protocols.SetUnencryptedHTTP2(c.http2)
			transport.ResponseHeaderTimeout = c.answers
			var conns []*forgotten
			transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := p.dial(ctx, network, addr)
				conns = append(conns, &forgotten{Conn: conn})
				return conns[len(conns)-1], err
			}
			defer transport.CloseIdleConnections()
			s := open(t, "http://server", &remote.Options{Signer: signer, Header: bearer(token), Client: &http.Client{Transport: transport}})
			require.NotNil(t, get(t, s, key(1)))
			die := func(conns ...*forgotten) {
				for _, conn := range conns {
					conn.dead.Store(true)
				}
			}
			die(conns...)
			start := time.Now()
			for {
				if a, ok, _ := s.Get(t.Context(), key(1)); ok {
					require.NoError(t, a.Close())
					break
				}
				require.Less(t, time.Since(start), time.Minute)
				time.Sleep(100 * ms)
			}

			upload := func(k byte) time.Duration {
				return took(func() {
					require.NoError(t, add(t, s, key(k), 1000))
					require.NoError(t, s.Flush(t.Context()))
				})
			}
			require.Less(t, upload(2), time.Second)
			die(conns[len(conns)-1]) // with which it was uploaded
			require.Less(t, upload(3), 32*time.Second, "one attempt is lost")
			die(conns...)
			time.Sleep(25 * time.Second)
			if d := upload(4); c.http2 {
				require.Less(t, d, time.Second, "what died meanwhile was left")
			}
		})
	}
}

// TestStoreDials names the limit, and leaves time for the second address of a server.
func TestStoreDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, &net.OpError{Op: "dial", Err: errors.New("operation was canceled")}
		}
		var err error
		d := took(func() { _, err = remote.Dialer(time.Second, hangs)(t.Context(), "tcp", "server:1") })
		require.Equal(t, time.Second, d)
		require.EqualError(t, err, "dial tcp: no connection within 1s")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	for _, o := range []*remote.Options{{}, {FirstByte: ms}, {FirstByte: time.Minute}, {FirstByte: -1}} {
		o.Secret = make([]byte, 16)
		limit, fallback, firstByte := remote.DialLimits(t, o)
		require.Equal(t, 10*time.Second, limit, "a lost packet is sent again after a second")
		require.Positive(t, fallback)
		require.LessOrEqual(t, fallback, 300*ms)
		require.LessOrEqual(t, 3*fallback, firstByte)
	}
}

// TestStoreUploadsToWhoTakesNothing has a server answer whoever asks, and take nothing of an upload, or not answer it. That is
// found out long before the time is over in which the whole could have been sent.
func TestStoreUploadsToWhoTakesNothing(t *testing.T) {
	signer := generate(t)
	random := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	for _, takes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			end := make(chan bool)
			server := servePipes(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodPut {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				if takes {
					_, _ = io.Copy(io.Discard, r.Body)
				} else {
					_, _ = r.Body.Read(make([]byte, 1))
				}
				<-end
			}))
			defer close(end)
			transport := &http.Transport{DialContext: server.dial}
			defer transport.CloseIdleConnections()
			s := open(t, "http://server", &remote.Options{Signer: signer, Client: &http.Client{Transport: transport}})
			require.NoError(t, s.Add(t.Context(), key(1), newArtifact(random)))
			d := took(func() { require.ErrorContains(t, s.Flush(t.Context()), "takes nothing for 1m0s, or doesn't answer") })
			require.Less(t, d, 6*time.Minute, "five attempts")
		})
	}
}

// TestStoreQuotesNoSecrets has a server echo what it is sent.
func TestStoreQuotesNoSecrets(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "a bad request: %v", r.Header)
	}))
	defer srv.Close()
	signed := remote.S3{Bucket: "fleet", PathStyle: true, Credentials: func(context.Context) (remote.Credentials, error) {
		return remote.Credentials{AccessKey: "access", SecretKey: "secret", SessionToken: "SECRET-SESSION"}, nil
	}}
	for _, o := range []remote.Options{
		{Header: bearer("SECRET-TOKEN")}, {Header: http.Header{"X-Api-Key": {"other", "SECRET-KEY"}}}, {Layout: signed},
	} {
		o.Signer = generate(t)
		_, _, err := open(t, srv.URL, patient(o)).Get(t.Context(), key(1))
		require.ErrorContains(t, err, "status 400")
		require.NotContains(t, err.Error(), "SECRET")
		require.NotContains(t, err.Error(), "Signature")
	}
	_, _, err := open(t, srv.URL, patient(remote.Options{Signer: generate(t)})).Get(t.Context(), key(1))
	require.ErrorContains(t, err, "a bad request: map[", "there is nothing to hide")
}

// TestStoreUploadsOverConnectionsOfTheirOwn: nothing that is asked for waits behind an upload.
func TestStoreUploadsOverConnectionsOfTheirOwn(t *testing.T) {
	h, err := remote.NewHandler(&storetest.Fake{}, &remote.HandlerOptions{WriteTokens: []string{token}})
	require.NoError(t, err)
	var mu sync.Mutex
	asked, uploaded := map[string]bool{}, map[string]bool{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if r.Method == http.MethodPut {
			uploaded[r.RemoteAddr] = true
		} else {
			asked[r.RemoteAddr] = true
		}
		mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	defer srv.Close()
	theirs := &http.Transport{}
	defer theirs.CloseIdleConnections()
	for n, client := range []*http.Client{nil, {Transport: theirs}} {
		clear(asked)
		clear(uploaded)
		s := open(t, srv.URL, patient(remote.Options{Signer: generate(t), Header: bearer(token), Uploads: 1, Client: client}))
		for i := range byte(3) {
			k := byte(10*n) + i
			_, _, err := s.Get(t.Context(), key(k))
			require.NoError(t, err)
			require.NoError(t, add(t, s, key(k), 1000))
			require.NoError(t, s.Flush(t.Context()))
		}
		require.Len(t, asked, 1)
		require.Len(t, uploaded, 1)
		require.NotEqual(t, asked, uploaded)
	}
}
