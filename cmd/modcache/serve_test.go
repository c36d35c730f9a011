package main

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/remote"
)

// keypair makes a key with the command and returns its file and public half.
func keypair(t *testing.T) (file string, public remote.PublicKey) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "key")
	o := call("keygen", "-comment", "of this test", file).want(t, exitOK)
	require.True(t, strings.HasSuffix(o.out, " of this test\n"))
	public, err := remote.ParsePublicKey(strings.TrimSpace(o.out))
	require.NoError(t, err)
	return file, public
}

func TestKeygen(t *testing.T) {
	file, public := keypair(t)
	secret, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, call("keygen", "-public", file).want(t, exitOK).out, public.String())
	require.Contains(t, call("keygen", file).want(t, exitFailed).err, "stays as it is")
	again, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, secret, again)
	call("keygen").want(t, exitUsage)
	call("keygen", "-comment", "two\nlines", file+"2").want(t, exitUsage)
	require.NoFileExists(t, file+"2")
	call("keygen", "-public", file+"2").want(t, exitFailed)

	if os.PathSeparator == '/' {
		fi, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), fi.Mode().Perm())
		require.NoError(t, os.Chmod(file, 0o644))
		require.Contains(t, call("keygen", "-public", file).want(t, exitFailed).err, "chmod 600")
	}
	require.NoError(t, os.WriteFile(file+"3", []byte("modcache-private-v1 00 c2VjcmV0"), 0o600))
	require.NotContains(t, call("keygen", "-public", file+"3").want(t, exitFailed).err, "c2VjcmV0")
}

// TestKeyAdvice gives the wrong one of two keys, or none.
func TestKeyAdvice(t *testing.T) {
	file, public := keypair(t)
	cache, _ := warmed(t, 1)
	other := keyringOf(t, public.String()+" # of this test")
	require.NoError(t, os.Chmod(other, 0o644)) // as fits a public key
	for _, args := range [][]string{
		{"keygen", "-public", other}, {"push", "-dir", cache, "-sign", other, "-o", filepath.Join(t.TempDir(), "bundle")}, {"serve", "-sign", other},
	} {
		o := call(args...).want(t, exitFailed)
		require.Contains(t, o.err, "holds a public key", args)
		require.NotContains(t, o.err, "chmod", args)
	}
	require.Contains(t, call("serve", "-dir", cache, "-keyring", file).want(t, exitFailed).err, "keygen -public")
	for _, comment := range []string{"a\rrevoked", "\x1b[2J", "a\u2028b", "\v"} {
		call("keygen", "-comment", comment, file+"2").want(t, exitUsage)
	}
	require.NoFileExists(t, file+"2")

	// A pair through pipes.
	t.Chdir(t.TempDir())
	o := call("keygen", "-comment", "piped", "-").want(t, exitOK)
	require.NoFileExists(t, "-")
	key, err := remote.ParsePrivateKey(o.out)
	require.NoError(t, err)
	require.Equal(t, key.Public().String()+" # piped\n", o.err)
	again := callWith(bg, &streams{in: strings.NewReader(o.out)}, "keygen", "-public", "-").want(t, exitOK)
	require.Equal(t, key.Public().String()+"\n", again.out)
}

// announce passes on the first line that is written to it.
type announce chan string

func (a announce) Write(p []byte) (int, error) {
	a <- string(p)
	return len(p), nil
}

// serving runs a server on a free port and returns its URL.
func serving(t *testing.T, args ...string) (url string) {
	t.Helper()
	url, _, _ = started(t, args...)
	return url
}

// started is serving whose end can be waited for, after which all that it said is in stderr.
func started(t *testing.T, args ...string) (url string, stderr *bytes.Buffer, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(bg)
	said, ended := make(announce, 1), make(chan int, 1)
	stderr = &bytes.Buffer{}
	go func() {
		ended <- run(ctx, append([]string{"serve", "-addr", "127.0.0.1:0"}, args...), &streams{out: said, err: stderr})
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		require.Equal(t, exitOK, <-ended, stderr.String())
	})
	t.Cleanup(stop)
	select {
	case line := <-said:
		return strings.TrimSpace(strings.TrimPrefix(line, "serving ")), stderr, stop
	case code := <-ended:
		ended <- code
		require.FailNow(t, "the server ended", stderr.String())
	}
	return "", nil, nil
}

// fromServer compiles nothing, and takes what is missing from a server.
func fromServer(t *testing.T, url string, o *remote.Options) *modcache.Cache {
	t.Helper()
	// Limits of real networks have no place on a busy test machine.
	o.FirstByte, o.Stall, o.Budget = time.Minute, time.Minute, time.Minute
	store, err := remote.New(url, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	c, err := modcache.New(store, &modcache.Options{RequireHit: true, ReadOnly: true, Retain: -1})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(bg) })
	return c
}

func TestServeSigned(t *testing.T) {
	cache, _ := warmed(t, 2)
	file, public := keypair(t)
	before := entries(t, cache)
	url, stderr, stop := started(t, "-dir", cache, "-sign", file)
	m := modcache.NewModule(wasmtest.Sum(40, 1))
	c := fromServer(t, url, &remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{public}}})
	require.NoError(t, c.Warm(bg, nil, m))
	require.ErrorIs(t, c.Warm(bg, nil, modcache.NewModule(wasmtest.Const(1))), modcache.ErrMiss)
	_, stranger := keypair(t)
	c = fromServer(t, url, &remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{stranger}}})
	require.ErrorIs(t, c.Warm(bg, nil, m), modcache.ErrMiss)

	req, err := http.NewRequest(http.MethodDelete, url+"/"+strings.Repeat("0", 64), nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	_ = resp.Body.Close()
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
	require.Subset(t, entries(t, cache), before)
	call("verify", "-dir", cache).want(t, exitOK)

	resp, err = http.Get(url + "/healthz")
	require.NoError(t, err)
	_ = resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	stop()
	said := stderr.String()
	for _, text := range []string{"level=INFO msg=request method=GET", "status=200", "method=DELETE", "status=405", `msg="ending:`, "msg=ended"} {
		require.Contains(t, said, text)
	}
}

func TestServeUploads(t *testing.T) {
	needsCompiler(t)
	dir := filepath.Join(t.TempDir(), "entries")
	tokens, keyring := filepath.Join(t.TempDir(), "tokens"), filepath.Join(t.TempDir(), "keyring")
	file, public := keypair(t)
	require.NoError(t, os.WriteFile(tokens, []byte("# of the build\none\n\n two \n"), 0o600))
	require.NoError(t, os.WriteFile(keyring, []byte(public.String()+"\n"), 0o600))
	url := serving(t, "-dir", dir, "-write-tokens", tokens, "-keyring", keyring)

	signer, err := readKeyFile(file)
	require.NoError(t, err)
	m := modcache.NewModule(wasmtest.Sum(40, 1))
	upload := func(token string, signer *remote.PrivateKey) error {
		store, err := remote.New(url, &remote.Options{Signer: signer, Header: http.Header{"Authorization": {"Bearer " + token}},
			Retries: -1, FirstByte: time.Minute, Stall: time.Minute, Budget: time.Minute})
		require.NoError(t, err)
		defer store.Close()
		c, err := modcache.New(store, nil)
		require.NoError(t, err)
		defer c.Close(bg)
		r, err := c.NewRuntime(bg, nil)
		require.NoError(t, err)
		defer r.Close(bg)
		_, err = r.Compile(bg, m)
		require.NoError(t, err)
		return store.Flush(bg)
	}
	require.Error(t, upload("three", signer))
	require.Error(t, upload("# of the build", signer))
	stranger, err := remote.GenerateKey()
	require.NoError(t, err)
	require.Error(t, upload("one", stranger))
	require.Empty(t, entries(t, dir))
	require.NoError(t, upload("two", signer))
	require.NotEmpty(t, entries(t, dir))
	c := fromServer(t, url, &remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{public}}})
	require.NoError(t, c.Warm(bg, nil, m))
}

// TestServeEndsWhileTheStoreHangs says that something may be lost, and waits no longer.
func TestServeEndsWhileTheStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan bool)
		start := time.Now()
		err := flushAtEnd(t.Context(), &storetest.Fake{OnFlush: func(context.Context) error { <-answer; return nil }})
		require.ErrorContains(t, err, "may not be durable")
		require.Equal(t, endPatience, time.Since(start))
		close(answer)
	})
}

func TestServeUsage(t *testing.T) {
	cache, _ := warmed(t, 1)
	file, _ := keypair(t)
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, []byte(" \n"), 0o600))
	for _, args := range [][]string{
		{"x"}, {"-sign", file, "-write-tokens", empty}, {"-sign", file, "-max-entry", "1GB"}, {"-log", "x"}, {"-tls-cert", file}, {"-max-downloads", "-1"},
	} {
		call(append([]string{"serve", "-dir", cache}, args...)...).want(t, exitUsage)
	}
	call("serve").want(t, exitUsage)
	private := filepath.Join(t.TempDir(), "private")
	secret, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(private, secret, 0o600))
	for _, args := range [][]string{
		{"-sign", empty}, {"-sign", empty + "2"}, {"-keyring", empty}, {"-keyring", private}, {"-read-tokens", empty}, {"-write-tokens", empty},
		{"-sign", file, "-addr", "256.0.0.1:x"}, {"-sign", file, "-addr", "127.0.0.1:0", "-tls-cert", empty, "-tls-key", empty},
	} {
		o := call(append([]string{"serve", "-dir", cache}, args...)...).want(t, exitFailed)
		require.NotContains(t, o.err, strings.Fields(string(secret))[2])
	}
	call("serve", "-dir", filepath.Join(cache, "none"), "-sign", file).want(t, exitFound)
	call("serve", "-dir", filepath.Dir(file)).want(t, exitFailed)
}

// TestLossy waits once for what nobody reads, and writes what the line was then.
func TestLossy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := io.Pipe()
		w := lossy{out, bounded.NewLane(1)}
		start := time.Now()
		line := []byte("line\n")
		for range 300 {
			n, err := w.Write(line)
			require.NoError(t, err)
			require.Equal(t, 5, n)
		}
		require.Equal(t, time.Second, time.Since(start))
		copy(line, "else\n")
		got := make([]byte, len(line))
		_, err := io.ReadFull(in, got)
		require.NoError(t, err)
		require.Equal(t, "line\n", string(got))
	})
}

// TestLoggerIsLossy in either form.
func TestLoggerIsLossy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, form := range []string{"text", "json"} {
			in, out := io.Pipe()
			v := &server{log: form}
			log, err := v.logger(out)
			require.NoError(t, err)
			start := time.Now()
			for range 300 {
				log.Info("request")
			}
			require.Equal(t, time.Second, time.Since(start))
			require.NoError(t, in.Close())
		}
	})
}

// TestKeyFileOfRoot is one that Kubernetes has made of a secret, for a group of the process's.
func TestKeyFileOfRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: key files of root and of others, which takes root")
	}
	file, _ := keypair(t)
	for _, c := range []struct {
		uid  int
		mode fs.FileMode
		ok   bool
	}{{0, 0o440, true}, {0, 0o640, true}, {0, 0o444, false}, {0, 0o660, false}, {0, 0o700, true}, {10001, 0o400, true}, {10001, 0o700, true}, {10001, 0o440, false}} {
		require.NoError(t, os.Chown(file, c.uid, 10001))
		require.NoError(t, os.Chmod(file, c.mode))
		_, err := readKeyFile(file)
		require.Equal(t, c.ok, err == nil, "%d %v: %v", c.uid, c.mode, err)
	}
}
