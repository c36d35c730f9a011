package remote_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/remote"
)

func hijack(w http.ResponseWriter) net.Conn {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	return c
}

// raw answers with bytes as they are and closes the connection.
func raw(w http.ResponseWriter, b string) {
	c := hijack(w)
	_, _ = io.WriteString(c, b)
	_ = c.Close()
}

func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// wrongs is what a server can do wrong with a GET. A sound entry is b, one of another
// key is other.
var wrongs = map[string]func(w http.ResponseWriter, r *http.Request, b, other []byte){
	"empty body":      func(w http.ResponseWriter, _ *http.Request, _, _ []byte) {},
	"html":            func(w http.ResponseWriter, _ *http.Request, _, _ []byte) { fmt.Fprint(w, "<html>please log in</html>") },
	"no content":      func(w http.ResponseWriter, _ *http.Request, _, _ []byte) { w.WriteHeader(204) },
	"partial content": func(w http.ResponseWriter, _ *http.Request, b, _ []byte) { w.WriteHeader(206); _, _ = w.Write(b) },
	"one byte":        func(w http.ResponseWriter, _ *http.Request, b, _ []byte) { _, _ = w.Write(b[:1]) },
	"half a header":   func(w http.ResponseWriter, _ *http.Request, b, _ []byte) { _, _ = w.Write(b[:100]) },
	"header only":     func(w http.ResponseWriter, _ *http.Request, b, _ []byte) { _, _ = w.Write(b[:300]) },
	"half":            func(w http.ResponseWriter, _ *http.Request, b, _ []byte) { _, _ = w.Write(b[:len(b)/2]) },
	"all but a byte":  func(w http.ResponseWriter, _ *http.Request, b, _ []byte) { _, _ = w.Write(b[:len(b)-1]) },
	"one byte more":   func(w http.ResponseWriter, _ *http.Request, b, _ []byte) { _, _ = w.Write(append(b, 0)) },
	"twice":           func(w http.ResponseWriter, _ *http.Request, b, _ []byte) { _, _ = w.Write(append(b, b...)) },
	"flipped header":  func(w http.ResponseWriter, _ *http.Request, b, _ []byte) { b[150] ^= 4; _, _ = w.Write(b) },
	"flipped body":    func(w http.ResponseWriter, _ *http.Request, b, _ []byte) { b[len(b)-9] ^= 4; _, _ = w.Write(b) },
	"swapped":         func(w http.ResponseWriter, _ *http.Request, _, other []byte) { _, _ = w.Write(other) },
	"gzipped": func(w http.ResponseWriter, _ *http.Request, b, _ []byte) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = z.Write(b)
		_ = z.Close()
	},
	"longer than it says": func(w http.ResponseWriter, _ *http.Request, b, _ []byte) {
		raw(w, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b)-5, b))
	},
	"shorter than it says": func(w http.ResponseWriter, _ *http.Request, b, _ []byte) {
		raw(w, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b)+5, b))
	},
	"petabytes": func(w http.ResponseWriter, _ *http.Request, b, _ []byte) {
		raw(w, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000\r\n\r\n"+string(b))
	},
	"not http":     func(w http.ResponseWriter, _ *http.Request, _, _ []byte) { raw(w, "220 mail ESMTP\r\n") },
	"reset before": func(w http.ResponseWriter, _ *http.Request, _, _ []byte) { reset(hijack(w)) },
	"reset in the middle": func(w http.ResponseWriter, _ *http.Request, b, _ []byte) {
		c := hijack(w)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b[:len(b)/2])
		reset(c)
	},
	"reset in a chunk": func(w http.ResponseWriter, _ *http.Request, b, _ []byte) {
		_, _ = w.Write(b[:len(b)/2])
		_ = http.NewResponseController(w).Flush()
		reset(hijackAfterWrite(w))
	},
	"endless head": func(w http.ResponseWriter, r *http.Request, _, _ []byte) {
		c := hijack(w)
		defer c.Close()
		fmt.Fprint(c, "HTTP/1.1 200 OK\r\n")
		for line := "X-Padding: " + strings.Repeat("x", 4000) + "\r\n"; ; {
			if _, err := io.WriteString(c, line); err != nil {
				return
			}
		}
	},
	"endless body": func(w http.ResponseWriter, _ *http.Request, _, _ []byte) {
		for zeros := make([]byte, 1<<16); ; {
			if _, err := w.Write(zeros); err != nil {
				return
			}
		}
	},
	"hangs": func(_ http.ResponseWriter, r *http.Request, _, _ []byte) { <-r.Context().Done() },
	"hangs after 200": func(w http.ResponseWriter, r *http.Request, _, _ []byte) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	},
	"hangs in the middle": func(w http.ResponseWriter, r *http.Request, b, _ []byte) {
		_, _ = w.Write(b[:len(b)/2])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	},
	"crawls": func(w http.ResponseWriter, r *http.Request, b, _ []byte) {
		for i := range b {
			_, _ = w.Write(b[i : i+1])
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(50 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	},
	"redirects in circles": func(w http.ResponseWriter, r *http.Request, _, _ []byte) {
		http.Redirect(w, r, r.URL.Path+"/", http.StatusFound)
	},
	"redirects nowhere": func(w http.ResponseWriter, r *http.Request, _, _ []byte) { w.WriteHeader(302) },
	"redirects to a file": func(w http.ResponseWriter, r *http.Request, _, _ []byte) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	},
	"429": func(w http.ResponseWriter, _ *http.Request, _, _ []byte) { w.WriteHeader(429) },
	"429 with a time": func(w http.ResponseWriter, _ *http.Request, _, _ []byte) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(429)
	},
	"503": func(w http.ResponseWriter, _ *http.Request, _, _ []byte) { w.WriteHeader(503) },
	"503 with a date": func(w http.ResponseWriter, _ *http.Request, _, _ []byte) {
		w.Header().Set("Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(503)
	},
	"503 for ages": func(w http.ResponseWriter, _ *http.Request, _, _ []byte) {
		w.Header().Set("Retry-After", "99999999999999999999")
		w.WriteHeader(503)
	},
	"500 with a long page": func(w http.ResponseWriter, _ *http.Request, _, _ []byte) {
		w.WriteHeader(500)
		_, _ = w.Write(make([]byte, 1<<20))
	},
	"403": func(w http.ResponseWriter, _ *http.Request, _, _ []byte) { w.WriteHeader(403) },
}

// hijackAfterWrite takes the connection of a response that has begun.
func hijackAfterWrite(w http.ResponseWriter) net.Conn {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return c
}

// newHostile starts a server that does wrong with what is uploaded to it and
// nothing else.
func newHostile(t *testing.T, wrong func(w http.ResponseWriter, r *http.Request, b, other []byte), entryFor func(modcache.Key) []byte) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, err := modcache.ParseKey(path.Base(strings.TrimRight(r.URL.Path, "/")))
		if err != nil {
			w.WriteHeader(400)
			return
		}
		other := key
		other[0] ^= 1
		wrong(w, r, entryFor(key), entryFor(other))
	}))
	t.Cleanup(srv.Close)
	return srv
}

// TestStoreHostileServers compiles modules while a server does whatever it can do wrong.
// Each compile succeeds and what it ran is right; nothing is left behind.
func TestStoreHostileServers(t *testing.T) {
	signer := generate(t)
	o := remote.Options{Signer: signer}
	before := settled(t)
	for name, wrong := range wrongs {
		t.Run(name, func(t *testing.T) {
			srv := newHostile(t, wrong, func(k modcache.Key) []byte { return entry(t, o, k, 20_000) })
			s, err := remote.New(srv.URL, &remote.Options{
				Keyring: remote.Keyring{Keys: []remote.PublicKey{signer.Public()}},
				Budget:  500 * time.Millisecond,
			})
			require.NoError(t, err)
			compileThrice(t, s)
			m := s.Metrics()
			require.NotZero(t, m.Corrupt+m.Errors+s.Report().TooLarge, "the metrics say why: %+v", m)
			require.Zero(t, m.Hits)
			require.NoError(t, s.Close())
			srv.CloseClientConnections()
			srv.Close()
		})
	}
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before }, time.Minute, 10*time.Millisecond)
}

// settled returns the number of goroutines once those of other tests have ended.
func settled(t *testing.T) int {
	t.Helper()
	n := runtime.NumGoroutine()
	require.Eventually(t, func() bool {
		last := n
		n = runtime.NumGoroutine()
		return n == last
	}, time.Minute, 20*time.Millisecond)
	return n
}

// needCompiler skips the test where wazero only interprets.
func needCompiler(t *testing.T, rt *modcache.Runtime) {
	t.Helper()
	if rt.Key(modcache.NewModule(nil)) == (modcache.Key{}) {
		t.Skip("wazero has no compiler for this platform")
	}
}

// compileThrice compiles and runs three modules through a Cache over s.
func compileThrice(t *testing.T, s modcache.Store) {
	t.Helper()
	ctx := context.Background()
	c, err := modcache.New(s, &modcache.Options{ReadOnly: true})
	require.NoError(t, err)
	rt, err := c.NewRuntime(ctx, wazero.NewRuntimeConfig())
	require.NoError(t, err)
	needCompiler(t, rt)
	for i := range 3 {
		mod, err := rt.InstantiateWithConfig(ctx, wasmtest.Const(int32(40+i)), wazero.NewModuleConfig().WithName(strconv.Itoa(i)))
		require.NoError(t, err)
		got, err := mod.ExportedFunction("f").Call(ctx)
		require.NoError(t, err)
		require.Equal(t, []uint64{uint64(40 + i)}, got)
	}
	require.NoError(t, rt.Close(ctx))
	require.NoError(t, c.Close(ctx))
}

// TestStoreDeadAddresses asks where nobody is, or nobody answers.
func TestStoreDeadAddresses(t *testing.T) {
	hung, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer hung.Close()                                        // it accepts in the kernel alone
	gone := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} // one that was ours may soon be another's
	before := settled(t)
	for _, addr := range []net.Addr{hung.Addr(), gone} {
		s, err := remote.New("http://"+addr.String(), &remote.Options{Signer: generate(t), Pause: time.Minute})
		require.NoError(t, err, "a server that is down keeps nothing from starting")
		compileThrice(t, s)
		r := s.Report()
		require.EqualValues(t, 1, s.Metrics().Errors)
		require.EqualValues(t, 1, r.Pauses)
		require.NotZero(t, r.Unavailable)
		require.NoError(t, s.Close())
	}
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before }, time.Minute, 10*time.Millisecond)
}

// TestStoreTruncation cuts an entry at each length class, by its announced length and
// by the connection.
func TestStoreTruncation(t *testing.T) {
	o := remote.Options{Signer: generate(t)}
	b := entry(t, o, key(1), 600_000) // three chunks
	for _, n := range []int{0, 1, 7, 8, 143, 144, 160, 300, 400, len(b) / 3, len(b) / 2, len(b) - 2, len(b) - 1} {
		for name, announced := range map[string]int{"stored short": n, "cut": len(b)} {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				raw(w, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", announced, b[:n]))
			}))
			s := open(t, srv.URL, patient(o))
			a, ok, err := s.Get(t.Context(), key(1))
			require.Nil(t, a)
			require.False(t, ok)
			m := s.Metrics()
			if name == "stored short" {
				require.NoError(t, err)
				require.Equal(t, [2]uint64{1, 0}, [2]uint64{m.Corrupt, m.Errors}, n)
			} else {
				require.Error(t, err, "a cut says nothing about what is stored")
				require.Equal(t, [2]uint64{0, 1}, [2]uint64{m.Corrupt, m.Errors}, n)
			}
			srv.Close()
		}
	}
}

// TestStoreNothingIsDecompressedUnverified serves bombs: signed by nobody, and claimed by
// gzip.
func TestStoreNothingIsDecompressedUnverified(t *testing.T) {
	mine := remote.Options{Signer: generate(t)}
	theirs := remote.Options{Signer: generate(t)}
	zeros := make([]byte, 32<<20)
	for i := range len(zeros) / 1000 {
		zeros[i*1000] = byte(i * i) // a chunk of nothing else is kept as it is
	}
	bomb := entryOf(t, theirs, key(1), zeros, info)
	require.Less(t, len(bomb), 1<<20)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(bomb) }))
	defer srv.Close()
	s := open(t, srv.URL, patient(mine))
	require.Nil(t, get(t, s, key(1)))
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	require.Nil(t, get(t, s, key(1)))
	runtime.ReadMemStats(&m1)
	require.Less(t, m1.TotalAlloc-m0.TotalAlloc, uint64(4<<20))

	// A trusted signer's is as long as it says, and bounded by MaxSize.
	limited := patient(theirs)
	limited.MaxSize = 1 << 20
	s = open(t, srv.URL, limited)
	require.Nil(t, get(t, s, key(1)))
	require.EqualValues(t, 1, s.Report().TooLarge)
}

// TestStoreRevokedKey refuses what a revoked key has signed, though it is in the keyring.
func TestStoreRevokedKey(t *testing.T) {
	old, young := generate(t), generate(t)
	f := newFake()
	f.entries[key(1)] = entry(t, remote.Options{Signer: old}, key(1), 10)
	ring := remote.Keyring{Keys: []remote.PublicKey{old.Public(), young.Public()}}
	s := over(t, f, remote.Options{Keyring: ring})
	require.NotNil(t, get(t, s, key(1)), "while keys rotate, both are trusted")
	require.NoError(t, s.Close())

	ring.Revoked = []remote.KeyID{old.Public().ID()}
	s = over(t, f, remote.Options{Keyring: ring, Signer: young})
	defer s.Close()
	require.Nil(t, get(t, s, key(1)))
	require.EqualValues(t, 1, s.Report().Untrusted)
	_, err := remote.NewWithBackend(f, "", &remote.Options{Keyring: ring, Signer: old})
	require.ErrorContains(t, err, "revoked")
}

// TestStoreTrustsNobody starts with a keyring whose only key is revoked, and has misses, without a request.
func TestStoreTrustsNobody(t *testing.T) {
	old := generate(t)
	ring, err := remote.ParseKeyring([]byte(old.Public().String() + "\nrevoked " + old.Public().ID().String()))
	require.NoError(t, err)
	f, told := newFake(), &events{}
	f.entries[key(1)] = entry(t, remote.Options{Signer: old}, key(1), 10)
	s := over(t, f, remote.Options{Keyring: ring, OnEvent: told.take})
	require.Nil(t, get(t, s, key(1)))
	require.ErrorIs(t, s.Add(t.Context(), key(2), modcache.NewArtifact([]byte("code"), modcache.Info{})), modcache.ErrReadOnly)
	require.Empty(t, f.took())
	degraded := told.of(modcache.EventDegraded)
	require.Len(t, degraded, 1)
	require.ErrorContains(t, degraded[0].Err, "revokes all of its keys")
	require.Equal(t, modcache.ReasonAuth, told.of(modcache.EventMiss)[0].Reason)
	require.NoError(t, s.Close())

	told = &events{}
	fleet, err := remote.OpenFleet(t.TempDir(), "http://127.0.0.1:1", &remote.FleetOptions{
		Remote: remote.Options{Keyring: ring}, Cache: modcache.Options{OnEvent: told.take, IgnoreEnv: true},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, fleet.Close(context.Background())) }()
	degraded = slices.DeleteFunc(told.of(modcache.EventDegraded), func(e modcache.Event) bool { return !strings.Contains(e.Err.Error(), "revokes all of its keys") })
	require.Len(t, degraded, 1)
}

// TestStoreCredentialsStay follows redirects to another host without what is secret.
func TestStoreCredentialsStay(t *testing.T) {
	o := remote.Options{Signer: generate(t)}
	b := entry(t, o, key(1), 1000)
	var seen http.Header
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		_, _ = w.Write(b)
	}))
	defer other.Close()
	var asked http.Header
	target := other.URL
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Header.Clone()
		http.Redirect(w, r, target, http.StatusTemporaryRedirect)
	}))
	defer srv.Close()
	o.Header = http.Header{"Authorization": {"Bearer x"}, "X-Api-Key": {"secret"}}
	s := open(t, srv.URL, patient(o))
	require.NotNil(t, get(t, s, key(1)))
	require.Equal(t, "secret", asked.Get("X-Api-Key"))
	require.Empty(t, seen.Get("Authorization")+seen.Get("X-Api-Key"))

	o.Header = nil
	o.Layout = remote.S3{Bucket: "bucket", PathStyle: true, Credentials: static("access", "secret", "session")}
	s = open(t, srv.URL, patient(o))
	seen = nil
	_, _, err := s.Get(t.Context(), key(1))
	require.ErrorContains(t, err, "put it into the URL")
	require.NotEmpty(t, asked.Get("X-Amz-Security-Token"))
	require.Nil(t, seen, "a signature is for its own host, and a new one for the same service")

	o.Layout = nil
	s = open(t, strings.Replace(srv.URL, "http://", "http://user:password@", 1), patient(o))
	require.NotNil(t, get(t, s, key(1)))
	require.Contains(t, asked.Get("Authorization"), "Basic ")
	require.Empty(t, seen.Get("Authorization"))
	target = "http://127.0.0.1:1/"
	_, _, err = s.Get(t.Context(), key(1))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "password")

	secure := httptest.NewTLSServer(http.RedirectHandler(other.URL, http.StatusFound))
	defer secure.Close()
	o.Client = secure.Client()
	s = open(t, secure.URL, patient(o))
	_, _, err = s.Get(t.Context(), key(1))
	require.ErrorContains(t, err, "redirect from https to http")
}

// TestStoreHeaderStays follows redirects to another host, port or scheme without the
// Header, however its names are written, and with it within one.
func TestStoreHeaderStays(t *testing.T) {
	for target, same := range map[string]bool{
		"http://cache.example/x":      true,
		"http://cache.example:80/x":   true,
		"https://cache.example/x":     false,
		"http://cache.example:8080/x": false,
		"http://www.cache.example/x":  false,
		"http://other.example/x":      false,
		"http://other.example/back":   false, // which sends it back
	} {
		var asked, followed http.Header
		o := patient(remote.Options{Signer: generate(t)})
		o.Header = http.Header{"authorization": {"Bearer x"}, "x-api-key": {"secret"}, "X-Own": {"secret"}, "COOKIE": {"secret"}, "user-agent": {"modcache test"}}
		o.Client = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			resp := &http.Response{StatusCode: 404, Header: http.Header{}, Body: http.NoBody, Request: r}
			switch r.URL.Path {
			case "/x":
				followed = r.Header.Clone()
			case "/back":
				resp.StatusCode = 307
				resp.Header.Set("Location", "http://cache.example/x")
			default:
				asked = r.Header.Clone()
				resp.StatusCode = 307
				resp.Header.Set("Location", target)
			}
			return resp, nil
		})}
		s := open(t, "http://cache.example", o)
		require.Nil(t, get(t, s, key(1)))
		for _, name := range []string{"Authorization", "X-Api-Key", "X-Own", "Cookie"} {
			require.NotEmpty(t, asked.Get(name))
			require.Equal(t, same, followed.Get(name) != "", "%s at %s", name, target)
		}
		require.Equal(t, same, strings.Contains(fmt.Sprint(followed), "secret"))
		require.Equal(t, same, followed.Get("Referer") != "", "the path may be a secret too")
		require.Equal(t, "modcache test", followed.Get("User-Agent"))
		require.Equal(t, "identity", followed.Get("Accept-Encoding"))
	}
}

// TestStoreRedirectedPut doesn't take the answer to a GET for that to its PUT.
func TestStoreRedirectedPut(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			http.Redirect(w, r, "/", http.StatusFound)
		case r.URL.Path != "/":
			w.WriteHeader(404)
		}
	}))
	defer srv.Close()
	o := patient(remote.Options{Signer: generate(t)})
	o.Retries = -1
	s := open(t, srv.URL, o)
	require.NoError(t, add(t, s, key(1), 10))
	require.ErrorContains(t, s.Flush(t.Context()), "PUT was redirected and became GET")
}

// TestStoreUsersClient goes through the client it is given.
func TestStoreUsersClient(t *testing.T) {
	o := patient(remote.Options{Signer: generate(t)})
	o.Client = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		return nil, errors.New("no network today")
	})}
	s := open(t, "https://cache.example", o)
	_, _, err := s.Get(t.Context(), key(1))
	require.ErrorContains(t, err, "no network today")
	require.Nil(t, o.Client.CheckRedirect, "the caller's client isn't changed")
}

// TestStoreUnanswered: a secret, certificate or socket that isn't there isn't an entry that isn't there.
func TestStoreUnanswered(t *testing.T) {
	for _, missing := range []error{syscall.ENOENT, syscall.EACCES, syscall.EEXIST} {
		unasked := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", missing)}
		})}
		for name, o := range map[string]remote.Options{
			"plain": {Client: unasked},
			"bazel": {Client: unasked, Layout: remote.BazelCAS},
			"s3":    {Client: unasked, Layout: remote.S3{Bucket: "bucket"}},
			"credentials": {Layout: remote.S3{Bucket: "bucket", Credentials: func(context.Context) (remote.Credentials, error) {
				return remote.Credentials{}, &os.PathError{Op: "open", Path: "secret", Err: missing}
			}}},
		} {
			t.Run(fmt.Sprint(name, missing), func(t *testing.T) {
				o.Signer = generate(t)
				s := open(t, "https://cache.example", patient(o))
				_, _, err := s.Get(t.Context(), key(1))
				require.ErrorContains(t, err, missing.Error())
				require.ErrorContains(t, s.Delete(t.Context(), key(1)), missing.Error())
				require.Zero(t, s.Report().Absent)
				require.Zero(t, s.Report().Refused)
			})
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func static(access, secret, session string) func(context.Context) (remote.Credentials, error) {
	return func(context.Context) (remote.Credentials, error) {
		return remote.Credentials{AccessKey: access, SecretKey: secret, SessionToken: session}, nil
	}
}

// TestRedirectErrorsHideTheURL has a server redirect to a signed URL that can't be reached.
func TestRedirectErrorsHideTheURL(t *testing.T) {
	for _, to := range []string{"http://127.0.0.1:1/bucket/x?X-Amz-Signature=SIGNATURE", "http://user:SIGNATURE@127.0.0.1:1/SIGNATURE"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		}))
		var said []string
		k, err := remote.GenerateKey()
		require.NoError(t, err)
		s, err := remote.New(server.URL, patient(remote.Options{Signer: k, OnEvent: func(e modcache.Event) {
			if e.Err != nil {
				said = append(said, e.Err.Error())
			}
		}}))
		require.NoError(t, err)
		_, _, err = s.Get(context.Background(), modcache.Key{1})
		require.Error(t, err)
		said = append(said, err.Error())
		require.Contains(t, err.Error(), "http://127.0.0.1:1/…")
		for _, text := range said {
			require.NotContains(t, text, "SIGNATURE")
		}
		require.NoError(t, s.Close())
		server.Close()
	}
}
