package oci_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/stretchr/testify/require"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/backendtest"
	"github.com/modcache/modcache/remote"
	"github.com/modcache/modcache/remote/oci"
)

// renewing is a registry whose password changes.
type renewing struct {
	token   bool // is had for the password
	expired int  // is the status for what was valid once
	denied  bool // to all

	in       http.Handler
	lock     sync.Mutex
	password string
	tokens   int // how often all of them have become invalid
	requests int // since then
}

func (g *renewing) set(password string) {
	g.lock.Lock()
	defer g.lock.Unlock()
	g.password, g.requests = password, 0
	g.tokens++
}

func (g *renewing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.lock.Lock()
	user, password, basic := r.BasicAuth()
	sent, authorized := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	g.requests++
	valid := user == "fleet" && password == g.password
	token := fmt.Sprint("token-", g.tokens)
	if g.token && r.URL.Path != "/token" {
		valid = authorized && sent == token
	}
	g.lock.Unlock()
	switch {
	case valid && r.URL.Path == "/token":
		_, _ = io.WriteString(w, `{"token":"`+token+`"}`)
	case valid && g.denied:
		w.WriteHeader(http.StatusForbidden)
	case valid:
		g.in.ServeHTTP(w, r)
	case g.expired != http.StatusUnauthorized && (basic || authorized) && r.URL.Path != "/token":
		w.WriteHeader(g.expired)
	case g.token:
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="registry"`)
		w.WriteHeader(http.StatusUnauthorized)
	default:
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// loginFile is what docker login leaves in a directory.
func loginFile(t testing.TB, dir, host, password string) {
	t.Helper()
	login := base64.StdEncoding.EncodeToString([]byte("fleet:" + password))
	text := fmt.Sprintf(`{"auths":{"other.example":{"auth":"b3RoZXI6b3RoZXI="},%q:{"auth":%q}}}`, host, login)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json.new"), []byte(text), 0o600))
	require.NoError(t, os.Rename(filepath.Join(dir, "config.json.new"), filepath.Join(dir, "config.json")))
}

// TestLoginIsRenewed has a registry's password change, and docker's configuration with it, which isn't there at first.
func TestLoginIsRenewed(t *testing.T) {
	for name, token := range map[string]bool{"basic": false, "token": true} {
		t.Run(name, func(t *testing.T) {
			g := &renewing{token: token, expired: http.StatusUnauthorized, in: inMemory(t).Config.Handler, password: "first"}
			s := httptest.NewServer(g)
			t.Cleanup(s.Close)
			host := strings.TrimPrefix(s.URL, "http://")
			dir := filepath.Join(t.TempDir(), "docker")
			file := filepath.Join(dir, "config.json")
			t.Setenv("DOCKER_CONFIG", dir)
			b := backend(t, repository(s), nil)
			o := remote.Options{Signer: backendtest.Generate(t), FirstByte: time.Minute, Budget: time.Minute, AbsentFor: -1}
			store := backendtest.Open(t, b, o)
			found := func() bool {
				_, ok, err := store.Get(t.Context(), key)
				if err != nil {
					require.ErrorIs(t, err, fs.ErrPermission)
				}
				return ok
			}
			require.False(t, found(), "nobody has logged in")

			require.NoError(t, os.Mkdir(dir, 0o700))
			loginFile(t, dir, host, "first")
			require.NoError(t, store.Add(t.Context(), key, modcache.NewArtifact([]byte("code"), modcache.Info{})))
			require.NoError(t, store.Flush(t.Context()))
			require.True(t, found())
			// It is read when the registry asks, and not for each request.
			require.NoError(t, os.Remove(file))
			require.True(t, found())

			g.set("second")
			require.False(t, found(), "nobody has logged in again")
			loginFile(t, dir, host, "second")
			require.True(t, found(), "the next lookup")
			g.set("third")
			loginFile(t, dir, host, "third")
			require.True(t, found(), "even the first lookup")

			// Somebody writes the file just now.
			g.set("fourth")
			require.NoError(t, os.WriteFile(file, []byte(`{"auths":{`), 0o600))
			_, err := b.Get(t.Context(), key)
			require.ErrorContains(t, err, "docker's configuration can't be read")
			require.NotErrorIs(t, err, fs.ErrPermission, "after which an upload isn't tried again")
			loginFile(t, dir, host, "fourth")
			require.NoError(t, b.Put(t.Context(), modcache.Key{7}, []byte("entry"), false))
			require.True(t, found())
		})
	}
}

// TestExpiredLogin has registries say in other ways than with a 401 that a login isn't valid any more.
func TestExpiredLogin(t *testing.T) {
	for name, g := range map[string]*renewing{
		"Amazon's":        {expired: http.StatusForbidden},
		"tokens":          {token: true, expired: http.StatusForbidden},
		"Amazon's public": {token: true, expired: http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g.in = registry.New(registry.Logger(log.New(io.Discard, "", 0)))
				g.set("first")
				password := "first"
				b, err := oci.New("registry.example/entries", &oci.Options{
					PlainHTTP: true,
					Credential: func(_ context.Context, host string) (auth.Credential, error) {
						require.Equal(t, "registry.example", host)
						return auth.Credential{Username: "fleet", Password: password}, nil
					},
					Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
						require.Equal(t, "registry.example", r.URL.Host)
						w := httptest.NewRecorder()
						if r.Body == nil {
							r.Body = http.NoBody
						}
						g.ServeHTTP(w, r)
						resp := w.Result()
						resp.Request = r
						return resp, nil
					}),
				})
				require.NoError(t, err)
				put := func(n byte) error { return b.Put(t.Context(), modcache.Key{n}, []byte{n}, false) }
				require.NoError(t, put(1))

				time.Sleep(12 * time.Hour)
				password = "second"
				g.set(password)
				require.NoError(t, put(1), "which asks first, with HEAD")
				time.Sleep(12 * time.Hour)
				password = "third"
				g.set(password)
				r, err := b.Get(t.Context(), modcache.Key{1})
				require.NoError(t, err)
				require.NoError(t, r.Close())

				// What isn't allowed, whoever asks, isn't asked for with another login each time.
				g.denied = true
				asks := func() int {
					g.requests = 0
					_, err := b.Get(t.Context(), key)
					require.ErrorIs(t, err, fs.ErrPermission)
					return g.requests
				}
				require.Equal(t, 1, asks())
				time.Sleep(time.Minute)
				require.Greater(t, asks(), 2)
				require.Equal(t, 1, asks())
				g.denied = false
				_, err = b.Get(t.Context(), key)
				require.ErrorIs(t, err, fs.ErrNotExist)
			})
		})
	}
}

// TestExpiredLinks has storage, to which a registry redirects and sends uploads, refuse what once was valid. No other login helps.
func TestExpiredLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text, err := json.Marshal(manifestOf(layerOf("abc")))
		require.NoError(t, err)
		requests := 0
		b, err := oci.New("registry.example/entries", &oci.Options{
			Credential: auth.StaticCredential("registry.example", auth.Credential{Username: "fleet", Password: "secret"}),
			Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
				requests++
				w := httptest.NewRecorder()
				_, _, authorized := r.BasicAuth()
				switch {
				case r.URL.Host == "storage.example":
					require.False(t, authorized)
					w.WriteHeader(http.StatusForbidden)
				case !authorized:
					w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
					w.WriteHeader(http.StatusUnauthorized)
				default:
					leading(w, r, text, "https://storage.example/upload", "https://storage.example/layer")
				}
				resp := w.Result()
				resp.Request = r
				return resp, nil
			}),
		})
		require.NoError(t, err)
		_, err = b.Get(t.Context(), key)
		require.ErrorIs(t, err, fs.ErrPermission)
		time.Sleep(time.Hour)
		requests = 0
		_, err = b.Get(t.Context(), key)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.Equal(t, 3, requests, "the manifest, the layer, and where that is")
		require.ErrorIs(t, b.Put(t.Context(), key, []byte("abc"), true), fs.ErrPermission)
		require.Equal(t, 5, requests)
	})
}

// TestWhereDockersConfigurationIs has no home, and a path that means another place later.
func TestWhereDockersConfigurationIs(t *testing.T) {
	g := &renewing{expired: http.StatusUnauthorized, in: inMemory(t).Config.Handler, password: "secret"}
	s := httptest.NewServer(g)
	t.Cleanup(s.Close)
	dir := t.TempDir()
	loginFile(t, dir, strings.TrimPrefix(s.URL, "http://"), "secret")
	t.Chdir(dir)
	t.Setenv("DOCKER_CONFIG", ".")
	b := backend(t, repository(s), nil)
	t.Chdir(t.TempDir())
	_, err := b.Get(t.Context(), key)
	require.ErrorIs(t, err, fs.ErrNotExist, "it is logged in")

	require.NoError(t, os.WriteFile("config.json", []byte("\n"), 0o600))
	for _, dir := range []string{".", filepath.Join("config.json", "below")} {
		t.Setenv("DOCKER_CONFIG", dir)
		backend(t, repository(s), nil)
	}

	for _, name := range []string{"DOCKER_CONFIG", "HOME", "USERPROFILE", "home"} {
		t.Setenv(name, "")
	}
	backend(t, repository(s), nil)
}

// TestTransportOfOthers: programs put what traces requests in the place of net/http's transport.
func TestTransportOfOthers(t *testing.T) {
	theirs := http.DefaultTransport
	http.DefaultTransport = struct{ http.RoundTripper }{theirs}
	defer func() { http.DefaultTransport = theirs }()
	b := backend(t, repository(inMemory(t)), nil)
	_, err := b.Get(t.Context(), key)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// TestUnanswered: a socket or a certificate that isn't there isn't an entry that isn't there.
func TestUnanswered(t *testing.T) {
	for _, missing := range []error{syscall.ENOENT, syscall.EACCES} {
		b, err := oci.New("registry.example/entries", &oci.Options{Transport: transportFunc(func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", missing)}
		})})
		require.NoError(t, err)
		_, get := b.Get(t.Context(), key)
		_, has := b.Has(t.Context(), key)
		for _, err := range []error{get, has, b.Delete(t.Context(), key)} {
			require.ErrorContains(t, err, missing.Error())
			require.NotErrorIs(t, err, fs.ErrNotExist)
			require.NotErrorIs(t, err, fs.ErrPermission)
		}
	}
}

// TestLoginIsNobodysOwn: who asked first may go away, and leave a login to others that goes on, or one that hangs for good.
func TestLoginIsNobodysOwn(t *testing.T) {
	g := &renewing{token: true, expired: http.StatusUnauthorized, in: inMemory(t).Config.Handler, password: "secret"}
	s := httptest.NewServer(g)
	t.Cleanup(s.Close)
	logins := make(chan chan struct{})
	o := &oci.Options{PlainHTTP: true, Credential: func(context.Context, string) (auth.Credential, error) {
		goOn := make(chan struct{})
		logins <- goOn
		<-goOn // whatever the context says
		return auth.Credential{Username: "fleet", Password: "secret"}, nil
	}}
	get := func(b *oci.Backend, ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := b.Get(ctx, key)
			done <- err
		}()
		return done
	}
	next := func(login <-chan chan struct{}) chan struct{} {
		select {
		case goOn := <-login:
			return goOn
		case <-time.After(time.Minute):
			require.Fail(t, "nobody logs in")
			return nil
		}
	}

	b := backend(t, repository(s), o)
	ctx, cancel := context.WithCancel(t.Context())
	first := get(b, ctx)
	login := next(logins)
	second := get(b, t.Context())
	time.Sleep(50 * time.Millisecond) // to let it wait for that login
	cancel()
	require.ErrorIs(t, <-first, context.Canceled)
	close(login)
	select {
	case login := <-logins: // it was too late
		close(login)
		require.ErrorIs(t, <-second, fs.ErrNotExist)
	case err := <-second:
		require.ErrorIs(t, err, fs.ErrNotExist)
	}

	// One that nobody waits for is of use to the next.
	b = backend(t, repository(s), o)
	ctx, cancel = context.WithCancel(t.Context())
	first = get(b, ctx)
	login = next(logins)
	cancel()
	require.ErrorIs(t, <-first, context.Canceled)
	close(login)
	require.ErrorIs(t, <-get(b, t.Context()), fs.ErrNotExist)

	reset := oci.SetLoginTime(50 * time.Millisecond)
	b = backend(t, repository(s), o)
	first = get(b, t.Context())
	hung := next(logins)
	defer close(hung)
	require.ErrorContains(t, <-first, "login: ")
	reset()
	second = get(b, t.Context())
	close(next(logins))
	require.ErrorIs(t, <-second, fs.ErrNotExist)
}

// basic returns a Backend at a registry that has nothing for those who log in.
func basic(t *testing.T, login auth.CredentialFunc) *oci.Backend {
	t.Helper()
	return answering(t, http.StatusNotFound, login)
}

// answering returns a Backend at a registry that has a status for those who log in.
func answering(t *testing.T, status int, login auth.CredentialFunc) *oci.Backend {
	t.Helper()
	b, err := oci.New("registry.example/entries", &oci.Options{
		Credential: login,
		Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			if _, _, authorized := r.BasicAuth(); authorized {
				w.WriteHeader(status)
			} else {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				w.WriteHeader(http.StatusUnauthorized)
			}
			return w.Result(), nil
		}),
	})
	require.NoError(t, err)
	return b
}

// TestLoginThatHangs keeps others for some seconds, and brings its token in the end. If the next hangs too, others wait for that one.
func TestLoginThatHangs(t *testing.T) {
	t.Run("once", func(t *testing.T) { testLoginThatHangs(t, 1, 5*time.Second) })
	t.Run("twice", func(t *testing.T) { testLoginThatHangs(t, 2, 20*time.Second) })
}

func testLoginThatHangs(t *testing.T, hang int32, wait time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		var logins atomic.Int32
		start := time.Now()
		b := basic(t, func(ctx context.Context, _ string) (auth.Credential, error) {
			if logins.Add(1) <= hang {
				time.Sleep(20 * time.Second)
			}
			return auth.Credential{Username: "fleet", Password: "secret"}, ctx.Err()
		})
		get := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := b.Get(ctx, key)
			return err
		}
		for !errors.Is(get(), fs.ErrNotExist) {
		}
		require.InDelta(t, wait.Seconds(), time.Since(start).Seconds(), 1)
		require.EqualValues(t, 2, logins.Load())
		time.Sleep(time.Minute)
		require.ErrorIs(t, get(), fs.ErrNotExist)
		require.EqualValues(t, 2, logins.Load())
	})
}

// TestLoginAfterManyThatHang: what a helper of docker's has left behind holds its login for ever, and not those of a helper that works.
func TestLoginAfterManyThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		defer close(hang)
		var works atomic.Bool
		var started atomic.Int32
		login := func(context.Context, string) (auth.Credential, error) {
			if started.Add(1); !works.Load() {
				<-hang
			}
			return auth.Credential{Username: "fleet", Password: "secret"}, nil
		}
		b := basic(t, login)
		get := func() error {
			_, err := b.Get(t.Context(), key)
			return err
		}
		many := func(hours time.Duration) {
			for start := time.Now(); time.Since(start) < hours*time.Hour; time.Sleep(5 * time.Second) {
				require.ErrorContains(t, get(), "login: ")
			}
		}
		many(1)
		works.Store(true)
		time.Sleep(30 * time.Minute)
		require.ErrorIs(t, get(), fs.ErrNotExist)

		works.Store(false)
		b = basic(t, login)
		started.Store(0)
		many(24)
		require.EqualValues(t, 64, started.Load(), "processes, perhaps")
	})
}

// TestLoginsAfterRefusalsAreBounded where a registry answers 403 to what was remembered, and each second login never ends.
func TestLoginsAfterRefusalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		defer close(hang)
		var started, hung atomic.Int32
		b := answering(t, http.StatusForbidden, func(context.Context, string) (auth.Credential, error) {
			if started.Add(1)%2 == 0 {
				hung.Add(1)
				<-hang
			}
			return auth.Credential{Username: "fleet", Password: "secret"}, nil
		})
		for start := time.Now(); time.Since(start) < 24*time.Hour; time.Sleep(70 * time.Second) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			_, err := b.Get(ctx, key)
			require.Error(t, err)
			cancel()
		}
		require.EqualValues(t, 64, hung.Load())
	})
}

// TestLoginStaysAtTheTokenServer has that redirect logins, within itself and elsewhere.
func TestLoginStaysAtTheTokenServer(t *testing.T) {
	password := auth.Credential{Username: "fleet", Password: "SECRET"}
	identity := auth.Credential{RefreshToken: "SECRET"}
	for _, status := range []int{http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		for name, login := range map[string]auth.Credential{"password": password, "identity token": identity} {
			for _, away := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d/%s/away=%v", status, name, away), func(t *testing.T) {
					followed := 0
					registry := func(r *http.Request) *httptest.ResponseRecorder {
						w := httptest.NewRecorder()
						switch {
						case r.URL.Path == "/login" && away:
							http.Redirect(w, r, "https://registry.example:8443/token", status)
						case r.URL.Path == "/login":
							http.Redirect(w, r, "/token", status)
						case r.URL.Path == "/token":
							followed++
							if text, err := io.ReadAll(r.Body); away {
								require.NoError(t, err)
								require.NotContains(t, string(text), "SECRET")
								require.Empty(t, r.Header.Get("Authorization"))
							}
							_, _ = io.WriteString(w, `{"token":"t","access_token":"t"}`)
						case r.Header.Get("Authorization") == "Bearer t":
							w.WriteHeader(http.StatusNotFound)
						default:
							w.Header().Set("WWW-Authenticate", `Bearer realm="https://registry.example/login",service="x"`)
							w.WriteHeader(http.StatusUnauthorized)
						}
						return w
					}
					b, err := oci.New("registry.example/entries", &oci.Options{
						Credential: func(context.Context, string) (auth.Credential, error) { return login, nil },
						Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
							if r.Body == nil {
								r.Body = http.NoBody
							}
							resp := registry(r).Result()
							resp.Request = r
							return resp, nil
						}),
					})
					require.NoError(t, err)
					_, err = b.Get(t.Context(), key)
					if away && login == identity && status != http.StatusFound {
						require.ErrorContains(t, err, "redirects a login to another host")
						require.NotContains(t, err.Error(), "SECRET")
						require.Zero(t, followed)
						return
					}
					require.ErrorIs(t, err, fs.ErrNotExist)
					require.Equal(t, 1, followed)
				})
			}
		}
	}
}

// failing is a registry whose service for tokens answers with the status.
func failing(t *testing.T, status int) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/token" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(s.Close)
	return s
}

// TestLoginThatFails isn't an entry that there isn't.
func TestLoginThatFails(t *testing.T) {
	s := httptest.NewServer(&renewing{expired: http.StatusUnauthorized, in: inMemory(t).Config.Handler, password: "secret"})
	t.Cleanup(s.Close)
	for name, c := range map[string]struct {
		server *httptest.Server
		err    error
	}{
		"a secret that isn't mounted": {s, fs.ErrNotExist},
		"a secret of somebody else":   {s, fs.ErrPermission},
		"no service for tokens":       {failing(t, http.StatusNotFound), nil},
		"a service that is odd":       {failing(t, http.StatusRequestEntityTooLarge), nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := backend(t, repository(c.server), &oci.Options{Credential: func(context.Context, string) (auth.Credential, error) {
				return auth.Credential{Username: "fleet", Password: "secret"}, c.err
			}})
			_, get := b.Get(t.Context(), key)
			_, has := b.Has(t.Context(), key)
			for _, err := range []error{get, has, b.Delete(t.Context(), key)} {
				require.ErrorContains(t, err, "login: ")
				require.NotErrorIs(t, err, fs.ErrNotExist)
				require.NotErrorIs(t, err, fs.ErrPermission)
				require.NotErrorIs(t, err, modcache.ErrTooLarge)
			}
		})
	}
}

// TestLoginsAreBounded: a registry may name another scope each time.
func TestLoginsAreBounded(t *testing.T) {
	long := strings.Repeat("x", 64<<10)
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			_, _ = fmt.Fprintf(w, `{"token":"%d%s"}`, n, long)
		case r.Header.Get("Authorization") != "":
			w.WriteHeader(http.StatusNotFound)
		default:
			n++
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="registry",scope="repository:other%d:pull"`, r.Host, n))
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(s.Close)
	b := backend(t, repository(s), &oci.Options{Credential: func(context.Context, string) (auth.Credential, error) {
		return auth.Credential{Username: "fleet", Password: "secret"}, nil
	}})
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var before uint64
	for i := range 300 {
		if i == 20 {
			before = heap()
		}
		_, err := b.Get(t.Context(), key)
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
	require.Greater(t, n, 200)
	require.Less(t, heap(), before+8<<20)
	runtime.KeepAlive(b)
}
