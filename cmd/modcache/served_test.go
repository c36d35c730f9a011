package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/frame"
)

// uploaded is the directory of a server, with n entries that clients have uploaded.
func uploaded(t *testing.T, n int) (dir string, files []string) {
	t.Helper()
	needsCompiler(t)
	dir = filepath.Join(t.TempDir(), "entries")
	tokens := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(tokens, []byte("writer\n"), 0o600))
	key, _ := keypair(t)
	url, _, stop := started(t, "-dir", dir, "-write-tokens", tokens)
	t.Setenv("MODCACHE_TOKEN", "writer")
	src, files := modules(t, n)
	call("warm", "-to", url, "-sign", key, src).want(t, exitOK)
	stop()
	require.Len(t, entries(t, dir), n)
	return dir, files
}

// keepServed puts into dir what a server would keep: code of an engine in a frame, or bytes that are none if it is "".
// The frame is of the key as well, unless it is a copy that the server has signed.
func keepServed(t *testing.T, dir string, key, inner modcache.Key, engine string) {
	t.Helper()
	var b bytes.Buffer
	info := modcache.Info{Engine: engine, Module: modcache.Fingerprint{1}, WasmSize: 1, Created: time.Now()}
	if engine == "" {
		b.WriteString("no frame")
	} else {
		code := frame.Bytes("code")
		_, err := frame.Write(&b, code, int64(len(code)), frame.MetaOf(inner, info), &frame.Options{})
		require.NoError(t, err)
	}
	d, err := modcache.OpenDisk(dir, nil)
	require.NoError(t, err)
	defer d.Close()
	info.Engine = frame.EntryEngine
	require.NoError(t, d.Add(bg, key, modcache.NewArtifact(b.Bytes(), info)))
}

// TestServedEngines has the directory of a server cleaned as after an update of wazero.
func TestServedEngines(t *testing.T) {
	dir, files := uploaded(t, 2)
	own, err := modcache.EngineID()
	require.NoError(t, err)
	old, oldCopy, copied, strange := modcache.Key{1}, modcache.Key{2}, modcache.Key{3}, modcache.Key{4}
	keepServed(t, dir, old, old, "old engine")
	keepServed(t, dir, oldCopy, old, "old engine")
	keepServed(t, dir, copied, modcache.Key{5}, own)
	keepServed(t, dir, strange, strange, "")
	before := time.Now().Add(-time.Hour).Truncate(time.Second)
	for _, file := range entries(t, dir) {
		require.NoError(t, os.Chtimes(file, before, before))
	}
	listed := func(args ...string) map[string]int {
		engines := make(map[string]int)
		out := json.NewDecoder(bytes.NewBufferString(call(append([]string{"ls", "-json", "-dir", dir}, args...)...).want(t, exitOK).out))
		for out.More() {
			var e entryJSON
			require.NoError(t, out.Decode(&e))
			engines[e.Engine]++
		}
		return engines
	}
	all := map[string]int{own: 3, "old engine": 2, frame.EntryEngine: 1}
	require.Equal(t, all, listed())
	require.Equal(t, map[string]int{own: 3}, listed("-this-engine"))
	require.Equal(t, map[string]int{"old engine": 2}, listed("-other-engines"))
	require.Contains(t, call("ls", "-dir", dir, "-l").want(t, exitOK).out, own)

	var sum summary
	require.NoError(t, json.Unmarshal([]byte(call("stat", "-json", "-dir", dir).want(t, exitOK).out), &sum))
	require.Equal(t, 6, sum.Served)
	counted := make(map[string]int)
	for _, en := range sum.Engines {
		counted[en.Engine] = en.Entries
		require.Equal(t, en.Engine == own, en.This)
	}
	require.Equal(t, all, counted)
	o := call("stat", "-dir", dir).want(t, exitOK)
	require.Contains(t, o.out, own+" *\n")
	require.Contains(t, o.out, "6 of them, for its clients")
	o = call("doctor", "-dir", dir, files[0]).want(t, exitFound)
	require.Contains(t, o.out, "all are of a server")
	require.NotContains(t, o.out, "another engine only")

	for _, args := range [][]string{{"rm", "-other-engines"}, {"trim", "-max-bytes", "0"}} {
		var dry struct{ Entries []entryJSON }
		require.NoError(t, json.Unmarshal([]byte(call(append(args, "-n", "-json", "-dir", dir)...).want(t, exitOK).out), &dry))
		engines := make(map[string]int)
		for _, e := range dry.Entries {
			engines[e.Engine]++
		}
		want := maps.Clone(all)
		if args[0] == "rm" {
			want = map[string]int{"old engine": 2}
		}
		require.Equal(t, want, engines, args)
	}
	require.Contains(t, call("rm", "-other-engines", "-dir", dir).want(t, exitOK).out, "2 entries removed")
	require.Equal(t, map[string]int{own: 3, frame.EntryEngine: 1}, listed())
	for _, file := range entries(t, dir) {
		fi, err := os.Stat(file)
		require.NoError(t, err)
		require.True(t, before.Equal(fi.ModTime()), "a look is no use")
	}
	require.Contains(t, call("rm", "-this-engine", "-dir", dir).want(t, exitOK).out, "3 entries removed")
	require.Equal(t, map[string]int{frame.EntryEngine: 1}, listed())
}

// TestPushOfServed selects what a server keeps for its clients.
func TestPushOfServed(t *testing.T) {
	dir, files := uploaded(t, 2)
	file := filepath.Join(t.TempDir(), "bundle")
	push := func(code int, args ...string) (r pushReport, stderr string) {
		o := call(append([]string{"push", "-json", "-o", file}, args...)...).want(t, code)
		require.NoError(t, json.Unmarshal([]byte(o.out), &r))
		return r, o.err
	}
	r, said := push(exitFound, "-dir", dir)
	require.Equal(t, pushReport{LeftOut: 2}, r)
	require.Contains(t, said, "2 entries of a server are left out: push from the directory")
	var e entryJSON
	require.NoError(t, json.Unmarshal([]byte(call("ls", "-json", "-dir", dir, "-module", files[0]).want(t, exitOK).out), &e))
	r, _ = push(exitFound, "-dir", dir, e.Key)
	require.Equal(t, 1, r.LeftOut)
	r, _ = push(exitFound, "-dir", dir, "-module", files[0])
	require.Equal(t, 1, r.LeftOut)
	require.NoFileExists(t, file, "it would be empty")
	url, key, _ := fleetServer(t, "writer")
	t.Setenv("MODCACHE_TOKEN", "writer")
	o := call("push", "-dir", dir, "-sign", key, url).want(t, exitFound)
	require.Empty(t, o.out)
	require.Contains(t, o.err, "2 entries of a server")

	// A copy that a server has signed is nothing that a bundle lacks, but no entry for whoever names it.
	cache, _ := warmed(t, 1)
	copied := modcache.Key{1}
	keepServed(t, cache, copied, modcache.Key{2}, "engine")
	r, said = push(exitOK, "-dir", cache)
	require.Equal(t, 1, r.Entries)
	require.Zero(t, r.LeftOut)
	require.NotContains(t, said, "server")
	whole, _, _ := strings.Cut(filepath.Base(entries(t, cache)[0]), ".")
	if whole == copied.String() {
		whole, _, _ = strings.Cut(filepath.Base(entries(t, cache)[1]), ".")
	}
	r, _ = push(exitFound, "-dir", cache, whole, copied.String())
	require.Equal(t, 1, r.Entries)
	require.Equal(t, 1, r.LeftOut)
	r, said = push(exitFound, "-dir", cache, copied.String())
	require.Equal(t, 1, r.LeftOut)
	require.Contains(t, said, "1 entry of a server is left out")
}
