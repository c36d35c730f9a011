package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// told decodes the one object that a command prints.
func told[T any](t *testing.T, o outcome) (v T) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(o.out))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&v), o.out)
	require.False(t, d.More(), o.out)
	return v
}

func TestJSONTrimAndRm(t *testing.T) {
	cache, _ := warmed(t, 3)
	planned := told[trimReport](t, call("trim", "-json", "-n", "-max-bytes", "0", "-max-age", "1d", "-dir", cache).want(t, exitOK))
	require.Len(t, planned.Entries, 3)
	require.Positive(t, planned.DroppedBytes)
	require.Equal(t, trimReport{DryRun: true, Dropped: 3, DroppedBytes: planned.DroppedBytes, MaxAge: 24 * 3600 * 1e9, Entries: planned.Entries}, planned)
	kept := told[trimReport](t, call("trim", "-json", "-dir", cache).want(t, exitOK))
	require.Equal(t, trimReport{Left: 3, LeftBytes: planned.DroppedBytes, MaxBytes: 2 << 30, MaxAge: 30 * 24 * 3600 * 1e9}, kept)

	foreseen := told[rmReport](t, call("rm", "-json", "-n", "-all", "-dir", cache).want(t, exitOK))
	require.Len(t, foreseen.Entries, 3)
	require.Equal(t, rmReport{DryRun: true, Removed: 3, Bytes: planned.DroppedBytes, Entries: foreseen.Entries}, foreseen)
	one := told[rmReport](t, call("rm", "-json", "-dir", cache, foreseen.Entries[0].Key).want(t, exitOK))
	require.Equal(t, rmReport{Removed: 1, Bytes: foreseen.Entries[0].Bytes}, one)
	o := call("rm", "-json", "-dir", cache, foreseen.Entries[0].Key).want(t, exitFound)
	require.Empty(t, o.out)

	dropped := told[trimReport](t, call("trim", "-json", "-max-bytes", "0", "-dir", cache).want(t, exitOK))
	require.Equal(t, 2, dropped.Dropped)
	require.Equal(t, planned.DroppedBytes-one.Bytes, dropped.DroppedBytes)
	require.Zero(t, dropped.Left)
}

func TestJSONPushAndPull(t *testing.T) {
	cache, _ := warmed(t, 3)
	damage(t, entries(t, cache)[1])
	file := filepath.Join(t.TempDir(), "bundle")
	require.Contains(t, call("push", "-json", "-dir", cache).want(t, exitUsage).err, "-o")
	require.NotContains(t, call("push", "-dir", cache, "http:user:SECRET@host").want(t, exitUsage).err, "SECRET")
	o := call("push", "-json", "-dir", cache, "-o", file).want(t, exitFound)
	require.NotContains(t, o.err, "in the bundle")
	p := told[pushReport](t, o)
	require.Positive(t, p.Bytes)
	require.Equal(t, pushReport{Entries: 2, Bytes: p.Bytes, LeftOut: 1}, p)
	require.Empty(t, call("push", "-json", "-dir", cache, "-o", filepath.Join(file, "x")).want(t, exitFailed).out)

	to := filepath.Join(t.TempDir(), "cache")
	require.Equal(t, pullReport{DryRun: true, Found: 2}, told[pullReport](t, call("pull", "-json", "-n", file).want(t, exitOK)))
	r := told[pullReport](t, call("pull", "-json", "-dir", to, file).want(t, exitOK))
	require.Positive(t, r.CodeBytes)
	require.Equal(t, pullReport{Found: 2, Stored: 2, CodeBytes: r.CodeBytes}, r)
	require.Equal(t, pullReport{Found: 2}, told[pullReport](t, call("pull", "-json", "-dir", to, file).want(t, exitOK)))
	require.Equal(t, pullReport{LeftOut: 2}, told[pullReport](t, call("pull", "-json", "-dir", to, "-max-entry", "10", file).want(t, exitFound)))

	b, err := os.ReadFile(file)
	require.NoError(t, err)
	cut := pull(b[:len(b)/3], "-json", "-dir", to).want(t, exitFailed)
	told[pullReport](t, cut) // what was stored until then
}

func TestJSONURL(t *testing.T) {
	cache, files := warmed(t, 2)
	url, key, ring := fleetServer(t, "writer")
	t.Setenv("MODCACHE_TOKEN", "writer")
	push := []string{"push", "-json", "-dir", cache, "-sign", key, url}
	p := told[pushReport](t, call(push...).want(t, exitOK))
	require.Positive(t, p.Bytes)
	require.Equal(t, pushReport{Entries: 2, Bytes: p.Bytes}, p)
	require.Equal(t, pushReport{Present: 2}, told[pushReport](t, call(push...).want(t, exitOK)))

	to := filepath.Join(t.TempDir(), "cache")
	r := told[pullReport](t, call("pull", "-json", "-dir", to, "-keyring", ring, url, files[0], files[1], strings.Repeat("1", 64)).want(t, exitFound))
	require.Positive(t, r.CodeBytes)
	require.Equal(t, pullReport{Found: 2, Missing: 1, Stored: 2, CodeBytes: r.CodeBytes}, r)
}

func TestJSONWarm(t *testing.T) {
	src, files := modules(t, 2)
	cache := filepath.Join(t.TempDir(), "cache")
	bad := filepath.Join(src, "x.wasm")
	require.NoError(t, os.WriteFile(bad, []byte("no module"), 0o600))
	require.Equal(t, warmReport{Missing: 2, Modules: []moduleReady{{File: files[0], Outcome: "missing"}, {File: files[1], Outcome: "missing"}}},
		told[warmReport](t, call("warm", "-json", "-require", "-dir", cacheWithNothing(t), files[1], files[0]).want(t, exitFound)))
	o := call("warm", "-json", "-jobs", "1", "-dir", cache, src).want(t, exitFailed)
	require.Contains(t, o.err, bad)
	require.Equal(t, warmReport{Compiled: 2, Failed: 1, Modules: []moduleReady{
		{File: files[0], Outcome: "compiled"}, {File: files[1], Outcome: "compiled"}, {File: bad, Outcome: "failed", Error: "not a WebAssembly module"},
	}}, told[warmReport](t, o))
	require.Equal(t, 1, told[warmReport](t, call("warm", "-json", "-dir", cache, files[0]).want(t, exitOK)).Present)
}

func cacheWithNothing(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	d, err := modcache.OpenDisk(dir, nil)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	return dir
}

func TestJSONServe(t *testing.T) {
	cache, _ := warmed(t, 1)
	key := filepath.Join(t.TempDir(), "key")
	call("keygen", key).want(t, exitOK)
	said := serving(t, "-json", "-dir", cache, "-sign", key)
	require.Regexp(t, `^http://127.0.0.1:\d+$`, told[serveReport](t, outcome{out: said}).URL)
}
