package remote_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/remote"
)

// Tests against servers that people run. They need MODCACHE_SERVERS=1 and the
// server's program in PATH; .ci/remote-servers installs what there is.

// program finds a server's program, or skips the test and says why.
func program(t testing.TB, name string) string {
	t.Helper()
	if os.Getenv("MODCACHE_SERVERS") == "" {
		t.Skip("SKIPPED: set MODCACHE_SERVERS=1 to test against real servers")
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("SKIPPED: no %s here, run .ci/remote-servers: %v", name, err)
	}
	return path
}

// unused returns an address on which nothing listens.
func unused(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

// start runs a server until the test ends, and waits for it to answer at addr.
func start(t testing.TB, addr string, env []string, name string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s", name, out.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended: %v\n%s", name, err, out.String())
		default:
		}
		require.True(t, time.Now().Before(deadline), "%s doesn't listen at %s", name, addr)
	}
}

const nginxConf = `
daemon off;
worker_processes 2;
pid nginx.pid;
error_log stderr;
%s
events {}
http {
  access_log off;
  sendfile on;
  client_body_temp_path tmp;
  proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  server {
    listen %s;
    root data;
    client_max_body_size %s;
    location / {
      dav_methods PUT DELETE;
      create_full_put_path on;
    }
  }
}
`

// nginx starts one with the configuration that docs/remote.md shows.
func nginx(t testing.TB, maxBody string) string { return nginxOver(t, maxBody, t.TempDir()) }

// nginxOver is nginx with its files in dir.
func nginxOver(t testing.TB, maxBody, dir string) string {
	t.Helper()
	bin := program(t, "nginx")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "data"), 0o700))
	user := ""
	if os.Getuid() == 0 {
		user = "user root;"
	}
	addr := unused(t)
	conf := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, nginxConf, user, addr, maxBody), 0o600))
	// The master ends its workers when it is told to quit, not when it is killed.
	start(t, addr, nil, bin, "-p", dir, "-c", conf, "-e", "stderr", "-g", "master_process off;")
	return "http://" + addr
}

func TestServerNginx(t *testing.T) {
	url := nginx(t, "256m")
	roundTrip(t, url+"/modcache", remote.Options{})

	small := nginx(t, "100k")
	s := open(t, small, patient(remote.Options{Signer: generate(t)}))
	require.NoError(t, add(t, s, key(1), 4<<20))
	require.ErrorContains(t, s.Flush(t.Context()), "the server refuses an entry of")
	require.NoError(t, add(t, s, key(2), 10_000))
	require.NoError(t, s.Flush(t.Context()))
}

func TestServerVersityGW(t *testing.T) {
	bin := program(t, "versitygw")
	addr, dir := unused(t), t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "bucket"), 0o700))
	access, secret := "modcache", rand.Text()
	start(t, addr, []string{"ROOT_ACCESS_KEY=" + access, "ROOT_SECRET_KEY=" + secret}, bin, "--port", addr, "posix", "--nometa", dir)
	layout := remote.S3{Bucket: "bucket", Prefix: "fleet/", PathStyle: true, Credentials: static(access, secret, "")}
	roundTrip(t, "http://"+addr, remote.Options{Layout: layout})

	layout.Credentials = static(access, "wrong", "")
	s := open(t, "http://"+addr, patient(remote.Options{Layout: layout, Signer: generate(t)}))
	_, _, err := s.Get(t.Context(), key(0))
	require.ErrorContains(t, err, "403", "this server checks signatures")
	layout.Credentials = nil
	s = open(t, "http://"+addr, patient(remote.Options{Layout: layout, Signer: generate(t)}))
	_, _, err = s.Get(t.Context(), key(0))
	require.Error(t, err)
}

func TestServerBazelRemote(t *testing.T) {
	bin := program(t, "bazel-remote")
	for name, c := range map[string]struct {
		layout remote.Layout
		args   []string
	}{
		"ac":        {remote.BazelAC, []string{"--disable_http_ac_validation"}},
		"ac to cas": {remote.BazelCAS, nil},
	} {
		t.Run(name, func(t *testing.T) {
			addr := unused(t)
			args := append([]string{"--dir", t.TempDir(), "--max_size", "1", "--http_address", addr, "--grpc_address", "none"}, c.args...)
			start(t, addr, nil, bin, args...)
			roundTrip(t, "http://"+addr, remote.Options{Layout: c.layout})
		})
	}
}

// artifact returns machine code of some 66 MB: that in the file that MODCACHE_ARTIFACT names, or
// something that compresses like it.
func artifact(t testing.TB) []byte {
	t.Helper()
	if path := os.Getenv("MODCACHE_ARTIFACT"); path != "" {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		return b
	}
	return code(66 << 20)
}

// BenchmarkGet takes an artifact of 66 MB from nginx, from the request to verified bytes; body
// only downloads it.
func BenchmarkGet(b *testing.B) {
	url := nginx(b, "256m")
	o := patient(remote.Options{Signer: generate(b)})
	s := open(b, url, o)
	want := artifact(b)
	require.NoError(b, s.Add(b.Context(), key(1), newArtifact(want)))
	require.NoError(b, s.Flush(b.Context()))
	transferred := float64(s.Report().Uploaded)
	b.Run("store", func(b *testing.B) {
		b.SetBytes(int64(len(want)))
		best := time.Hour // what the machine can do when nobody else uses it
		for b.Loop() {
			start := time.Now()
			a, ok, err := s.Get(context.Background(), key(1))
			if !ok || a.Size() != int64(len(want)) {
				b.Fatal(err)
			}
			best = min(best, time.Since(start))
		}
		b.ReportMetric(transferred/1e6, "MB-transferred")
		b.ReportMetric(float64(best.Microseconds())/1000, "best-ms")
	})
	b.Run("body", func(b *testing.B) {
		name := key(1).String()
		for b.Loop() {
			r, err := http.Get(url + "/" + name[:2] + "/" + name)
			require.NoError(b, err)
			n, err := io.Copy(io.Discard, r.Body)
			require.NoError(b, err)
			require.EqualValues(b, transferred, n)
			_ = r.Body.Close()
		}
	})
}
