package oci_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/backendtest"
	"github.com/modcache/modcache/remote"
	"github.com/modcache/modcache/remote/oci"
)

var key = modcache.Key{1, 2, 3}

// lying starts a registry whose one manifest and blobs are what the test says.
func lying(t *testing.T, manifest any, blob func(http.ResponseWriter, *http.Request)) *oci.Backend {
	t.Helper()
	text, isText := manifest.(string)
	if !isText {
		b, err := json.Marshal(manifest)
		require.NoError(t, err)
		text = string(b)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Header().Set("Content-Length", strconv.Itoa(len(text)))
			_, _ = io.WriteString(w, text)
			return
		}
		blob(w, r)
	}))
	t.Cleanup(s.Close)
	return backend(t, repository(s), nil)
}

func manifestOf(layers ...ocispec.Descriptor) ocispec.Manifest {
	return ocispec.Manifest{Layers: layers}
}

func layerOf(b string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: oci.MediaType, Digest: digest.FromString(b), Size: int64(len(b))}
}

// TestHostileManifest has a registry answer with what isn't a manifest of ours. The entry counts as damaged, so that the next Add
// replaces it.
func TestHostileManifest(t *testing.T) {
	image := layerOf("x")
	image.MediaType = ocispec.MediaTypeImageLayer
	negative := layerOf("x")
	negative.Size = -1
	undigested := layerOf("x")
	undigested.Digest = "../../secret"
	for name, manifest := range map[string]any{
		"an image":       manifestOf(image),
		"no layer":       manifestOf(),
		"two layers":     manifestOf(layerOf("x"), layerOf("y")),
		"negative size":  manifestOf(negative),
		"no digest":      manifestOf(undigested),
		"no JSON":        "<html>",
		"nothing":        "",
		"null":           "null",
		"other JSON":     `[{"layers":1}]`,
		"deep JSON":      strings.Repeat(`[`, 20_000),
		"large":          strings.Repeat(" ", 64<<10) + "{}",
		"larger than it": strings.Repeat(" ", 8<<20),
	} {
		t.Run(name, func(t *testing.T) {
			b := lying(t, manifest, func(http.ResponseWriter, *http.Request) { t.Error("a blob was asked for") })
			_, err := b.Get(t.Context(), key)
			require.Error(t, err)
			if !strings.HasPrefix(name, "larger") { // which oras itself refuses
				require.ErrorIs(t, err, modcache.ErrCorrupt)
				there, err := b.Has(t.Context(), key)
				require.NoError(t, err)
				require.False(t, there, "so that it is written anew")
			}
			s := backendtest.Open(t, b, remote.Options{Signer: backendtest.Generate(t)})
			a, ok, _ := s.Get(t.Context(), key)
			require.False(t, ok)
			require.Nil(t, a)
		})
	}
}

// TestHostileLayer has a registry send another layer than it announced.
func TestHostileLayer(t *testing.T) {
	read := func(layer ocispec.Descriptor, blob func(http.ResponseWriter, *http.Request)) (string, error) {
		r, err := lying(t, manifestOf(layer), blob).Get(t.Context(), key)
		if err != nil {
			return "", err
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		return string(b), err
	}
	send := func(s string, flush bool) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			if flush {
				w.(http.Flusher).Flush() // so that there is no length
			} else {
				w.Header().Set("Content-Length", strconv.Itoa(len(s)))
			}
			_, _ = io.WriteString(w, s)
		}
	}
	for _, sent := range []string{"abcdef", "ab", ""} {
		_, err := read(layerOf("abc"), send(sent, false))
		require.ErrorIs(t, err, modcache.ErrCorrupt)
		there, err := lying(t, manifestOf(layerOf("abc")), send(sent, false)).Has(t.Context(), key)
		require.NoError(t, err)
		require.False(t, there, "so that it is written anew")
	}
	got, err := read(layerOf("abc"), send("abcdef", true))
	require.NoError(t, err)
	require.Equal(t, "abc", got, "no more than was announced")
	_, err = read(layerOf("abcdef"), send("abc", true))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "a cut that looks like the end")
	huge := layerOf("abc")
	huge.Size = 1 << 62
	_, err = read(huge, send("abc", true))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "nothing is allocated for what was announced")
	_, err = read(layerOf("abc"), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = read(layerOf("abc"), func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) })
	require.ErrorContains(t, err, "redirects")

	// Another entry than was asked for, under a digest that is right.
	real := backend(t, repository(inMemory(t)), nil)
	signer := backendtest.Generate(t)
	s := backendtest.Open(t, real, remote.Options{Signer: signer})
	other := modcache.Key{9}
	require.NoError(t, s.Add(t.Context(), other, modcache.NewArtifact([]byte("code"), modcache.Info{})))
	require.NoError(t, s.Flush(t.Context()))
	r, err := real.Get(t.Context(), other)
	require.NoError(t, err)
	entry, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	swapped := backendtest.Open(t, lying(t, manifestOf(layerOf(string(entry))), send(string(entry), false)), remote.Options{Signer: signer})
	_, ok, err := swapped.Get(t.Context(), key)
	require.NoError(t, err)
	require.False(t, ok)
	require.EqualValues(t, 1, swapped.Metrics().Corrupt)
}

// TestHostileStatus says what a store learns of each kind of refusal.
func TestHostileStatus(t *testing.T) {
	var status atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "17")
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, strings.Repeat("no ", 1<<16))
	}))
	defer s.Close()
	b := backend(t, repository(s), nil)
	for code, want := range map[int]error{
		http.StatusNotFound: fs.ErrNotExist, http.StatusUnauthorized: fs.ErrPermission, http.StatusForbidden: fs.ErrPermission,
		http.StatusMethodNotAllowed: fs.ErrPermission, http.StatusRequestEntityTooLarge: modcache.ErrTooLarge,
		http.StatusInternalServerError: nil, http.StatusTeapot: nil,
	} {
		status.Store(int64(code))
		_, err := b.Get(t.Context(), key)
		require.Error(t, err)
		for _, known := range []error{fs.ErrNotExist, fs.ErrPermission, modcache.ErrTooLarge, modcache.ErrCorrupt} {
			require.Equal(t, known == want, errors.Is(err, known), "%d: %v", code, err)
		}
		if code != http.StatusNotFound {
			err = b.Put(t.Context(), key, []byte("entry"), true)
			require.Equal(t, want != nil, errors.Is(err, want), "%d: %v", code, err)
		}
	}
	for _, code := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		status.Store(int64(code))
		_, err := b.Get(t.Context(), key)
		var asks interface{ RetryAfter() time.Duration }
		require.ErrorAs(t, err, &asks)
		require.Equal(t, 17*time.Second, asks.RetryAfter())
	}
}

// TestHostileHang has a registry never answer.
func TestHostileHang(t *testing.T) {
	release := make(chan bool)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}))
	defer s.Close()
	defer close(release)
	b := backend(t, repository(s), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := b.Get(ctx, key)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestHostilePlain has a registry with TLS lead to places without, where a password would be sent in the clear.
func TestHostilePlain(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s was sent, with %q", r.Method, r.URL, r.Header.Get("Authorization"))
	}))
	defer plain.Close()
	for name, handler := range map[string]http.HandlerFunc{
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, plain.URL, http.StatusTemporaryRedirect)
		},
		"a token server": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x"`, plain.URL))
			w.WriteHeader(http.StatusUnauthorized)
		},
		"an upload": func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w.Header().Set("Location", plain.URL+"/upload")
				w.WriteHeader(http.StatusAccepted)
				return
			}
			w.WriteHeader(http.StatusNotFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewTLSServer(handler)
			defer s.Close()
			name := strings.TrimPrefix(s.URL, "https://") + "/example"
			b, err := oci.New(name, &oci.Options{
				Transport:  s.Client().Transport,
				Credential: auth.StaticCredential(strings.TrimPrefix(s.URL, "https://"), auth.Credential{Username: "u", Password: "p"}),
			})
			require.NoError(t, err)
			require.ErrorContains(t, b.Put(t.Context(), key, []byte("entry"), false), "only https is spoken")
		})
	}
}

// guarded puts a name and a password, or a token that is had for them, in front of a registry.
func guarded(t *testing.T, token bool) *httptest.Server {
	t.Helper()
	inner := inMemory(t).Config.Handler
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		known := user == "fleet" && password == "secret"
		switch {
		case token && r.URL.Path == "/token" && known:
			_, _ = io.WriteString(w, `{"token":"`+base64.StdEncoding.EncodeToString([]byte(r.FormValue("scope")))+`"}`)
			return
		case token && r.URL.Path != "/token":
			sent, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			scope, _ := base64.StdEncoding.DecodeString(sent)
			known = strings.HasPrefix(string(scope), "repository:example/modcache:")
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				known = known && (strings.Contains(string(scope), "push") || strings.Contains(string(scope), "delete"))
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="registry"`)
		default:
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		}
		if !known {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Del("WWW-Authenticate")
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// dockerConfig is what docker login leaves.
func dockerConfig(t testing.TB, host, user, password string) {
	t.Helper()
	dir := t.TempDir()
	login := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	text := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, login)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600))
	t.Setenv("DOCKER_CONFIG", dir)
}

func TestAuth(t *testing.T) {
	for name, token := range map[string]bool{"basic": false, "token": true} {
		t.Run(name, func(t *testing.T) {
			s := guarded(t, token)
			host := strings.TrimPrefix(s.URL, "http://")
			dockerConfig(t, host, "fleet", "secret")
			roundTrip(t, backend(t, repository(s), nil))

			dockerConfig(t, host, "fleet", "wrong")
			_, err := backend(t, repository(s), nil).Get(t.Context(), key)
			require.ErrorIs(t, err, fs.ErrPermission)
			require.NotContains(t, err.Error(), "wrong")

			dockerConfig(t, "elsewhere.example", "fleet", "secret")
			_, err = backend(t, repository(s), nil).Get(t.Context(), key)
			require.ErrorIs(t, err, fs.ErrPermission, "a login for another registry")
			t.Setenv("DOCKER_CONFIG", t.TempDir())
			_, err = backend(t, repository(s), nil).Get(t.Context(), key)
			require.ErrorIs(t, err, fs.ErrPermission, "no login")
		})
	}
	s := guarded(t, false)
	dir := t.TempDir()
	token := base64.StdEncoding.EncodeToString([]byte("a-token-alone"))
	text := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, strings.TrimPrefix(s.URL, "http://"), token)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600))
	t.Setenv("DOCKER_CONFIG", dir)
	_, err := backend(t, repository(s), nil).Get(t.Context(), key)
	require.ErrorContains(t, err, "isn't a name and a password")
	require.NotContains(t, err.Error(), "a-token-alone")

	dir = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte("no JSON"), 0o600))
	t.Setenv("DOCKER_CONFIG", dir)
	_, err = oci.New("registry.example/x", nil)
	require.ErrorContains(t, err, "modcache: docker's configuration can't be read")

	_, err = oci.New("https://user:SECRET@registry.example/x", nil)
	require.ErrorContains(t, err, "modcache: repository")
	require.NotContains(t, err.Error(), "SECRET")
}

// roundTrip has one store upload and another one download.
func roundTrip(t *testing.T, b *oci.Backend) {
	t.Helper()
	signer := backendtest.Generate(t)
	writer := backendtest.Open(t, b, remote.Options{Signer: signer})
	code := make([]byte, 1<<20)
	for i := range code {
		code[i] = byte(i * i >> 8)
	}
	_, ok, err := writer.Get(t.Context(), key)
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, writer.Add(t.Context(), key, modcache.NewArtifact(code, modcache.Info{Engine: "e"})))
	require.NoError(t, writer.Flush(t.Context()))
	reader := backendtest.Open(t, b, remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{signer.Public()}}})
	a, ok, err := reader.Get(t.Context(), key)
	require.NoError(t, err)
	require.True(t, ok)
	got, err := a.Bytes()
	require.NoError(t, err)
	require.Equal(t, code, got)
	require.NoError(t, writer.Add(t.Context(), key, a))
	require.NoError(t, writer.Flush(t.Context()))
	require.EqualValues(t, 1, writer.Report().Present)
	require.NoError(t, writer.Delete(t.Context(), key))
	require.NoError(t, writer.Delete(t.Context(), key))
	_, ok, err = reader.Get(t.Context(), key)
	require.NoError(t, err)
	require.False(t, ok)
}

func TestNew(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	for _, name := range []string{"", "x", "registry.example", "registry.example/a:tag", "registry.example/a@sha256:" + strings.Repeat("0", 64), "https://registry.example/a", "registry.example/A"} {
		_, err := oci.New(name, nil)
		require.ErrorContains(t, err, "modcache: repository", name)
	}
	b, err := oci.New("registry.example/a", nil)
	require.NoError(t, err)
	require.NoError(t, b.Close())
}

// TestStorageGetsNoCredentials has a registry lead to another port of its host, by a redirect or for an upload. What answers
// there asks for credentials, in its own name or for a token server of its own, and leads back.
func TestStorageGetsNoCredentials(t *testing.T) {
	text, err := json.Marshal(manifestOf(layerOf("abc")))
	require.NoError(t, err)
	for name, challenge := range map[string]string{
		"none":            "",
		"for a password":  `Basic realm="storage"`,
		"for a token":     `Bearer realm="STORAGE/token",service="x"`,
		"for a new scope": `Bearer realm="STORAGE/token",service="x",scope="repository:other:pull"`,
		"and leads back":  "back",
	} {
		for _, token := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/token=%v", name, token), func(t *testing.T) {
				var asked, returned atomic.Int64
				var registry, storage *httptest.Server
				storage = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					asked.Add(1)
					if r.Header.Get("Authorization") != "" || r.URL.Path == "/token" {
						t.Errorf("%s %s was sent, with %q", r.Method, r.URL, r.Header.Get("Authorization"))
					}
					switch {
					case challenge == "back":
						http.Redirect(w, r, registry.URL+"/back", http.StatusTemporaryRedirect)
					case challenge != "":
						w.Header().Set("WWW-Authenticate", strings.ReplaceAll(challenge, "STORAGE", storage.URL))
						w.WriteHeader(http.StatusUnauthorized)
					case r.Method == http.MethodPut:
						w.WriteHeader(http.StatusCreated)
					default:
						_, _ = io.WriteString(w, "abc")
					}
				}))
				defer storage.Close()
				registry = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					user, password, _ := r.BasicAuth()
					switch known := user == "fleet" && password == "secret"; {
					case r.URL.Path == "/back":
						returned.Add(1)
						if r.Header.Get("Authorization") != "" {
							t.Error("what comes from elsewhere is authorized")
						}
						w.WriteHeader(http.StatusNotFound)
					case token && r.URL.Path == "/token" && known:
						_, _ = io.WriteString(w, `{"token":"t"}`)
					case token && r.Header.Get("Authorization") != "Bearer t":
						w.Header().Set("WWW-Authenticate", `Bearer realm="`+registry.URL+`/token",service="registry"`)
						w.WriteHeader(http.StatusUnauthorized)
					case !token && !known:
						w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
						w.WriteHeader(http.StatusUnauthorized)
					case strings.Contains(r.URL.Path, "/manifests/") && r.Method == http.MethodPut:
						w.WriteHeader(http.StatusCreated)
					case strings.Contains(r.URL.Path, "/manifests/"):
						w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
						_, _ = w.Write(text)
					case r.Method == http.MethodPost:
						w.Header().Set("Location", storage.URL+"/upload")
						w.WriteHeader(http.StatusAccepted)
					case r.Method == http.MethodHead: // the config is there
						w.Header().Set("Content-Length", "2")
					default:
						http.Redirect(w, r, storage.URL, http.StatusTemporaryRedirect)
					}
				}))
				defer registry.Close()
				dockerConfig(t, strings.TrimPrefix(registry.URL, "http://"), "fleet", "secret")
				b := backend(t, repository(registry), nil)
				for range 2 { // also when tokens are remembered
					r, err := b.Get(t.Context(), key)
					put := b.Put(t.Context(), key, []byte("abc"), true)
					switch challenge {
					case "":
						require.NoError(t, err)
						require.NoError(t, r.Close())
						require.NoError(t, put)
					case "back":
						require.ErrorIs(t, err, fs.ErrNotExist)
						require.Error(t, put)
					default:
						require.ErrorIs(t, err, fs.ErrPermission)
						require.ErrorIs(t, put, fs.ErrPermission)
					}
				}
				require.EqualValues(t, 4, asked.Load(), "nothing is asked twice")
				if challenge == "back" {
					require.EqualValues(t, 4, returned.Load())
				}
			})
		}
	}
}

// TestHidesQueries has a registry redirect to storage, which then doesn't answer, or refuses.
func TestHidesQueries(t *testing.T) {
	text, err := json.Marshal(manifestOf(layerOf("abc")))
	require.NoError(t, err)
	for name, answer := range map[string]func() (*http.Response, error){
		"nobody": func() (*http.Response, error) { return nil, errors.New("refused") },
		"403": func() (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusForbidden, Body: http.NoBody}, nil
		},
	} {
		b := backend(t, "registry.example/entries", &oci.Options{
			Credential: func(context.Context, string) (auth.Credential, error) { return auth.EmptyCredential, nil },
			Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				switch {
				case r.URL.Host == "storage.example":
					resp, err := answer()
					if resp != nil {
						resp.Request = r
					}
					return resp, err
				default:
					leading(w, r, text, "https://storage.example/upload?sig=SECRET", "https://user:SECRET@storage.example/layer?sig=SECRET")
				}
				resp := w.Result()
				resp.Request = r
				return resp, nil
			}),
		})
		_, got := b.Get(t.Context(), key)
		_, has := b.Has(t.Context(), key)
		for _, err := range []error{got, has, b.Put(t.Context(), key, []byte("abc"), true)} {
			require.ErrorContains(t, err, "storage.example", name)
			require.NotContains(t, err.Error(), "SECRET", name)
		}
	}
}

// transportFunc answers requests without a connection.
type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A registry may name itself in several ways when it says where an upload goes.
func TestBackendKnowsTheRegistryByAllItsNames(t *testing.T) {
	for location, want := range map[string]error{
		"https://registry.example/upload":      nil,
		"https://registry.example:443/upload":  nil,
		"https://Registry.Example/upload":      nil,
		"https://registry.example:8443/upload": fs.ErrPermission,
		"https://registry.example.org/upload":  fs.ErrPermission,
	} {
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch user, password, _ := r.BasicAuth(); {
			case user != "fleet" || password != "secret":
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				w.WriteHeader(http.StatusUnauthorized)
			case r.Method == http.MethodPost:
				w.Header().Set("Location", location)
				w.WriteHeader(http.StatusAccepted)
			case r.Method == http.MethodPut:
				w.WriteHeader(http.StatusCreated)
			default:
				w.WriteHeader(http.StatusNotFound)
			}
		})
		b, err := oci.New("registry.example/entries", &oci.Options{
			Credential: func(context.Context, string) (auth.Credential, error) {
				return auth.Credential{Username: "fleet", Password: "secret"}, nil
			},
			Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				resp := w.Result()
				resp.Request = r
				return resp, nil
			}),
		})
		require.NoError(t, err)
		require.ErrorIs(t, b.Put(t.Context(), key, []byte("abc"), true), want, location)
	}
}

// leading answers for a registry whose layers are on a host elsewhere, as are uploads.
func leading(w http.ResponseWriter, r *http.Request, manifest []byte, upload, layer string) {
	switch {
	case strings.Contains(r.URL.Path, "/manifests/"):
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Content-Length", strconv.Itoa(len(manifest)))
		_, _ = w.Write(manifest)
	case r.Method == http.MethodPost:
		w.Header().Set("Location", upload)
		w.WriteHeader(http.StatusAccepted)
	default:
		http.Redirect(w, r, layer, http.StatusTemporaryRedirect)
	}
}
