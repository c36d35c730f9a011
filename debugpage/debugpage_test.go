package debugpage_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/debugpage"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/modcachetest"
	"github.com/modcache/modcache/remote"
)

func ExampleHandler() {
	var recorder debugpage.Recorder
	cache, err := modcache.New(modcache.NewMemory(nil), &modcache.Options{OnEvent: recorder.Observe})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cache.Close(context.Background())
	mux := http.NewServeMux()
	mux.Handle("/debug/modcache", debugpage.Handler(cache, &debugpage.Options{Recorder: &recorder}))
	// A program would now serve mux, on a loopback address.
	response := httptest.NewRecorder()
	mux.ServeHTTP(response, httptest.NewRequest("GET", "/debug/modcache?format=json", nil))
	fmt.Println(response.Code, response.Header().Get("Content-Type"))
	// Output: 200 application/json
}

// page is what programs read.
type page struct {
	Engine  string
	HitRate uint32 `json:"hit_rate_ppm"`
	Cache   modcache.CacheMetrics
	Layers  []struct {
		Name    string
		HitRate uint32 `json:"hit_rate_ppm"`
		Store   modcache.Metrics

		MaxBytes int64 `json:"max_bytes"`
	}
	Remotes []struct {
		Name   string
		Kind   string
		Absent uint64
	}
	Misses   map[string]uint64   `json:"misses_by_reason"`
	Compiles []debugpage.Compile `json:"slowest_compiles"`
	Problems []debugpage.Problem `json:"problems"`
	Entries  *struct {
		Dir, Problem string
		Count        int
		Bytes        int64
		Complete     bool
		List         []struct {
			Key     modcache.Key
			Module  modcache.Fingerprint
			Name    string
			Current bool
			Compile time.Duration `json:"compile_time_ns"`
			Problem string
		}
	}
}

func get(t *testing.T, h http.Handler, target string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	return do(t, h, http.MethodGet, target, header...)
}

func do(_ *testing.T, h http.Handler, method, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for _, accept := range header {
		r.Header.Add("Accept", accept)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func getJSON(t *testing.T, h http.Handler) (p page) {
	t.Helper()
	w := get(t, h, "/?format=json")
	require.Equal(t, 200, w.Code)
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
	return p
}

func openCache(t *testing.T, dir string, o *modcache.Options) *modcache.Cache {
	t.Helper()
	c, err := modcache.Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func compile(t *testing.T, c *modcache.Cache, wasm []byte) error {
	t.Helper()
	r, err := c.NewRuntime(t.Context(), nil)
	require.NoError(t, err)
	defer r.Close(t.Context())
	if r.Key(modcache.NewModule(nil)) == (modcache.Key{}) {
		t.Skip("wazero has no compiler for this platform")
	}
	_, err = r.CompileModule(t.Context(), wasm)
	return err
}

func TestFigures(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	var rec debugpage.Recorder
	first := openCache(t, dir, &modcache.Options{OnEvent: rec.Observe})
	require.NoError(t, compile(t, first, wasmtest.Sum(200, 1)))
	require.NoError(t, compile(t, first, wasmtest.Const(7)))
	require.Error(t, compile(t, first, []byte("\x00asm\x01\x00\x00\x00\x0a\x02\x01\x00")))

	h := debugpage.Handler(first, &debugpage.Options{Recorder: &rec})
	p := getJSON(t, h)
	require.Equal(t, first.EngineID(), p.Engine)
	want := first.Metrics()
	want.Store, p.Cache.Store = modcache.Metrics{}, modcache.Metrics{} // a trim may change its levels
	require.Equal(t, want, p.Cache)
	require.Len(t, p.Layers, 1)
	require.Equal(t, "disk", p.Layers[0].Name)
	require.Equal(t, map[string]uint64{"absent": p.Cache.Misses}, p.Misses)
	require.Len(t, p.Compiles, 3)
	require.GreaterOrEqual(t, p.Compiles[0].Took, p.Compiles[1].Took)
	failed := 0
	for _, c := range p.Compiles {
		if c.Failed {
			failed++
		}
	}
	require.Equal(t, 1, failed)
	require.Equal(t, 2, p.Entries.Count)
	require.True(t, p.Entries.Complete)
	require.GreaterOrEqual(t, p.Entries.List[0].Compile, p.Entries.List[1].Compile)
	require.True(t, p.Entries.List[0].Current)

	// Another process, which sees an entry of an engine that isn't its own.
	second := openCache(t, dir, nil)
	require.NoError(t, compile(t, second, wasmtest.Const(7)))
	other := openCache(t, dir, &modcache.Options{EngineID: "another"})
	require.NoError(t, compile(t, other, wasmtest.Const(7)))
	p = getJSON(t, debugpage.Handler(second, nil))
	require.EqualValues(t, 1_000_000, p.HitRate)
	require.EqualValues(t, 1_000_000, p.Layers[0].HitRate)
	require.Equal(t, 3, p.Entries.Count)

	html := get(t, debugpage.Handler(second, nil), "/").Body.String()
	require.Contains(t, html, "100.0 %")
	require.Contains(t, html, "another engine")
	require.Contains(t, html, dir)
	require.NotContains(t, html, "Slowest compiles", "nothing was recorded")
	require.NotContains(t, html, "<script")
}

// TestRetain shows what is retained beside its limit, if there is one.
func TestRetain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c := openCache(t, dir, &modcache.Options{Retain: 12_300_000})
	require.NoError(t, compile(t, c, wasmtest.Sum(200, 1)))
	p := getJSON(t, debugpage.Handler(c, nil))
	require.EqualValues(t, 1, p.Cache.Retained)
	require.Positive(t, p.Cache.RetainedBytes)
	require.EqualValues(t, 12_300_000, p.Cache.RetainedMaxBytes)
	require.Regexp(t, `1 modules retained, \d+\.\d kB of 12\.3 MB<`, get(t, debugpage.Handler(c, nil), "/").Body.String())

	c = openCache(t, dir, &modcache.Options{Retain: -1})
	require.NoError(t, compile(t, c, wasmtest.Sum(200, 1)))
	require.Contains(t, get(t, debugpage.Handler(c, nil), "/").Body.String(), "0 modules retained<")
}

func TestNames(t *testing.T) {
	var rec debugpage.Recorder
	c := openCache(t, filepath.Join(t.TempDir(), "cache"), &modcache.Options{OnEvent: rec.Observe})
	m := modcache.NewModule(wasmtest.Const(1)).Named("<b>seven.wasm")
	require.NoError(t, compile(t, c, wasmtest.Const(2)))
	require.NoError(t, c.Warm(t.Context(), nil, m))
	rec.Observe(modcache.Event{Kind: modcache.EventCorrupt, Name: m.Name(), Err: modcache.ErrCorrupt})

	h := debugpage.Handler(c, &debugpage.Options{Recorder: &rec})
	p := getJSON(t, h)
	names := map[string]int{}
	for _, c := range p.Compiles {
		names[c.Name]++
	}
	for _, e := range p.Entries.List {
		names[e.Name]++
	}
	require.Equal(t, map[string]int{"": 2, m.Name(): 2}, names)
	require.Equal(t, m.Name(), p.Problems[0].Name)
	html := get(t, h, "/").Body.String()
	require.Equal(t, 3, strings.Count(html, "&lt;b&gt;seven.wasm"))
	require.NotContains(t, html, "<b>seven")
}

func TestLayers(t *testing.T) {
	disk, err := modcache.OpenDisk(filepath.Join(t.TempDir(), "cache"), nil)
	require.NoError(t, err)
	defer disk.Close()
	layered := modcache.NewLayered(nil,
		modcache.Layer{Store: modcache.NewMemory(nil), Name: "near"},
		modcache.Layer{Store: disk, Name: "<b>far</b>"})
	defer layered.Close()
	c, err := modcache.New(layered, nil)
	require.NoError(t, err)
	defer c.Close(t.Context())
	require.NoError(t, compile(t, c, wasmtest.Const(1)))

	h := debugpage.Handler(c, &debugpage.Options{Disk: disk})
	p := getJSON(t, h)
	require.Len(t, p.Layers, 2)
	require.Equal(t, "near", p.Layers[0].Name)
	require.EqualValues(t, 1, p.Layers[0].Store.Entries)
	require.Equal(t, 1, p.Entries.Count)

	html := get(t, h, "/").Body.String()
	require.Contains(t, html, "&lt;b&gt;far&lt;/b&gt;")
	require.NotContains(t, html, "<b>far")

	require.Nil(t, getJSON(t, debugpage.Handler(c, nil)).Entries, "which Disk is not known")
}

func TestServers(t *testing.T) {
	var answers atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answers.Add(1)
		http.NotFound(w, nil)
	}))
	defer server.Close()
	private, err := remote.GenerateKey()
	require.NoError(t, err)
	store, err := remote.New(server.URL, &remote.Options{
		Keyring:   remote.Keyring{Keys: []remote.PublicKey{private.Public()}},
		FirstByte: time.Minute, Stall: time.Minute, AbsentFor: time.Hour,
	})
	require.NoError(t, err)
	defer store.Close()
	layered := modcache.NewLayered(nil,
		modcache.Layer{Store: modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: 12_300_000})},
		modcache.Layer{Store: store, Name: "<b>fleet", Write: modcache.WriteNever, Timeout: -1})
	defer layered.Close()
	c, err := modcache.New(layered, nil)
	require.NoError(t, err)
	defer c.Close(t.Context())
	_, ok, err := layered.Get(t.Context(), modcache.Key{1})
	require.NoError(t, err)
	require.False(t, ok)
	require.EqualValues(t, 1, answers.Load())

	h := debugpage.Handler(c, &debugpage.Options{Remotes: map[string]*remote.Store{"<b>fleet": store, "nil": nil}})
	p := getJSON(t, h)
	require.Len(t, p.Remotes, 1)
	require.Equal(t, "<b>fleet", p.Remotes[0].Name)
	require.Equal(t, "plain", p.Remotes[0].Kind)
	require.EqualValues(t, 1, p.Remotes[0].Absent)
	require.EqualValues(t, 12_300_000, p.Layers[0].MaxBytes)
	require.Zero(t, p.Layers[1].MaxBytes, "nobody knows")
	html := get(t, h, "/").Body.String()
	require.Contains(t, html, "<h2>Servers</h2>")
	require.Contains(t, html, "<td>plain</td>")
	require.Contains(t, html, "12.3 MB")
	require.NotContains(t, html, "<b>fleet")
	require.NotContains(t, html, server.URL)
	require.NotContains(t, get(t, debugpage.Handler(c, nil), "/").Body.String(), "Servers")
}

func TestFormats(t *testing.T) {
	c := openCache(t, filepath.Join(t.TempDir(), "cache"), nil)
	h := debugpage.Handler(c, nil)
	const html, js = "text/html; charset=utf-8", "application/json"
	for _, test := range []struct {
		target string
		accept []string
		want   string
	}{
		{"/", nil, html},
		{"/any/path", []string{"*/*"}, html},
		{"/", []string{"application/json"}, js},
		{"/", []string{"Application/JSON;q=0.9, text/plain"}, js},
		{"/", []string{"text/html,application/xhtml+xml,application/json"}, html},
		{"/", []string{"application/json", "text/html"}, html},
		{"/?format=json", []string{"text/html"}, js},
		{"/?format=html", []string{"application/json"}, html},
	} {
		w := get(t, h, test.target, test.accept...)
		require.Equal(t, 200, w.Code)
		require.Equal(t, test.want, w.Header().Get("Content-Type"), "%v", test)
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		require.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'")
		require.Equal(t, fmt.Sprint(w.Body.Len()), w.Header().Get("Content-Length"))
	}

	w := get(t, h, "/?format=<script>")
	require.Equal(t, 400, w.Code)
	require.Contains(t, w.Header().Get("Content-Type"), "text/plain")

	w = do(t, h, http.MethodHead, "/")
	require.Equal(t, 200, w.Code)
	require.Zero(t, w.Body.Len())
	require.NotEqual(t, "0", w.Header().Get("Content-Length"))

	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
		w := do(t, h, method, "/")
		require.Equal(t, 405, w.Code)
		require.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
	}
}

// What others have put into names is shown as text, and what they have put into
// errors isn't shown.
func TestHostileText(t *testing.T) {
	const evil = `"><script>alert(1)</script><img src=x onerror="alert(2)">`
	var rec debugpage.Recorder
	store := modcachetest.NewFaulty(modcache.NewMemory(nil), &modcachetest.Plan{Faults: []modcachetest.Fault{
		{Op: modcachetest.OpGet, Err: errors.New("GET https://host/?token=hunter2: refused")},
	}})
	c, err := modcache.New(store, &modcache.Options{EngineID: evil, OnEvent: rec.Observe})
	require.NoError(t, err)
	defer c.Close(t.Context())
	require.NoError(t, compile(t, c, wasmtest.Const(1)))
	rec.Observe(modcache.Event{Kind: modcache.EventCorrupt, Layer: evil, Err: modcache.ErrCorrupt})
	rec.Observe(modcache.Event{Kind: modcache.EventDegraded, Err: errors.New(evil + "\nsecond line")})

	h := debugpage.Handler(c, &debugpage.Options{Recorder: &rec})
	html := get(t, h, "/").Body.String()
	require.NotContains(t, html, "<script")
	require.NotContains(t, html, "<img")
	require.Contains(t, html, "&lt;script&gt;")
	require.NotContains(t, html, "second line")
	js := get(t, h, "/?format=json").Body.String()
	require.NotContains(t, js, "<script", "a browser that sniffs finds no HTML in JSON")
	for _, body := range []string{html, js} {
		require.NotContains(t, body, "hunter2")
		require.Contains(t, body, "store failed")
		require.Contains(t, body, "damaged")
	}
}

func TestDirectoryKeyIsSecret(t *testing.T) {
	const secret = "sixteen bytes or more"
	c := openCache(t, filepath.Join(t.TempDir(), "cache"), &modcache.Options{Disk: modcache.DiskOptions{Key: []byte(secret)}})
	require.NoError(t, compile(t, c, wasmtest.Const(1)))
	h := debugpage.Handler(c, nil)
	require.Equal(t, 1, getJSON(t, h).Entries.Count)
	for _, target := range []string{"/", "/?format=json"} {
		require.NotContains(t, get(t, h, target).Body.String(), secret)
	}
}

func TestEntriesAreBounded(t *testing.T) {
	disk, err := modcache.OpenDisk(filepath.Join(t.TempDir(), "cache"), nil)
	require.NoError(t, err)
	defer disk.Close()
	for i := range 30 {
		require.NoError(t, disk.Add(t.Context(), modcache.Key{byte(i)}, modcache.NewArtifact(make([]byte, 10), modcache.Info{Engine: "e"})))
	}
	c, err := modcache.New(disk, nil)
	require.NoError(t, err)
	defer c.Close(t.Context())

	p := getJSON(t, debugpage.Handler(c, &debugpage.Options{MaxEntries: 10}))
	require.Len(t, p.Entries.List, 10)
	require.False(t, p.Entries.Complete)
	require.NotEmpty(t, p.Entries.Problem)
	p = getJSON(t, debugpage.Handler(c, &debugpage.Options{MaxEntries: 30}))
	require.Len(t, p.Entries.List, 30)
	require.True(t, p.Entries.Complete)
	require.Nil(t, getJSON(t, debugpage.Handler(c, &debugpage.Options{MaxEntries: -1})).Entries)
}

func TestDamagedAndClosed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c := openCache(t, dir, nil)
	require.NoError(t, compile(t, c, wasmtest.Const(1)))
	files, err := filepath.Glob(filepath.Join(dir, "?", "*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.NoError(t, os.WriteFile(files[0], []byte("not an entry"), 0o600))
	h := debugpage.Handler(c, nil)
	p := getJSON(t, h)
	require.Equal(t, "damaged", p.Entries.List[0].Problem)
	require.Contains(t, get(t, h, "/").Body.String(), "damaged")

	require.NoError(t, c.Close(t.Context()))
	p = getJSON(t, h)
	require.Equal(t, "the store is closed", p.Entries.Problem)
	require.EqualValues(t, 1, p.Cache.Compiles)
}

// The page works over a real connection, and for many at once.
func TestServer(t *testing.T) {
	var rec debugpage.Recorder
	c := openCache(t, filepath.Join(t.TempDir(), "cache"), &modcache.Options{OnEvent: rec.Observe})
	srv := httptest.NewServer(debugpage.Handler(c, &debugpage.Options{Recorder: &rec}))
	defer srv.Close()
	errs := make(chan error)
	for i := range 8 {
		go func() { errs <- visit(srv.URL) }()
		require.NoError(t, compile(t, c, wasmtest.Const(int32(i))))
	}
	for range 8 {
		require.NoError(t, <-errs)
	}
}

func visit(url string) error {
	res, err := http.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && !strings.HasSuffix(strings.TrimSpace(string(body)), "</html>") {
		err = errors.New("the page is not whole")
	}
	return err
}

func TestRecorderIsBounded(t *testing.T) {
	var rec debugpage.Recorder
	c, err := modcache.New(modcache.NewMemory(nil), nil)
	require.NoError(t, err)
	defer c.Close(t.Context())
	for i := range 1000 {
		took := time.Duration(i*7919%1000) * time.Millisecond
		for _, took := range []time.Duration{took / 2, took, took / 3} {
			rec.Observe(modcache.Event{Kind: modcache.EventCompileFinished, Key: modcache.Key{byte(i), byte(i >> 8)}, Duration: took})
		}
		rec.Observe(modcache.Event{Kind: modcache.EventStoreFailed, Layer: fmt.Sprint(i)})
	}
	p := getJSON(t, debugpage.Handler(c, &debugpage.Options{Recorder: &rec}))
	require.Len(t, p.Compiles, 20)
	for i, c := range p.Compiles {
		require.Equal(t, time.Duration(999-i)*time.Millisecond, c.Took)
	}
	require.Len(t, p.Problems, 20)
	require.Equal(t, "999", p.Problems[0].Layer)
	require.Equal(t, "980", p.Problems[19].Layer)
	rec.Observe(modcache.Event{Kind: modcache.EventDegraded, Err: errors.New(strings.Repeat("x", 1<<20))})
	p = getJSON(t, debugpage.Handler(c, &debugpage.Options{Recorder: &rec}))
	require.Less(t, len(p.Problems[0].Why), 2<<10)
}
