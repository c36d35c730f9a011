package remote_test

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/remote"
)

// TestOpenFleet has one machine compile for another, and the other keep what it got.
func TestOpenFleet(t *testing.T) {
	cachetest.NeedsCompiler(t)
	signer := generate(t)
	url := serve(t, &storetest.Fake{}, &remote.HandlerOptions{WriteTokens: []string{token}})
	builder := &remote.FleetOptions{Remote: *patient(remote.Options{Signer: signer, Header: bearer(token)})}
	node := &remote.FleetOptions{Remote: *patient(remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{signer.Public()}}})}
	use := func(dir, url string, o *remote.FleetOptions) (compiles uint64, hits map[string]uint64) {
		f, err := remote.OpenFleet(dir, url, o)
		require.NoError(t, err)
		r, err := f.NewRuntime(t.Context(), nil)
		require.NoError(t, err)
		_, err = r.Compile(t.Context(), modcache.NewModule(wasmtest.Sum(40, 1)))
		require.NoError(t, err)
		hits = map[string]uint64{}
		compiles = f.Metrics().Compiles
		for _, l := range f.Layers() {
			hits[l.Name] = l.Hits
		}
		require.NoError(t, f.Close(t.Context()))
		require.NoError(t, f.Close(t.Context()))
		return compiles, hits
	}
	compiles, _ := use(t.TempDir(), url, builder)
	require.EqualValues(t, 1, compiles)
	dir := t.TempDir()
	compiles, hits := use(dir, url, node)
	require.Zero(t, compiles, "one Close has uploaded it")
	require.EqualValues(t, 1, hits["remote"])
	compiles, hits = use(dir, "http://127.0.0.1:1", node)
	require.Zero(t, compiles, "without the server")
	require.EqualValues(t, 1, hits["disk"])

	// Where no directory can be had, memory is enough.
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	told := &events{}
	node.Cache.OnEvent = told.take
	compiles, hits = use(filepath.Join(file, "cache"), url, node)
	require.Zero(t, compiles)
	require.EqualValues(t, 1, hits["remote"])
	require.Len(t, told.of(modcache.EventDegraded), 1)
	node.Cache.MustStore = true
	_, err := remote.OpenFleet(filepath.Join(file, "cache"), url, node)
	require.Error(t, err)
	node.Cache.MustStore = false

	// Operators have their say.
	named := filepath.Join(t.TempDir(), "named")
	t.Setenv("MODCACHE_DIR", named)
	use("", url, node)
	require.NotEmpty(t, cachetest.Entries(t, named))
	t.Setenv("MODCACHE", "off")
	compiles, hits = use("", url, node)
	require.Zero(t, compiles)
	require.Contains(t, hits, "memory")
	node.Cache.MustStore = true
	_, err = remote.OpenFleet("", url, node)
	require.ErrorContains(t, err, "MODCACHE=off")
	node.Cache.MustStore = false

	for _, o := range []*remote.FleetOptions{nil, {}} {
		_, err = remote.OpenFleet(dir, url, o)
		require.ErrorContains(t, err, "key to verify with")
	}
	_, err = remote.OpenFleet(dir, "cache.example", node)
	require.ErrorContains(t, err, "begin with http://")
	_, err = remote.OpenFleet(dir, "https://cache.example/modules?sig=secret", node)
	require.ErrorContains(t, err, "https://cache.example/modules")
	require.NotContains(t, err.Error(), "secret")
	require.NotContains(t, fmt.Sprintf("%s", []any{&remote.FleetOptions{Cache: modcache.Options{Disk: modcache.DiskOptions{Key: []byte("sixteen bytes or more")}}}}), "115 105")
	node.Cache.EngineID = string(make([]byte, 300))
	_, err = remote.OpenFleet(dir, url, node)
	require.Error(t, err)
}

// TestOpenFleetOverOddDirectories does what Open does there.
func TestOpenFleetOverOddDirectories(t *testing.T) {
	cachetest.NeedsCompiler(t)
	remoteOptions := *patient(remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{generate(t).Public()}}})
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	compileTwice := func(f *remote.Fleet) uint64 {
		for range 2 {
			r, err := f.NewRuntime(t.Context(), nil)
			require.NoError(t, err)
			_, err = r.Compile(t.Context(), modcache.NewModule(wasmtest.Sum(200, 1)))
			require.NoError(t, err)
			require.NoError(t, r.Close(t.Context()))
		}
		return f.Metrics().Compiles
	}

	// Memory that stands in keeps code, although nothing may be written to a directory.
	f, err := remote.OpenFleet(filepath.Join(file, "cache"), "http://127.0.0.1:1", &remote.FleetOptions{
		Remote: remoteOptions, Cache: modcache.Options{ReadOnly: true, Retain: -1, SmallModules: -1},
	})
	require.NoError(t, err)
	require.EqualValues(t, 1, compileTwice(f))
	require.NoError(t, f.Close(t.Context()))

	// Options that are wrong are no fault of a directory.
	_, err = remote.OpenFleet(t.TempDir(), "http://127.0.0.1:1", &remote.FleetOptions{
		Remote: remoteOptions, Cache: modcache.Options{Disk: modcache.DiskOptions{Key: []byte("short")}},
	})
	require.ErrorContains(t, err, "Key")

	// An observer that doesn't return holds nothing up for good.
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		f, err := remote.OpenFleet(filepath.Join(file, "cache"), "http://127.0.0.1:1", &remote.FleetOptions{
			Remote: remoteOptions, Cache: modcache.Options{OnEvent: func(modcache.Event) { <-hang }},
		})
		require.NoError(t, err)
		close(hang)
		require.NoError(t, f.Close(t.Context()))
	})
}

// TestOpenFleetTakesADirectoryThatComesLate says until then that code is in memory only.
func TestOpenFleetTakesADirectoryThatComesLate(t *testing.T) {
	cachetest.NeedsCompiler(t)
	above := filepath.Join(t.TempDir(), "volume")
	require.NoError(t, os.WriteFile(above, nil, 0o600))
	dir, now := filepath.Join(above, "cache"), time.Now()
	f, err := remote.OpenFleet(dir, "http://127.0.0.1:1", &remote.FleetOptions{
		Remote: *patient(remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{generate(t).Public()}}}),
		Cache:  modcache.Options{SmallModules: -1, Retain: -1, Disk: modcache.DiskOptions{Now: func() time.Time { return now }}},
	})
	require.NoError(t, err)
	compile := func() {
		r, err := f.NewRuntime(t.Context(), nil)
		require.NoError(t, err)
		_, err = r.Compile(t.Context(), modcache.NewModule(wasmtest.Sum(200, 1)))
		require.NoError(t, err)
		require.NoError(t, r.Close(t.Context()))
	}
	compile()
	s := f.Status()
	require.False(t, s.Storing)
	require.True(t, s.InMemory)
	require.Equal(t, dir, s.Dir)
	require.Len(t, s.Off, 1)
	require.NoError(t, os.Remove(above))
	now = now.Add(time.Second)
	compile()
	require.EqualValues(t, 1, f.Metrics().Compiles)
	require.True(t, f.Status().Storing, f.Status().String())
	require.Equal(t, "disk", f.Layers()[0].Name)
	require.NoError(t, f.Close(t.Context()))
	require.Len(t, cachetest.Entries(t, dir), 1)
}

// TestOpenFleetReadsWhatItCantWrite uses the code in a directory that can't be written to, where there is any.
func TestOpenFleetReadsWhatItCantWrite(t *testing.T) {
	cachetest.NeedsCompiler(t)
	if !cachetest.Unprivileged(t) {
		return
	}
	o := &remote.FleetOptions{Remote: *patient(remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{generate(t).Public()}}})}
	told := &events{}
	o.Cache.OnEvent, o.Cache.SmallModules = told.take, -1
	for _, filled := range []bool{false, true} {
		dir := t.TempDir()
		require.NoError(t, os.Chmod(dir, 0o700))
		m := modcache.NewModule(wasmtest.Sum(200, 1))
		if filled {
			c, err := modcache.Open(dir, nil)
			require.NoError(t, err)
			require.NoError(t, c.Warm(t.Context(), nil, m))
			require.NoError(t, c.Close(t.Context()))
		}
		require.NoError(t, os.Chmod(dir, 0o500))
		f, err := remote.OpenFleet(dir, "http://127.0.0.1:1", o)
		require.NoError(t, err)
		r, err := f.NewRuntime(t.Context(), nil)
		require.NoError(t, err)
		_, err = r.Compile(t.Context(), m)
		require.NoError(t, err)
		require.Equal(t, filled, f.Metrics().Hits == 1)
		require.Equal(t, filled, f.Layers()[0].Name == "disk")
		degraded := told.of(modcache.EventDegraded)
		require.ErrorIs(t, degraded[len(degraded)-1].Err, fs.ErrPermission)
		require.Equal(t, filled, len(degraded) == 2)
		require.NoError(t, f.Close(t.Context()))
		require.NoError(t, os.Chmod(dir, 0o700))
	}
}

// TestOpenFleetWithABackend has a machine compile for another over a protocol of the program's.
func TestOpenFleetWithABackend(t *testing.T) {
	cachetest.NeedsCompiler(t)
	signer, f := generate(t), newFake()
	for i, o := range []remote.Options{{Signer: signer}, {Keyring: remote.Keyring{Keys: []remote.PublicKey{signer.Public()}}}} {
		fleet, err := remote.OpenFleet(t.TempDir(), "gs://u:SECRET@here?key=SECRET", &remote.FleetOptions{Backend: f, Remote: *patient(o)})
		require.NoError(t, err)
		require.Equal(t, "remote gs://here", fmt.Sprint(fleet.Remote()))
		r, err := fleet.NewRuntime(t.Context(), nil)
		require.NoError(t, err)
		_, err = r.Compile(t.Context(), modcache.NewModule(wasmtest.Sum(40, 1)))
		require.NoError(t, err)
		require.NoError(t, fleet.Close(t.Context()))
		m := fleet.Metrics()
		require.EqualValues(t, 1-i, m.Compiles)
		require.Zero(t, m.StoreErrors, "a node isn't asked to upload")
	}
}

// TestFleetCloseOverADirectoryThatHangs when it is written to.
func TestFleetCloseOverADirectoryThatHangs(t *testing.T) {
	cachetest.NeedsCompiler(t)
	dir := t.TempDir()
	keyring := remote.Keyring{Keys: []remote.PublicKey{generate(t).Public()}}
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		now := func() time.Time { // what storing asks for that a test can have hang
			if strings.Contains(string(debug.Stack()), "modcache.(*Disk).add") {
				<-answer
			}
			return time.Now()
		}
		f, err := remote.OpenFleet(dir, "http://127.0.0.1:1", &remote.FleetOptions{
			Remote: *patient(remote.Options{Keyring: keyring}),
			Cache:  modcache.Options{SmallModules: -1, Disk: modcache.DiskOptions{Now: now}},
		})
		require.NoError(t, err)
		r, err := f.NewRuntime(t.Context(), nil)
		require.NoError(t, err)
		_, err = r.Compile(t.Context(), modcache.NewModule(wasmtest.Sum(40, 1)))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err = f.Close(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		close(answer)
		synctest.Wait()
	})
}

// TestOpenFleetThatRequiresHits takes what a healthy server sends over a slow line, where others compile.
func TestOpenFleetThatRequiresHits(t *testing.T) {
	cachetest.NeedsCompiler(t)
	signer := generate(t)
	m := modcache.NewModule(wasmtest.Sum(20_000, 1))
	server := &storetest.Fake{}
	builder, err := remote.OpenFleet(t.TempDir(), serve(t, server, &remote.HandlerOptions{WriteTokens: []string{token}}),
		&remote.FleetOptions{Remote: *patient(remote.Options{Signer: signer, Header: bearer(token)})})
	require.NoError(t, err)
	require.NoError(t, builder.Warm(t.Context(), nil, m))
	require.NoError(t, builder.Close(t.Context()))
	for _, required := range []bool{true, false} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			h, err := remote.NewHandler(server, &remote.HandlerOptions{WriteTokens: []string{token}})
			require.NoError(t, err)
			p := servePipes(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(&paced{w, r.Context(), 2048, 150 * ms}, r)
			}))
			client := &http.Client{Transport: &http.Transport{DialContext: p.dial}}
			defer client.CloseIdleConnections()
			f, err := remote.OpenFleet(dir, "http://cache.example", &remote.FleetOptions{
				Remote: remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{signer.Public()}}, Client: client},
				Cache:  modcache.Options{RequireHit: required},
			})
			require.NoError(t, err)
			r, err := f.NewRuntime(t.Context(), nil)
			require.NoError(t, err)
			d := took(func() {
				_, err = r.Compile(t.Context(), m)
				require.NoError(t, err)
			})
			if required {
				require.Greater(t, d, 2*time.Second, "the line is slow enough for this test")
				require.Zero(t, f.Metrics().Compiles)
			} else {
				require.EqualValues(t, 1, f.Metrics().Compiles)
			}
			require.NoError(t, f.Close(t.Context()))
		})
	}
}

// paced is a response of which so many bytes are sent, then none for a while, over and over.
type paced struct {
	http.ResponseWriter
	ctx   context.Context
	n     int
	pause time.Duration
}

func (p *paced) Write(b []byte) (n int, err error) {
	for err == nil && n < len(b) {
		var m int
		m, err = p.ResponseWriter.Write(b[n:min(len(b), n+p.n)])
		n += m
		p.ResponseWriter.(http.Flusher).Flush()
		select {
		case <-time.After(p.pause):
		case <-p.ctx.Done():
		}
	}
	return n, err
}
