package lanes

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTransport asks over HTTP/2 while an upload is under way.
func TestTransport(t *testing.T) {
	begun, goOn := make(chan string), make(chan struct{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			begun <- r.RemoteAddr
			<-goOn
		}
		_, _ = io.WriteString(w, r.Proto+" "+r.RemoteAddr)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	transport := New(srv.Client().Transport.(*http.Transport))
	client := &http.Client{Transport: transport}
	defer client.CloseIdleConnections()
	ask := func(method string, body io.Reader) string {
		r, err := http.NewRequest(method, srv.URL, body)
		require.NoError(t, err)
		resp, err := client.Do(r)
		require.NoError(t, err)
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return string(text)
	}

	asked := ask(http.MethodGet, nil)
	require.Contains(t, asked, "HTTP/2.0 ")
	uploaded := make(chan string)
	go func() { uploaded <- ask(http.MethodPut, strings.NewReader("an entry")) }()
	at := <-begun
	require.NotContains(t, asked, at)
	require.Equal(t, asked, ask(http.MethodGet, http.NoBody), "another connection")
	close(goOn)
	require.Equal(t, "HTTP/2.0 "+at, <-uploaded)

	client.CloseIdleConnections()
	require.NotEqual(t, asked, ask(http.MethodGet, nil))
	go func() { <-begun }()
	require.NotContains(t, ask(http.MethodPut, strings.NewReader("an entry")), at)
}
