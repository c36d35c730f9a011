package remote_test

import (
	"context"
	"errors"
	"net"
	"net/http"
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
	dead *atomic.Bool
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
	for _, http2 := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h, err := remote.NewHandler(&storetest.Fake{}, &remote.HandlerOptions{WriteTokens: []string{token}})
			require.NoError(t, err)
			require.Equal(t, 201, status(t, h, "PUT", "/"+key(1).String(), b, "Authorization", "Bearer "+token))
			protocols := new(http.Protocols)
			protocols.SetHTTP1(!http2)
			protocols.SetUnencryptedHTTP2(http2)
			p := &pipes{make(chan net.Conn), make(chan struct{})}
			srv := &http.Server{Handler: h, Protocols: protocols}
			go func() { _ = srv.Serve(p) }()
			defer srv.Close()

			transport := remote.NewTransport(&remote.Options{})
			transport.Protocols = protocols
			dead := new(atomic.Bool)
			transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := p.dial(ctx, network, addr)
				return &forgotten{Conn: conn, dead: dead}, err
			}
			defer transport.CloseIdleConnections()
			s := open(t, "http://server", &remote.Options{Signer: signer, Client: &http.Client{Transport: transport}})
			require.NotNil(t, get(t, s, key(1)))
			dead.Store(true)
			dead = new(atomic.Bool) // of those that come
			start := time.Now()
			for {
				if a, ok, _ := s.Get(t.Context(), key(1)); ok {
					require.NoError(t, a.Close())
					break
				}
				require.Less(t, time.Since(start), time.Minute)
				time.Sleep(100 * ms)
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
