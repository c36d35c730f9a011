package oci_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/backendtest"
	"github.com/modcache/modcache/remote"
)

const registryConfig = `
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %s}
  delete: {enabled: true}
http: {addr: %s, secret: test}
auth: {htpasswd: {realm: registry, path: %s}}
`

const login = "fleet:$2a$04$zwDKf0Q1RT8tukG2rh7ZMevIGdZMRPh6SQwgqCsWZrm1htWCGUN3u\n" // the password is "secret"

// dockerRegistry starts the registry that docker comes with, with one user.
func dockerRegistry(t testing.TB) string {
	t.Helper()
	if os.Getenv("MODCACHE_SERVERS") == "" {
		t.Skip("SKIPPED: set MODCACHE_SERVERS=1 to test against real servers")
	}
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skipf("SKIPPED: no docker-registry here, run .ci/remote-servers: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	addr, dir := l.Addr().String(), t.TempDir()
	users, config := filepath.Join(dir, "htpasswd"), filepath.Join(dir, "config.yml")
	require.NoError(t, os.WriteFile(users, []byte(login), 0o600))
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, registryConfig, filepath.Join(dir, "data"), addr, users), 0o600))
	var out bytes.Buffer
	cmd := exec.Command(bin, "serve", config)
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("docker-registry said:\n%s", out.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + addr + "/v2/")
		if err == nil {
			_ = resp.Body.Close()
			return addr
		}
		require.Empty(t, ended, "docker-registry ended: %v", err)
		require.True(t, time.Now().Before(deadline), "docker-registry doesn't answer: %v", err)
	}
}

func TestServerDockerRegistry(t *testing.T) {
	addr := dockerRegistry(t)
	dockerConfig(t, addr, "fleet", "secret")
	b := backend(t, addr+"/example/modcache", nil)
	roundTrip(t, b)

	dockerConfig(t, addr, "fleet", "wrong")
	s := backendtest.Open(t, backend(t, addr+"/example/modcache", nil), remote.Options{Signer: backendtest.Generate(t)})
	_, _, err := s.Get(t.Context(), key)
	require.ErrorContains(t, err, "401", "this server checks passwords")
	require.EqualValues(t, 1, s.Report().Refused)
	require.NoError(t, s.Add(t.Context(), key, modcache.NewArtifact([]byte("code"), modcache.Info{})))
	require.ErrorContains(t, s.Flush(t.Context()), "401")
}

// TestServerDockerRegistryFirstUploads has the first entries of a repository come at once.
func TestServerDockerRegistryFirstUploads(t *testing.T) {
	addr := dockerRegistry(t)
	dockerConfig(t, addr, "fleet", "secret")
	for n := range 40 {
		b := backend(t, fmt.Sprintf("%s/example/%d", addr, n), nil)
		var errs [8]error
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = b.Put(t.Context(), modcache.Key{byte(i)}, fmt.Append(nil, n, i), false) })
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs[:]...), "repository %d", n)
	}
}

// TestServerDockerRegistryConforms has a repository of its own for each store.
func TestServerDockerRegistryConforms(t *testing.T) {
	addr := dockerRegistry(t)
	dockerConfig(t, addr, "fleet", "secret")
	n := 0
	backendtest.Conforms(t, func(tb testing.TB) backendtest.Server {
		n++
		return backendtest.Over(backend(tb, fmt.Sprintf("%s/example/%d", addr, n), nil))
	}, "goroutines-see-only-what-was-added") // on a file system, it sometimes answers 500 to a DELETE beside a PUT
}

// BenchmarkServerGet has a lookup from the request to verified bytes: the first of a process, which logs in, and later
// ones.
func BenchmarkServerGet(b *testing.B) {
	addr := dockerRegistry(b)
	dockerConfig(b, addr, "fleet", "secret")
	signer := backendtest.Generate(b)
	writer := backendtest.Open(b, backend(b, addr+"/example/modcache", nil), remote.Options{Signer: signer})
	code := make([]byte, 22<<20)
	for i := range code {
		code[i] = byte(rand.NormFloat64() * 8) // compresses like machine code does
	}
	require.NoError(b, writer.Add(b.Context(), key, modcache.NewArtifact(code, modcache.Info{})))
	require.NoError(b, writer.Flush(b.Context()))
	get := func(s *remote.Store) {
		if _, ok, err := s.Get(b.Context(), key); !ok {
			b.Fatal(err)
		}
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			get(backendtest.Open(b, backend(b, addr+"/example/modcache", nil), remote.Options{Signer: signer}))
		}
	})
	b.Run("later", func(b *testing.B) {
		for b.Loop() {
			get(writer)
		}
	})
	b.ReportMetric(float64(writer.Report().Uploaded)/1e6, "MB-transferred")
}
