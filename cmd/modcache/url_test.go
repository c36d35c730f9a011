package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/environ"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/remote"
)

// fleetServer is a server that takes what a key has signed, from whoever has the token.
func fleetServer(t *testing.T, token string) (url, signKey, keyring string) {
	t.Helper()
	for _, name := range []string{"MODCACHE_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION",
		"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY", "http_proxy"} {
		t.Setenv(name, "")
	}
	file, public := keypair(t)
	h, err := remote.NewHandler(modcache.NewMemory(nil), &remote.HandlerOptions{
		Keyring: remote.Keyring{Keys: []remote.PublicKey{public}}, ReadTokens: []string{"reader"}, WriteTokens: []string{token},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = h.Close() })
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL, file, keyringOf(t, public.String()+"\n")
}

// objectServer keeps whatever is put, for those whom allow lets in.
func objectServer(t *testing.T, allow func(*http.Request) bool) (url string, objects func() map[string]string) {
	t.Helper()
	var mu sync.Mutex
	m := make(map[string]string)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, there := m[r.URL.Path]
		switch {
		case !allow(r):
			w.WriteHeader(http.StatusForbidden)
		case r.Method == http.MethodPut:
			b, _ := io.ReadAll(r.Body)
			m[r.URL.Path] = string(b)
		case !there:
			w.WriteHeader(http.StatusNotFound)
		case r.Method == http.MethodGet:
			_, _ = io.WriteString(w, body)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() map[string]string {
		mu.Lock()
		defer mu.Unlock()
		return m
	}
}

func keyringOfKey(t *testing.T, file string) string {
	t.Helper()
	return keyringOf(t, call("keygen", "-public", file).want(t, exitOK).out)
}

// TestURL takes the code of modules from one directory to another through a server.
func TestURL(t *testing.T) {
	cache, files := warmed(t, 3)
	url, key, ring := fleetServer(t, "writer")
	t.Setenv("MODCACHE_TOKEN", "writer\n")
	o := call("push", "-dir", cache, "-sign", key, url).want(t, exitOK)
	require.Regexp(t, `^3 uploaded, .*B, 0 present\n$`, o.out)
	o = call("push", url, "-dir", cache, "-sign", key).want(t, exitOK)
	require.Equal(t, "0 uploaded, 0 B, 3 present\n", o.out)

	t.Setenv("MODCACHE_TOKEN", "reader")
	to := filepath.Join(t.TempDir(), "cache")
	pull := append([]string{"pull", "-dir", to, "-keyring", ring, url}, files...)
	require.Equal(t, "3 found, 0 missing\n", call(append(pull, "-n")...).want(t, exitOK).out)
	require.NoDirExists(t, to)
	require.Equal(t, "3 found, 0 missing, 3 entries stored\n", call(pull...).want(t, exitOK).out)
	require.Equal(t, "3 found, 0 missing, 0 entries stored\n", call(pull...).want(t, exitOK).out)
	call(append([]string{"warm", "-require", "-dir", to}, files...)...).want(t, exitOK)

	// Of a whole directory, and by keys.
	to2 := filepath.Join(t.TempDir(), "cache")
	call("pull", "-dir", to2, "-keyring", ring, url, filepath.Dir(files[0])).want(t, exitOK)
	require.Len(t, entries(t, to2), 3)
	to3 := filepath.Join(t.TempDir(), "cache")
	name := strings.TrimSuffix(filepath.Base(entries(t, cache)[0]), ".v1")
	o = call("pull", "-dir", to3, "-keyring", ring, url, name, strings.Repeat("1", 64)).want(t, exitFound)
	require.Equal(t, "1 found, 1 missing, 1 entry stored\n", o.out)
	require.Contains(t, o.err, strings.Repeat("1", 64)+"  is not there")
	require.Len(t, entries(t, to3), 1)

	o = call(append([]string{"pull", "-dir", to3, "-max-entry", "100B", "-keyring", ring, url}, files...)...).want(t, exitFound)
	require.Equal(t, 2, strings.Count(o.err, ".wasm  artifact is too large"), o.err) // one is there

	o = call(append([]string{"doctor", "-keyring", ring, url}, files...)...).want(t, exitOK)
	require.Contains(t, o.out, "answers, and lets us read")
	require.Equal(t, 3, strings.Count(o.out, "is there: a runtime loads it"))
	require.Contains(t, call("doctor", "-keyring", ring, url).want(t, exitOK).out, "doesn't list")
	missing := filepath.Join(t.TempDir(), "missing.wasm")
	require.NoError(t, os.WriteFile(missing, wasmtest.Sum(40, 77), 0o600))
	require.Contains(t, call("doctor", "-keyring", ring, url, missing).want(t, exitFound).out, "missing.wasm is not there for")
	o = call("pull", "-dir", to3, "-keyring", ring, url, files[0], missing).want(t, exitFound)
	require.Contains(t, o.err, "missing.wasm  is not there")
	require.Contains(t, o.err, "1 of 2 could not be had")

	// What is no module doesn't end it.
	dir, to4 := t.TempDir(), filepath.Join(t.TempDir(), "cache")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.wasm"), []byte("a page that says 404"), 0o600))
	require.NoError(t, os.Rename(files[0], filepath.Join(dir, "b.wasm")))
	o = call("pull", "-dir", to4, "-keyring", ring, url, dir).want(t, exitFound)
	require.Equal(t, "1 found, 1 missing, 1 entry stored\n", o.out)
	require.Contains(t, o.err, "a.wasm: not a WebAssembly module\n")
}

// TestURLWarm compiles for a server, and leaves no directory.
func TestURLWarm(t *testing.T) {
	url, key, ring := fleetServer(t, "writer")
	src, files := modules(t, 3)
	base := t.TempDir()
	t.Setenv("MODCACHE_DIR", filepath.Join(base, "cache"))
	t.Setenv("MODCACHE_TOKEN", "writer")
	warm := []string{"warm", "-to", url, "-sign", key, src}
	require.Contains(t, call(warm...).want(t, exitOK).out, "3 compiled, 0 present, 0 failed")
	require.Contains(t, call(warm...).want(t, exitOK).out, "0 compiled, 3 present, 0 failed")
	require.NoDirExists(t, filepath.Join(base, "cache"))
	call("pull", "-n", "-keyring", ring, url, src).want(t, exitOK)

	// Who may only read is told so after the first module.
	for i, file := range files {
		require.NoError(t, os.WriteFile(file, wasmtest.Sum(40, int32(78+i)), 0o600))
	}
	t.Setenv("MODCACHE_TOKEN", "reader")
	o := call(append(warm, "-jobs", "1")...).want(t, exitFailed)
	require.Contains(t, o.err, "status 40")
	require.NotContains(t, o.err, "see above", "no other was compiled")
	require.Empty(t, o.out)
	require.Contains(t, o.err, "does MODCACHE_TOKEN")
	t.Setenv("MODCACHE_TOKEN", "writer")
	require.Contains(t, call(append(warm, "-drop-in")...).want(t, exitOK).out, "3 compiled")
	require.Contains(t, call(append(warm, "-drop-in")...).want(t, exitOK).out, "3 present")
}

// TestURLTrust offers what others have signed, or nobody.
func TestURLTrust(t *testing.T) {
	cache, files := warmed(t, 2)
	url, objects := objectServer(t, func(*http.Request) bool { return true })
	fleetServer(t, "writer") // for the environment
	key, _ := keypair(t)
	stranger, _ := keypair(t)
	call("push", "-dir", cache, "-sign", key, url).want(t, exitOK)
	to := filepath.Join(t.TempDir(), "cache")
	o := call("pull", "-dir", to, "-keyring", keyringOfKey(t, stranger), url, files[0], files[1]).want(t, exitFound)
	require.Contains(t, o.err, "trusted is only what is signed by")
	require.Empty(t, entries(t, to))
	require.Contains(t, call("doctor", "-keyring", keyringOfKey(t, stranger), url, files[0]).want(t, exitFound).out, "trusted is only what is signed by")

	for path, body := range objects() {
		objects()[path] = body[:len(body)-3] + "abc"
	}
	o = call("pull", "-dir", to, "-keyring", keyringOfKey(t, key), url, files[0]).want(t, exitFound)
	require.Empty(t, entries(t, to))
	require.Contains(t, o.err, filepath.Base(files[0])+"  ")
	// What is damaged there is replaced.
	require.Contains(t, call("warm", "-to", url, "-sign", key, files[0]).want(t, exitOK).out, "1 compiled")
	call("pull", "-dir", to, "-keyring", keyringOfKey(t, key), url, files[0]).want(t, exitOK)

	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("of this test, and long"), 0o600))
	call("push", "-dir", cache, "-bundle-key-file", secret, url+"/sealed").want(t, exitOK)
	call("pull", "-dir", to, "-bundle-key-file", secret, url+"/sealed", files[0], files[1]).want(t, exitOK)
	require.Len(t, entries(t, to), 2)
}

// TestURLLayouts looks where entries go, and who asks.
func TestURLLayouts(t *testing.T) {
	cache, files := warmed(t, 1)
	fleetServer(t, "writer")
	key, _ := keypair(t)
	ring := keyringOfKey(t, key)
	name := strings.TrimSuffix(filepath.Base(entries(t, cache)[0]), ".v1")
	round := func(url string, objects func() map[string]string, path string) {
		t.Helper()
		call("push", "-dir", cache, "-sign", key, url).want(t, exitOK)
		require.Contains(t, objects(), path)
		call("pull", "-n", "-keyring", ring, url, files[0]).want(t, exitOK)
	}
	basic := func(r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		return user == "me" && password == "secret"
	}
	t.Setenv("MODCACHE_TOKEN", "not this one")
	url, objects := objectServer(t, basic)
	url = strings.Replace(url, "://", "://me:secret@", 1)
	round(url+"/a/b/", objects, "/a/b/"+name[:2]+"/"+name)
	round("bazel+"+url+"/x", objects, "/x/ac/"+name)

	url, objects = objectServer(t, func(r *http.Request) bool {
		return strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKID/") &&
			strings.Contains(r.Header.Get("Authorization"), "/eu-west-9/s3/aws4_request") && r.Header.Get("X-Amz-Security-Token") == "session"
	})
	t.Setenv("AWS_ENDPOINT_URL", url)
	t.Setenv("AWS_DEFAULT_REGION", "eu-west-9")
	o := call("push", "-dir", cache, "-sign", key, "s3://bucket/fleet").want(t, exitFailed)
	require.Contains(t, o.err, "AWS_SECRET_ACCESS_KEY aren't set")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKID")
	call("push", "-dir", cache, "-sign", key, "s3://bucket/fleet").want(t, exitUsage)
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hush")
	t.Setenv("AWS_SESSION_TOKEN", "session")
	round("s3://bucket/fleet", objects, "/bucket/fleet/"+name[:2]+"/"+name)
	round("s3://bucket", objects, "/bucket/"+name[:2]+"/"+name)
	t.Setenv("AWS_REGION", "us-west-1")
	o = call("pull", "-n", "-keyring", ring, "s3://bucket/fleet", files[0]).want(t, exitFailed)
	require.Contains(t, o.err, "AWS_REGION")
	require.NotContains(t, o.err, "hush")

	p, err := parsePlace("s3://bucket/fleet/", func(name string) string { return map[string]string{"AWS_REGION": "eu-west-1"}[name] })
	require.NoError(t, err)
	require.Equal(t, "https://s3.eu-west-1.amazonaws.com", p.url)
	require.Equal(t, remote.S3{Bucket: "bucket", Region: "eu-west-1", Prefix: "fleet/"}, p.layout)
}

// TestURLWrong gives URLs that are none, and servers that aren't there or refuse.
func TestURLWrong(t *testing.T) {
	cache, files := warmed(t, 2)
	url, key, ring := fleetServer(t, "writer")
	to := filepath.Join(t.TempDir(), "cache")
	for _, c := range []struct {
		says string
		args []string
	}{
		{"begin with https://", []string{"push", "-dir", cache, "-sign", key, "ftp://host/x"}},
		{"a URL begins with https://", []string{"push", "-dir", cache, "-sign", key, "cache.example/x"}},
		{"isn't a URL", []string{"warm", "-to", "user:hush@cache.example/x", "-sign", key, files[0]}},
		{"has to have a host", []string{"push", "-dir", cache, "-sign", key, "https:///x"}},
		{"nothing behind the path", []string{"push", "-dir", cache, "-sign", key, "https://user:hush@host/x?y=z"}},
		{"can't be parsed", []string{"push", "-dir", cache, "-sign", key, "https://user:hu%sh@host/x"}},
		{"an @ in the path", []string{"push", "-dir", cache, "-sign", key, "https://hush/x@host"}},
		{"an @ in the path", []string{"push", "-dir", cache, "-sign", key, "https://user:hush://x@host"}},
		{"want s3://bucket/prefix", []string{"push", "-dir", cache, "-sign", key, "s3://user:/hush@bucket"}},
		{"want s3://bucket/prefix", []string{"push", "-dir", cache, "-sign", key, "s3://id/hush@bucket"}},
		{"there is no such file", []string{"pull", "-dir", to, "-keyring", ring, "https:/user:hush@cache.example/x"}},
		{"there is no such file", []string{"pull", "-dir", to, "-keyring", ring, " https://user:hu/sh@cache.example/x"}},
		{"a URL begins with https://", []string{"push", "-dir", cache, "-sign", key, "user:hush@cache.example/x"}},
		{"a URL begins with https://", []string{"pull", "-dir", to, "-keyring", ring, "user:hush@cache.example/x"}},
		{"a URL begins with https://", []string{"doctor", "-keyring", ring, "user:hush@cache.example/x", files[0]}},
		{"has to be signed: give -sign", []string{"push", "-dir", cache, url}},
		{"has to be signed: give a -keyring", []string{"pull", "-dir", to, url, files[0]}},
		{"has to be signed: give a -keyring", []string{"doctor", url, files[0]}},
		{"has to be signed: give -sign", []string{"warm", "-to", url, files[0]}},
		{"one URL at a time", []string{"push", "-dir", cache, "-sign", key, url, url}},
		{"-o is for a bundle", []string{"push", "-dir", cache, "-sign", key, "-o", to, url}},
		{"doesn't list what it has", []string{"pull", "-dir", to, "-keyring", ring, url}},
		{"it excludes -dir", []string{"doctor", "-dir", cache, "-keyring", ring, url}},
		{"for a server", []string{"doctor", "-dir", cache, "-keyring", ring}},
		{"excludes -dir", []string{"warm", "-dir", cache, "-to", url, "-sign", key, files[0]}},
		{"-require and -to", []string{"warm", "-require", "-to", url, "-sign", key, files[0]}},
		{"name it with -to", []string{"warm", "-dir", to, "-sign", key, files[0]}},
		{"S3.Bucket", []string{"push", "-dir", cache, "-sign", key, "s3://Bucket_/x"}},
		{"want s3://bucket/prefix", []string{"push", "-dir", cache, "-sign", key, "s3://id:hush@bucket"}},
	} {
		o := call(c.args...).want(t, exitUsage)
		require.Contains(t, o.err, c.says, c.args)
		require.NotContains(t, o.err, "hush", c.args)
	}
	require.NoDirExists(t, to)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "welcome") }))
	defer page.Close()
	for url, says := range map[string]string{
		url: "status 401 Unauthorized", "http://" + l.Addr().String(): "refused", page.URL: "is the path in the URL right?",
	} {
		for _, args := range [][]string{
			{"push", "-dir", cache, "-sign", key, url}, {"pull", "-dir", to, "-keyring", ring, url, files[0]}, {"warm", "-to", url, "-sign", key, files[0]},
		} {
			o := call(args...).want(t, exitFailed)
			require.Contains(t, o.err, says, args)
			require.NotContains(t, o.out, "compiled", args)
			if strings.HasPrefix(says, "status") {
				require.Contains(t, o.err, "does MODCACHE_TOKEN", args)
			}
		}
		require.Contains(t, call("doctor", "-keyring", ring, url, files[0]).want(t, exitFound).out, says)
	}
	require.NoDirExists(t, to)
}

// TestURLsWhereNoneMayBe are refused, and no password in them is shown.
func TestURLsWhereNoneMayBe(t *testing.T) {
	const url, mistyped = "https://u:SECRET@host/x", "https:/u:SECRET@host/x"
	for _, command := range []string{"warm", "bundle", "key", "ls", "rm", "verify"} {
		for _, operand := range []string{url, "u:SECRET@host"} {
			require.NotContains(t, call(command, operand).want(t, exitUsage).err, "SECRET", command)
		}
	}
	for _, url := range []string{url, mistyped} {
		for _, args := range [][]string{{"warm", "x.wasm"}, {"push"}, {"pull", "x"}, {"stat"}, {"trim"}, {"doctor"}} {
			o := call(append(args, "-dir", url)...)
			require.NotEqual(t, exitOK, o.code, args)
			require.NotContains(t, o.err+o.out, "SECRET", args)
		}
	}
	for _, args := range [][]string{{url}, {"help", url}, {"push", "-sign", url, "https://host/x"}, {"push", "-o", url}, {"bundle", "-o", url, "x.wasm"}, {"push", "-o", mistyped}, {"bundle", "-o", mistyped, "x.wasm"}, {"ls", "-key-file", mistyped}, {"trim", "-max-bytes", url}, {"pull", "-mode", url}} {
		o := call(args...)
		require.NotEqual(t, exitOK, o.code, args)
		require.NotContains(t, o.err+o.out, "SECRET", args)
	}
	for _, variable := range []string{environ.Mode, environ.Dir, environ.MaxBytes} {
		t.Setenv(variable, mistyped)
		for _, args := range [][]string{{"env"}, {"ls"}, {"doctor"}} {
			o := call(args...)
			require.NotContains(t, o.err+o.out, "SECRET", "%s %v", variable, args)
		}
		t.Setenv(variable, url)
		for _, args := range [][]string{{"env"}, {"env", "-json"}, {"ls"}, {"doctor"}, {"trim"}} {
			o := call(args...)
			require.NotContains(t, o.err+o.out, "SECRET", "%s %v", variable, args)
		}
		t.Setenv(variable, "")
	}
}
