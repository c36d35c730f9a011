package oci_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/modcache/modcache/remote/oci"
)

// gate is a registry without entries.
type gate struct {
	answer func(r *http.Request, authorized bool) (status int)
	login  auth.CredentialFunc

	requests, logins atomic.Int32
}

func (g *gate) open(t *testing.T) *oci.Backend {
	t.Helper()
	b, err := oci.New("registry.example/entries", &oci.Options{
		Credential: func(ctx context.Context, host string) (auth.Credential, error) {
			g.logins.Add(1)
			return g.login(ctx, host)
		},
		Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
			g.requests.Add(1)
			w := httptest.NewRecorder()
			_, _, authorized := r.BasicAuth()
			status := g.answer(r, authorized)
			if status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			}
			w.WriteHeader(status)
			return w.Result(), nil
		}),
	})
	require.NoError(t, err)
	return b
}

// read reads what isn't there, and may.
func read(t *testing.T, b *oci.Backend) {
	t.Helper()
	start := time.Now()
	_, err := b.Get(t.Context(), key)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Zero(t, time.Since(start))
}

func upload(t *testing.T, b *oci.Backend) error {
	return b.Put(t.Context(), key, []byte("abc"), true)
}

// readable may be read by those who have logged in, and written by nobody.
func readable(r *http.Request, authorized bool) (status int) {
	switch {
	case !authorized:
		return http.StatusUnauthorized
	case r.Method == http.MethodPost:
		return http.StatusForbidden
	}
	return http.StatusNotFound
}

func loggedIn(context.Context, string) (auth.Credential, error) {
	return auth.Credential{Username: "fleet", Password: "secret"}, nil
}

// TestReadsGoOnWhileAnUploadLogsIn, as one does that is refused with the token that they use, too.
func TestReadsGoOnWhileAnUploadLogsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{answer: readable, login: loggedIn}
		b := g.open(t)
		read(t, b)
		time.Sleep(time.Hour)
		hang := make(chan struct{})
		g.login = func(ctx context.Context, host string) (auth.Credential, error) {
			<-hang
			return loggedIn(ctx, host)
		}
		done := make(chan error)
		for range 2 {
			go func() { done <- upload(t, b) }()
			synctest.Wait()
		}
		require.EqualValues(t, 2, g.logins.Load(), "one for both")
		read(t, b)
		time.Sleep(20 * time.Second)
		read(t, b)
		close(hang)
		for range 2 {
			require.ErrorIs(t, <-done, fs.ErrPermission, "it was meant")
		}
		read(t, b)
		require.ErrorIs(t, upload(t, b), fs.ErrPermission)
		require.EqualValues(t, 2, g.logins.Load())

		time.Sleep(time.Hour)
		g.login = func(context.Context, string) (auth.Credential, error) { return auth.Credential{}, fs.ErrInvalid }
		require.ErrorContains(t, upload(t, b), "login: ")
		read(t, b)
		require.EqualValues(t, 3, g.logins.Load())
	})
}

// TestRefusalOfAnybody: what refuses a request without looking at its login says nothing about that.
func TestRefusalOfAnybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{login: loggedIn, answer: func(r *http.Request, authorized bool) int {
			return readable(r, authorized || r.Method == http.MethodPost)
		}}
		b := g.open(t)
		read(t, b)
		time.Sleep(time.Hour)
		require.ErrorIs(t, upload(t, b), fs.ErrPermission)
		g.requests.Store(0)
		read(t, b)
		require.EqualValues(t, 1, g.requests.Load())
		require.EqualValues(t, 1, g.logins.Load())
	})
}

// TestNoLoginIsNeededAnyMore, and what was had for one isn't taken any more.
func TestNoLoginIsNeededAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{answer: readable, login: loggedIn}
		b := g.open(t)
		read(t, b)
		time.Sleep(time.Hour)
		g.answer = func(_ *http.Request, authorized bool) int {
			if authorized {
				return http.StatusForbidden
			}
			return http.StatusNotFound
		}
		read(t, b)
		g.requests.Store(0)
		read(t, b)
		require.EqualValues(t, 1, g.requests.Load())
		require.EqualValues(t, 1, g.logins.Load())
	})
}

// TestAllTokensHaveExpired is of a registry that has come to name another scope meanwhile, so that a second token is remembered,
// and says of what has expired that it is forbidden.
func TestAllTokensHaveExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = time.Hour
		scope := "repository:entries:pull"
		issued := map[string]time.Time{}
		b, err := oci.New("registry.example/entries", &oci.Options{
			Credential: loggedIn,
			Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
				at, ok := issued[token]
				switch {
				case r.URL.Path == "/token":
					token = strings.Join(r.URL.Query()["scope"], " ")
					issued[token] = time.Now()
					_, _ = fmt.Fprintf(w, `{"token":%q}`, token)
				case ok && time.Since(at) > life:
					w.WriteHeader(http.StatusForbidden)
				case ok && strings.Contains(token, scope):
					w.WriteHeader(http.StatusNotFound)
				default:
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="https://registry.example/token",service="x",scope=%q`, scope))
					w.WriteHeader(http.StatusUnauthorized)
				}
				return w.Result(), nil
			}),
		})
		require.NoError(t, err)
		read(t, b)
		scope = "aws"
		read(t, b)
		require.Len(t, issued, 2)
		time.Sleep(2 * life)
		read(t, b)
	})
}

// TestTokenExpiresDuringAnUpload, before the layer is sent: with 401, or as Amazon's registries have it. Gitea's scope is another than
// what was asked for, so that its tokens aren't found at once.
func TestTokenExpiresDuringAnUpload(t *testing.T) {
	for refusal, scope := range map[int]string{http.StatusUnauthorized: "*", http.StatusForbidden: "repository:entries:pull,push"} {
		synctest.Test(t, func(t *testing.T) {
			valid, logins, puts, vain := 1, 0, 0, 0
			b, err := oci.New("registry.example/entries", &oci.Options{
				Credential: loggedIn,
				Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
					w := httptest.NewRecorder()
					sent := r.Header.Get("Authorization")
					switch {
					case r.URL.Path == "/token":
						logins++
						_, _ = fmt.Fprintf(w, `{"token":"%d"}`, valid)
					case sent != fmt.Sprint("Bearer ", valid):
						w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="https://registry.example/token",service="x",scope=%q`, scope))
						if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/") {
							vain++
						}
						status := refusal
						if sent == "" {
							status = http.StatusUnauthorized
						}
						w.WriteHeader(status)
					case r.Method == http.MethodPost:
						w.Header().Set("Location", "/v2/entries/blobs/uploads/1")
						w.WriteHeader(http.StatusAccepted)
						if puts == 0 {
							valid++
							time.Sleep(time.Hour)
						}
					case r.Method == http.MethodPut:
						puts++
						body, err := io.ReadAll(r.Body)
						require.NoError(t, err)
						require.NotEmpty(t, body)
						w.WriteHeader(http.StatusCreated)
					default:
						w.WriteHeader(http.StatusNotFound)
					}
					return w.Result(), nil
				}),
			})
			require.NoError(t, err)
			require.NoError(t, upload(t, b))
			require.Equal(t, 3, puts, "a layer, its configuration, the manifest")
			require.LessOrEqual(t, logins, 3)
			vain = 0
			require.NoError(t, b.Put(t.Context(), key, []byte("abcd"), true))
			require.Zero(t, vain, "a layer is sent once")
		})
	}
}
