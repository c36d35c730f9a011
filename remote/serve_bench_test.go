package remote_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/remote"
)

// BenchmarkServeSigned is a client with the default limits and a server that signs, on loopback: from
// the request to 22 MB of verified bytes, the first time that anybody asks for them, and after that.
//
//	go test -run '^$' -bench ServeSigned -benchtime 9x ./remote
func BenchmarkServeSigned(b *testing.B) {
	signer := generate(b)
	want := code(22 << 20)
	var first, after []time.Duration
	for b.Loop() {
		disk := openDisk(b, b.TempDir(), nil)
		require.NoError(b, disk.Add(b.Context(), key(1), newArtifact(want)))
		h := newHandler(b, disk, &remote.HandlerOptions{Signer: signer})
		srv := httptest.NewServer(h)
		s := open(b, srv.URL, &remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{signer.Public()}}})
		lookup := func() time.Duration {
			start := time.Now()
			a, ok, err := s.Get(b.Context(), key(1))
			require.NoError(b, err)
			require.True(b, ok)
			took := time.Since(start)
			require.EqualValues(b, len(want), a.Size())
			return took
		}
		first = append(first, lookup())
		signedOnce(b, h, 1)
		for range 5 {
			after = append(after, lookup())
		}
		srv.Close()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(first), "ms-first")
	b.ReportMetric(median(after), "ms-after")
}

// BenchmarkNodeColdStart is a node without anything in its directory, from there to a compiled module: with
// a server that has it, with the default limits, and in turn without one.
//
//	MODCACHE_WASM=module.wasm go test -run '^$' -bench NodeColdStart -benchtime 5x ./remote
func BenchmarkNodeColdStart(b *testing.B) {
	cachetest.NeedsCompiler(b)
	wasm := wasmtest.Sum(20_000, 1)
	if file := os.Getenv("MODCACHE_WASM"); file != "" {
		var err error
		wasm, err = os.ReadFile(file)
		require.NoError(b, err)
	}
	signer := generate(b)
	dir := b.TempDir()
	compile := func(c *modcache.Cache, compiles int) {
		r, err := c.NewRuntime(b.Context(), nil)
		require.NoError(b, err)
		_, err = r.Compile(b.Context(), modcache.NewModule(wasm))
		require.NoError(b, err)
		require.EqualValues(b, compiles, c.Metrics().Compiles)
	}
	alone := func(dir string) time.Duration {
		start := time.Now()
		c, err := modcache.Open(dir, nil)
		require.NoError(b, err)
		compile(c, 1)
		took := time.Since(start)
		require.NoError(b, c.Close(b.Context()))
		return took
	}
	alone(dir)
	h := newHandler(b, openDisk(b, dir, nil), &remote.HandlerOptions{Signer: signer})
	srv := httptest.NewServer(h)
	defer srv.Close()
	node := func() time.Duration {
		dir := b.TempDir()
		start := time.Now()
		f, err := remote.OpenFleet(dir, srv.URL, &remote.FleetOptions{Remote: remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{signer.Public()}}}})
		require.NoError(b, err)
		compile(f.Cache, 0)
		took := time.Since(start)
		require.NoError(b, f.Close(b.Context()))
		return took
	}
	node() // has the server compress it
	signedOnce(b, h, 1)
	var compiled, fetched []time.Duration
	for b.Loop() {
		compiled = append(compiled, alone(b.TempDir()))
		fetched = append(fetched, node())
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(compiled), "ms-compile")
	b.ReportMetric(median(fetched), "ms-node")
	b.ReportMetric(median(fetched)/median(compiled), "of-compile")
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds()) / 1e3
}

// BenchmarkServeMany has 64 clients download entries of 4 MB from our handler and from nginx, in turn.
//
//	MODCACHE_SERVERS=1 go test -run '^$' -bench ServeMany -benchtime 9x ./remote
func BenchmarkServeMany(b *testing.B) {
	const clients, files, each = 64, 16, 4
	dir := b.TempDir()
	nginx := nginxOver(b, "1g", dir)
	disk := openDisk(b, b.TempDir(), nil)
	h := newHandler(b, disk, &remote.HandlerOptions{WriteTokens: []string{token}})
	srv := httptest.NewServer(h)
	defer srv.Close()
	signer := generate(b)
	var paths []string
	for i := range files {
		k := key(byte(i))
		e := entryOf(b, remote.Options{Signer: signer}, k, code(16<<20+i), info)
		path := "/" + k.String()[:2] + "/" + k.String()
		paths = append(paths, path)
		require.NoError(b, os.MkdirAll(filepath.Join(dir, "data", k.String()[:2]), 0o755))
		require.NoError(b, os.WriteFile(filepath.Join(dir, "data", path), e, 0o644))
		require.Equal(b, 201, status(b, h, "PUT", path, e, "Authorization", "Bearer "+token))
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	var sent atomic.Int64
	round := func(url string) time.Duration {
		start := time.Now()
		var wg sync.WaitGroup
		for c := range clients {
			wg.Go(func() {
				for i := range each {
					r, err := client.Get(url + paths[(c+i)%files])
					if err != nil || r.StatusCode != 200 {
						panic(fmt.Sprint(r, err))
					}
					n, _ := io.Copy(io.Discard, r.Body)
					sent.Add(n)
					_ = r.Body.Close()
				}
			})
		}
		wg.Wait()
		return time.Since(start)
	}
	round(nginx)
	round(srv.URL)
	var ours, theirs []time.Duration
	sent.Store(0)
	for b.Loop() {
		theirs = append(theirs, round(nginx))
		ours = append(ours, round(srv.URL))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(ours), "ms-ours")
	b.ReportMetric(median(theirs), "ms-nginx")
	b.ReportMetric(median(theirs)/median(ours), "of-nginx")
	b.ReportMetric(float64(sent.Load())/float64(2*b.N*clients*each)/1e6, "MB/entry")
}
