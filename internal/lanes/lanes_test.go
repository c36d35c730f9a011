package lanes

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTransport asks over HTTP/2 while an upload is under way.
func TestTransport(t *testing.T) {
	begun, goOn := make(chan string), make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			begun <- r.RemoteAddr
			<-goOn
		}
		_, _ = io.WriteString(w, r.Proto+" "+r.RemoteAddr)
	})
	transport := New(srv.Client().Transport.(*http.Transport))
	client := &http.Client{Transport: transport}
	defer client.CloseIdleConnections()
	ask := func(method, body string) string { return ask(t, client, method, srv.URL, body) }

	asked := ask(http.MethodGet, "")
	require.Contains(t, asked, "HTTP/2.0 ")
	uploaded := make(chan string)
	go func() { uploaded <- ask(http.MethodPut, "an entry") }()
	at := <-begun
	require.NotContains(t, asked, at)
	require.Equal(t, asked, ask(http.MethodPost, "a login"), "another connection")
	close(goOn)
	require.Equal(t, "HTTP/2.0 "+at, <-uploaded)

	client.CloseIdleConnections()
	require.NotEqual(t, asked, ask(http.MethodGet, ""))
	go func() { <-begun }()
	require.NotContains(t, ask(http.MethodPut, "an entry"), at)
}

// serve runs a server that speaks HTTP/2 over TLS until the test ends.
func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// ask returns what is answered.
func ask(t *testing.T, client *http.Client, method, url, body string) string {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	require.NoError(t, err)
	resp, err := client.Do(r)
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return string(text)
}

// TestTransportSpeaksWhatTheOtherDoes uploads with whatever may be set in a Transport.
func TestTransportSpeaksWhatTheOtherDoes(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("NOT TESTED: authorities are taken from a file")
	}
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto)
	})
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600))
	t.Setenv("SSL_CERT_FILE", file) // read once, the same each time
	trusting := &tls.Config{RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	http1, http2 := new(http.Protocols), new(http.Protocols)
	http1.SetHTTP1(true)
	http2.SetHTTP2(true)
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	for _, used := range []bool{false, true} {
		for name, c := range map[string]struct {
			t    *http.Transport
			want string
		}{
			"nothing":               {&http.Transport{}, "HTTP/2.0"},
			"pings":                 {&http.Transport{HTTP2: &http.HTTP2Config{SendPingTimeout: time.Second}}, "HTTP/2.0"},
			"forced":                {&http.Transport{ForceAttemptHTTP2: true}, "HTTP/2.0"},
			"authorities":           {&http.Transport{TLSClientConfig: trusting.Clone()}, "HTTP/1.1"},
			"authorities, forced":   {&http.Transport{TLSClientConfig: trusting.Clone(), ForceAttemptHTTP2: true}, "HTTP/2.0"},
			"a dialer":              {&http.Transport{DialContext: dial}, "HTTP/1.1"},
			"a dialer, forced":      {&http.Transport{DialContext: dial, ForceAttemptHTTP2: true}, "HTTP/2.0"},
			"switched off":          {&http.Transport{TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}, "HTTP/1.1"},
			"switched off, forced":  {&http.Transport{TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}, ForceAttemptHTTP2: true}, "HTTP/1.1"},
			"HTTP/1 only":           {&http.Transport{Protocols: http1}, "HTTP/1.1"},
			"HTTP/2 only":           {&http.Transport{Protocols: http2}, "HTTP/2.0"},
			"HTTP/2 only, a dialer": {&http.Transport{Protocols: http2, DialContext: dial, TLSClientConfig: trusting.Clone()}, "HTTP/2.0"},
		} {
			if used {
				require.Equal(t, c.want, ask(t, &http.Client{Transport: c.t}, http.MethodGet, srv.URL, ""), name)
			}
			over, closeIdle := Over(c.t)
			client := &http.Client{Transport: over}
			require.Equal(t, c.want, ask(t, client, http.MethodGet, srv.URL, ""), name)
			require.Equal(t, c.want, ask(t, client, http.MethodPut, srv.URL, "an entry"), name)
			closeIdle()
			c.t.CloseIdleConnections()
		}
	}
}

type other struct{ http.RoundTripper }

func TestOver(t *testing.T) {
	for _, theirs := range []http.RoundTripper{nil, other{http.DefaultTransport}} {
		rt, closeIdle := Over(theirs)
		require.Equal(t, theirs, rt)
		closeIdle()
	}
	rt, closeIdle := Over(new(http.Transport))
	require.IsType(t, new(Transport), rt)
	closeIdle()
}
