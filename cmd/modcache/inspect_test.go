package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/environ"
	"github.com/modcache/modcache/internal/layout"
	"github.com/modcache/modcache/internal/wasmtest"
)

func TestLs(t *testing.T) {
	cache, files := warmed(t, 3)
	o := call("ls", "-dir", cache, "-json").want(t, exitOK)
	var listed []entryJSON
	for line := range strings.Lines(o.out) {
		var e entryJSON
		require.NoError(t, json.Unmarshal([]byte(line), &e))
		listed = append(listed, e)
	}
	require.Len(t, listed, 3)
	wasm, err := os.ReadFile(files[1])
	require.NoError(t, err)
	o = call("ls", "-dir", cache, "-module", files[1], "-json").want(t, exitOK)
	var e entryJSON
	require.NoError(t, json.Unmarshal([]byte(o.out), &e))
	require.Equal(t, modcache.Sum(wasm).String(), e.Module)
	require.Equal(t, int64(len(wasm)), e.WasmBytes)
	require.Positive(t, e.CompileTime)
	require.WithinDuration(t, time.Now(), *e.Created, time.Hour)

	require.Contains(t, call("ls", "-dir", cache, e.Key[:8]).want(t, exitOK).out, e.Key[:16])
	require.Contains(t, call("ls", "-dir", cache, "-l", e.Key).want(t, exitOK).out, e.Engine)
	require.Contains(t, call("ls", "-dir", cache, "00000000").want(t, exitFound).err, "00000000")
	require.Contains(t, call("ls", "-dir", cache, "-other-engines").want(t, exitOK).out, "no entries")
	require.Contains(t, call("ls", "-dir", cache, "-unused-for", "1h").want(t, exitOK).out, "no entries")
	require.NotContains(t, call("ls", "-dir", cache, "-unused-for", "0s").want(t, exitOK).out, "no entries")
	require.NotContains(t, call("rm", "-n", "-dir", cache, "-unused-for", "0s").want(t, exitOK).out, "no entries", "0s is a filter too")
	require.Equal(t, 4, strings.Count(call("ls", "-dir", cache, "-this-engine").want(t, exitOK).out, "\n"))

	for _, args := range [][]string{{"ls"}, {"ls", "-json"}} {
		w := new(writes)
		callWith(bg, &streams{out: w}, append(args, "-dir", cache)...).want(t, exitOK)
		require.EqualValues(t, 1, *w, "one for each cell or line takes longer than what is written")
	}

	// What a file says can't steer the terminal.
	d, err := modcache.OpenDisk(cache, nil)
	require.NoError(t, err)
	odd := modcache.Info{Engine: "\x1b[31mred", Created: time.Unix(1<<61, 0), CompileTime: -1}
	require.NoError(t, d.Add(bg, modcache.Key{7}, modcache.NewArtifact([]byte("x"), odd)))
	require.NoError(t, d.Close())
	bundle := filepath.Join(t.TempDir(), "bundle")
	call("push", "-dir", cache, "-o", bundle).want(t, exitOK)
	require.Contains(t, call("pull", "-n", bundle).want(t, exitOK).out, "4 sound")
	for _, args := range [][]string{{"ls"}, {"ls", "-l"}, {"ls", "-json"}, {"stat"}, {"stat", "-json"}, {"doctor"}, {"doctor", "-json"}} {
		o := call(append(args, "-dir", cache)...).want(t, exitOK)
		require.NotContains(t, o.out, "\x1b", args)
	}
}

// writes counts how often something is written.
type writes int

func (w *writes) Write(p []byte) (int, error) {
	*w++
	return len(p), nil
}

func TestStat(t *testing.T) {
	cache, _ := warmed(t, 2)
	d, err := modcache.OpenDisk(cache, nil)
	require.NoError(t, err)
	require.NoError(t, d.Add(bg, modcache.Key{7}, modcache.NewArtifact([]byte("x"), modcache.Info{Engine: "older"})))
	require.NoError(t, d.Close())
	damage(t, entries(t, cache)[2]) // in code, which stat does not read
	require.NoError(t, os.WriteFile(filepath.Join(cache, "0", strings.Repeat("0", 64)+".v0"), []byte("an older format"), 0o600))

	var sum summary
	require.NoError(t, json.Unmarshal([]byte(call("stat", "-dir", cache, "-json").want(t, exitOK).out), &sum))
	require.Equal(t, 3, sum.Entries)
	require.Len(t, sum.Engines, 2)
	own, err := modcache.EngineID()
	require.NoError(t, err)
	for _, en := range sum.Engines {
		require.Equal(t, en.Engine == own, en.This)
		require.False(t, en.OldestUse.After(en.LatestUse))
	}
	require.Equal(t, []kindSummary{{"of another format", 1, 4096}}, sum.Other)
	require.NotNil(t, sum.LastTrim)

	o := call("stat", "-dir", cache).want(t, exitOK)
	require.Contains(t, o.out, own+" *\n")
	require.Contains(t, o.out, "older\n")
	require.Contains(t, o.out, "1 of another format")
	o = call("stat", "-dir", cache, "-engine-id", "older").want(t, exitOK)
	require.Contains(t, o.out, "older *\n")
}

func TestStatLimits(t *testing.T) {
	cache, _ := warmed(t, 1)
	stat := func() (summary, string) {
		return told[summary](t, call("stat", "-json", "-dir", cache).want(t, exitOK)), call("stat", "-dir", cache).want(t, exitOK).out
	}
	t.Setenv(environ.MaxBytes, "")
	sum, text := stat()
	require.Equal(t, limits{MaxBytes: modcache.DefaultDiskMaxBytes, Why: "default, unless the program sets another", MaxAge: int64(modcache.DefaultDiskMaxAge)}, sum.Limits)
	require.Regexp(t, `size limit +2GiB, of which 0\.0% is used; default`, text)
	require.Regexp(t, `age limit +30d without use, the longest unused entry: just now`, text)

	t.Setenv(environ.MaxBytes, strconv.FormatInt(2*sum.Bytes, 10))
	sum, text = stat()
	require.Equal(t, 2*sum.Bytes, sum.Limits.MaxBytes)
	require.Equal(t, said, sum.Limits.Why)
	require.Contains(t, text, "of which 50.0% is used; "+said)

	t.Setenv(environ.MaxBytes, "plenty")
	sum, text = stat()
	require.Equal(t, int64(modcache.DefaultDiskMaxBytes), sum.Limits.MaxBytes)
	require.Contains(t, sum.Limits.Problem, "ignored")
	require.Contains(t, text, sum.Limits.Problem)
}

func TestVerify(t *testing.T) {
	cache, _ := warmed(t, 3)
	require.Contains(t, call("verify", "-dir", cache).want(t, exitOK).out, "3 entries are sound")
	file := entries(t, cache)[1]
	damage(t, file)
	o := call("verify", "-dir", cache).want(t, exitFound)
	require.Contains(t, o.out, strings.TrimSuffix(filepath.Base(file), ".v1")+"  damaged: ")
	require.NotContains(t, o.out, cache)
	require.Contains(t, o.out, "2 entries are sound")
	require.FileExists(t, file)
	var v verified
	require.NoError(t, json.Unmarshal([]byte(call("verify", "-dir", cache, "-json").want(t, exitFound).out), &v))
	require.Equal(t, 2, v.Sound)
	require.Equal(t, strings.TrimSuffix(filepath.Base(file), ".v1"), v.Damaged[0].Key)
	require.Contains(t, v.Damaged[0].Error, "damaged: ")
	call("verify", "-dir", cache, "-quarantine").want(t, exitFound)
	require.NoFileExists(t, file)
	call("verify", "-dir", cache).want(t, exitOK)
	require.Contains(t, call("stat", "-dir", cache).out, "1 damaged, in quarantine")
}

func TestTrim(t *testing.T) {
	cache, _ := warmed(t, 4)
	old := entries(t, cache)[2]
	before := time.Now().Add(-1000 * time.Hour)
	require.NoError(t, os.Chtimes(old, before, before))
	// Other commands that write evict nothing, even if a trim is due.
	due := time.Now().Add(-2 * time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(cache, "trimmed"), due, due))
	call("rm", "-dir", cache, "-other-engines").want(t, exitOK)
	require.Len(t, entries(t, cache), 4)
	o := call("trim", "-dir", cache, "-max-age", "1d").want(t, exitOK)
	require.Contains(t, o.out, "1 entry dropped")
	require.NoFileExists(t, old)
	fi, err := os.Stat(entries(t, cache)[0])
	require.NoError(t, err)
	call("trim", "-dir", cache, "-max-bytes", byteText(2*dirfs.Taken(fi))).want(t, exitOK)
	require.Len(t, entries(t, cache), 2)
	o = call("trim", "-dir", cache, "-max-bytes", "0").want(t, exitOK)
	require.Contains(t, o.out, "0 entries stay, 0 B, within -max-bytes 0 -max-age 30d")
}

// TestTrimForesees compares what -n prints with what happens then.
func TestTrimForesees(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	for round := range 12 {
		cache := filepath.Join(t.TempDir(), "cache")
		d, err := modcache.OpenDisk(cache, nil)
		require.NoError(t, err)
		for i := range byte(20) {
			a := modcache.NewArtifact(make([]byte, 1+rnd.IntN(5000)), modcache.Info{Engine: "e"})
			require.NoError(t, d.Add(bg, modcache.Key{i << 4, i}, a))
		}
		_, err = d.Trim(bg) // so that opening it again starts none
		require.NoError(t, err)
		require.NoError(t, d.Close())
		total := int64(0)
		for _, file := range entries(t, cache) {
			// From a day ahead to 34 days ago, many at the same time.
			used := time.Now().Add(24 * time.Hour * time.Duration(1-5*rnd.IntN(8))).Truncate(time.Hour)
			require.NoError(t, os.Chtimes(file, used, used))
			fi, err := os.Stat(file)
			require.NoError(t, err)
			total += fi.Size()
		}
		if round%3 == 0 {
			damage(t, entries(t, cache)[3])
		}
		flags := []string{"-dir", cache, "-max-age", "20d", "-max-bytes", strconv.FormatInt(rnd.Int64N(total), 10)}

		before, there := snapshot(t, cache), keysOf(entries(t, cache))
		o := call(append([]string{"trim", "-n"}, flags...)...).want(t, exitOK)
		require.Equal(t, before, snapshot(t, cache))
		dropped, rest, _ := strings.Cut(call(append([]string{"trim"}, flags...)...).want(t, exitOK).out, " dropped, ")
		bytes, _, _ := strings.Cut(rest, ";")
		left := keysOf(entries(t, cache))

		var gone, foretold []string
		for _, key := range there {
			if !slices.Contains(left, key) {
				gone = append(gone, key)
			}
		}
		lines := strings.Split(strings.TrimSpace(o.out), "\n")
		for _, line := range lines[:len(lines)-1] {
			if key, _, _ := strings.Cut(line, " "); key != "KEY" {
				foretold = append(foretold, key)
			}
		}
		require.ElementsMatch(t, gone, foretold, "seed %d, round %d: %s", seed, round, o.out)
		require.Contains(t, lines[len(lines)-1], dropped+" would be dropped, "+bytes+"; ", "seed %d, round %d", seed, round)
	}
}

// keysOf returns the keys of files as ls prints them.
func keysOf(files []string) (keys []string) {
	for _, file := range files {
		keys = append(keys, filepath.Base(file)[:16])
	}
	return keys
}

func TestTrimForeseesLimits(t *testing.T) {
	cache, _ := warmed(t, 2)
	require.Contains(t, call("trim", "-n", "-dir", cache).want(t, exitOK).out,
		"0 entries would be dropped, 0 B; 2 entries left, ")
	o := call("trim", "-n", "-dir", cache, "-max-bytes", "0", "-max-age", "36h").want(t, exitOK)
	require.Contains(t, o.out, "2 entries would be dropped, ")
	require.Contains(t, o.out, "0 entries left, 0 B; limits: -max-bytes 0 -max-age 36h0m0s")
	require.Len(t, entries(t, cache), 2)
}

func byteText(n int64) string { b := byteCount(n); return b.String() }

func TestRm(t *testing.T) {
	cache, files := warmed(t, 4)
	call("rm", "-n", "-dir", cache, "-all").want(t, exitOK)
	require.Len(t, entries(t, cache), 4)
	key := strings.TrimSuffix(filepath.Base(entries(t, cache)[0]), ".v1")
	require.Contains(t, call("rm", "-dir", cache, key[:12]).want(t, exitOK).out, "1 entry removed")
	call("rm", "-dir", cache, key).want(t, exitFound)
	// One that is missing keeps the others.
	other := strings.TrimSuffix(filepath.Base(entries(t, cache)[0]), ".v1")
	call("rm", "-dir", cache, other, key).want(t, exitFound)
	require.Len(t, entries(t, cache), 3)
	gone := 0
	for _, file := range files {
		if call("rm", "-dir", cache, "-module", file).code == exitFound {
			gone++
		}
	}
	require.Equal(t, 1, gone, "the one that was removed by its key")
	require.Empty(t, entries(t, cache))
	call("warm", "-dir", cache, files[0]).want(t, exitOK)
	damage(t, entries(t, cache)[0])
	call("rm", "-dir", cache, "-all").want(t, exitOK)
	require.Empty(t, entries(t, cache))
}

func TestKey(t *testing.T) {
	cache, files := warmed(t, 1)
	var r keyReport
	require.NoError(t, json.Unmarshal([]byte(call("key", "-json", files[0]).want(t, exitOK).out), &r))
	require.Nil(t, r.Comparison)
	wasm, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.Equal(t, modcache.Sum(wasm).String(), r.Modules[0].Fingerprint)
	require.Equal(t, 40, r.Modules[0].Functions)
	require.Len(t, entries(t, cache), 1)
	require.Contains(t, entries(t, cache)[0], r.Modules[0].Key, "the key is the one that warm stores under")
	o := call("key", files[0], "-close-on-context-done").want(t, exitOK)
	require.NotContains(t, o.out, r.Modules[0].Key)
	o = call("key", files[0], "-engine-id", "executable 00").want(t, exitOK)
	require.Contains(t, o.out, "key          none: ")

	none := filepath.Join(t.TempDir(), "none.wasm")
	require.Contains(t, call("key", none).want(t, exitFailed).err, none)
	require.NoError(t, os.WriteFile(none, []byte("nothing"), 0o600))
	require.Contains(t, call("key", none).want(t, exitFailed).err, "not a WebAssembly module")
	require.Contains(t, call("warm", "-dir", cache, none).want(t, exitFailed).err, "not a WebAssembly module")
}

func TestCompare(t *testing.T) {
	var named, padded wasmtest.Module
	for _, m := range []*wasmtest.Module{&named, &padded} {
		typ := m.Type(nil, []byte{wasmtest.I32})
		m.Import("env", "f", typ)
		for i := range 3 {
			body := []byte{0x41, byte(i)}
			if m == &padded {
				body = []byte{0x41, 0x80 | byte(i), 0}
			}
			m.Func(typ, "", body...)
		}
	}
	plainModule := named.Bytes()
	named.Custom("note", []byte("built today"))
	other := append([]byte(nil), plainModule...)
	other[len(other)-2]++ // the constant of the last body
	var longer wasmtest.Module
	typ := longer.Type(nil, []byte{wasmtest.I32})
	longer.Import("env", "f", typ)
	longer.Func(typ, "", 0x41, 0)
	for _, c := range []struct {
		name string
		a, b []byte
		want string
		same bool
	}{
		{"identical", plainModule, plainModule, "identical", true},
		{"custom", plainModule, named.Bytes(), "spelling or custom sections only", true},
		{"padded", plainModule, padded.Bytes(), "spelling or custom sections only", true},
		{"padded and custom", named.Bytes(), padded.Bytes(), "spelling or custom sections only", true},
		{"a body", plainModule, other, "different programs: function 3 is the first that differs", false},
		{"a body, padded", padded.Bytes(), other, "different programs: function 3 is the first that differs", false},
		{"fewer functions", plainModule, longer.Bytes(), `different programs: section "function" is the first that differs`, false},
		{"another shape", plainModule, wasmtest.Const(1), "different programs: they don't have the same sections", false},
		{"no module", plainModule, []byte("nothing"), "no canonical encoding that tells whether only in spelling: ", false},
	} {
		for _, r := range []*comparison{compare(c.a, c.b), compare(c.b, c.a)} {
			require.Contains(t, r.Verdict, c.want, c.name)
			require.Equal(t, c.same, r.SameCode, c.name)
		}
	}
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	require.NoError(t, os.WriteFile(a, plainModule, 0o600))
	require.NoError(t, os.WriteFile(b, other, 0o600))
	require.Contains(t, call("key", a, b).want(t, exitOK).out, "function 3 is the first that differs\n")
}

func TestDoctor(t *testing.T) {
	cache, files := warmed(t, 2)
	o := call("doctor", "-dir", cache, files[0], files[1]).want(t, exitOK)
	require.Equal(t, 2, strings.Count(o.out, "is there: "))
	require.NotContains(t, o.out, "exceptions")
	throws := filepath.Join(t.TempDir(), "throws.wasm")
	require.NoError(t, os.WriteFile(throws, []byte("\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x0d\x03\x01\x00\x00"), 0o600))
	require.Contains(t, call("doctor", "-dir", cache, throws).want(t, exitFound).out, "throws.wasm uses exceptions")
	o = call("doctor", "-dir", cache, "-close-on-context-done", files[0]).want(t, exitFound)
	require.Contains(t, o.out, "not for this platform, CPU and these settings")
	_, others := modules(t, 3)
	require.Contains(t, call("doctor", "-dir", cache, others[2]).want(t, exitFound).out, "is not there: never compiled")
	damage(t, entries(t, cache)[0])
	damage(t, entries(t, cache)[1])

	var r struct{ Findings []finding }
	require.NoError(t, json.Unmarshal([]byte(call("doctor", "-json", "-dir", cache).out), &r))
	require.NotEmpty(t, r.Findings)
	require.Contains(t, call("doctor", "-dir", cache, "-engine-id", "release 1").want(t, exitFound).out, "none is of the engine in question")
	require.Contains(t, call("doctor", "-dir", filepath.Join(cache, "none")).want(t, exitFound).out, "there is no cache in")
	require.Contains(t, call("doctor", "-dir", cache, "-program", files[0]).want(t, exitFailed).err, "not an executable that Go built")
	call("doctor", "-dir", cache, "-features", "v9").want(t, exitUsage)
	call("doctor", "-dir", cache, filepath.Join(cache, "none.wasm")).want(t, exitFailed)
}

func TestValues(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "17": 17, "500MB": 500e6, "2GiB": 2 << 30, "1.5kB": 1500, "1 KiB": 1024, "3B": 3,
		"-1": -1, "": -1, "x": -1, "1XB": -1, "NaN": -1, "9999999TB": -1, "Inf": -1,
	} {
		b := keptBytes(-1)
		if err := b.Set(text); want < 0 {
			require.Error(t, err, text)
		} else {
			require.NoError(t, err, text)
		}
		require.Equal(t, want, int64(b), text)
		c := byteCount(-1)
		require.Equal(t, want > 0, c.Set(text) == nil, text)
		require.Equal(t, want > 0, c > 0, text)
	}
	for text, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "90m": 90 * time.Minute, "0": 0, "0.5d": 12 * time.Hour,
		"-1d": -1, "d": -1, "NaNd": -1, "1e9d": -1, "-2h": -1, "x": -1,
	} {
		a := age(-1)
		if err := a.Set(text); want < 0 {
			require.Error(t, err, text)
		}
		require.Equal(t, want, time.Duration(a), text)
	}
	for _, text := range []string{"v1", "v2", "v2,threads,tail-call", "v1,simd", "threads"} {
		var f featureSet
		require.NoError(t, f.Set(text))
		require.Equal(t, text == "threads", f.String() == "threads")
		var again featureSet
		require.NoError(t, again.Set(f.String()))
		require.Equal(t, f, again)
	}
}

// spellings returns a module, and the same with a name and padded numbers.
func spellings(t *testing.T) (first, second string) {
	t.Helper()
	needsCompiler(t)
	dir := t.TempDir()
	for i, name := range []string{"first.wasm", "second.wasm"} {
		var m wasmtest.Module
		typ := m.Type(nil, []byte{wasmtest.I32})
		for f := range 30 {
			number := [][]byte{{0x80 | byte(f), 0x80, 0}, {0x80 | byte(f), 0}}[i]
			m.Func(typ, "", append([]byte{0x41}, number...)...)
		}
		m.Custom("note", []byte(name))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), m.Bytes(), 0o600))
	}
	return filepath.Join(dir, "first.wasm"), filepath.Join(dir, "second.wasm")
}

// TestSpellings warms one spelling of a module and asks for another.
func TestSpellings(t *testing.T) {
	first, second := spellings(t)
	cache := filepath.Join(t.TempDir(), "cache")
	require.Contains(t, call("key", first, second).want(t, exitOK).out, "a Runtime uses the same machine code for both\n")
	require.Contains(t, call("warm", "-dir", cache, first).want(t, exitOK).out, "1 compiled")
	require.Contains(t, call("doctor", "-dir", cache, second).want(t, exitOK).out, "second.wasm is there: a runtime loads it")
	call("warm", "-dir", cache, "-require", second).want(t, exitOK)
	require.Contains(t, call("warm", "-dir", cache, second).want(t, exitOK).out, "0 compiled, 1 present")
	out := call("ls", "-dir", cache).want(t, exitOK).out
	require.Equal(t, 3, strings.Count(out, "\n"), "a module has one line: %s", out)
	require.Contains(t, out, "first.wasm")
	require.Contains(t, out, "and 2 aliases, by which")
	require.Equal(t, 3, strings.Count(call("ls", "-dir", cache, "-json").want(t, exitOK).out, `"name":"first.wasm"`)+
		strings.Count(call("ls", "-dir", cache, "-json").want(t, exitOK).out, `"name":"second.wasm"`))
	require.Regexp(t, `(?m)^aliases +2 of them`, call("stat", "-dir", cache).want(t, exitOK).out)

	// A bundle of one spelling serves the other.
	bundle := filepath.Join(t.TempDir(), "bundle")
	call("push", "-dir", cache, "-o", bundle, "-module", first).want(t, exitOK)
	to := filepath.Join(t.TempDir(), "cache")
	call("pull", "-dir", to, bundle).want(t, exitOK)
	call("warm", "-dir", to, "-require", second).want(t, exitOK)

	// Nobody has asked for the other one there, so that only the canonical encoding leads to it.
	fresh := filepath.Join(t.TempDir(), "fresh")
	call("warm", "-dir", fresh, first).want(t, exitOK)
	for _, from := range []string{cache, fresh} {
		call("push", "-dir", from, "-o", bundle, "-module", second).want(t, exitOK)
		to = filepath.Join(t.TempDir(), "cache")
		call("pull", "-dir", to, bundle).want(t, exitOK)
		call("warm", "-dir", to, "-require", second).want(t, exitOK)
		call("push", "-dir", from, "-o", bundle, "-engine-id", "another", "-module", second).want(t, exitFound)
	}

	// The code went, and the alias that leads to it stayed.
	for _, file := range entries(t, fresh) {
		if b, err := os.ReadFile(file); err == nil && bytes.Contains(b, []byte("WAZEVO")) {
			require.NoError(t, os.Remove(file))
		}
	}
	require.Len(t, entries(t, fresh), 1)
	require.Contains(t, call("doctor", "-dir", fresh, first).want(t, exitFound).out, "first.wasm is not there: never compiled with this cache, or dropped since")

	require.Contains(t, call("ls", "-dir", cache, "-module", second).want(t, exitOK).out, "first.wasm")
	call("rm", "-dir", cache, "-module", second).want(t, exitOK)
	require.Empty(t, entries(t, cache))
}

// TestModuleThatSelectsNothing is told from one that is there.
func TestModuleThatSelectsNothing(t *testing.T) {
	cache, _ := warmed(t, 1)
	_, others := modules(t, 2)
	bundle := filepath.Join(t.TempDir(), "bundle")
	for _, args := range [][]string{{"ls"}, {"ls", "-json"}, {"rm"}, {"rm", "-n"}, {"push", "-o", bundle}} {
		o := call(append(args, "-dir", cache, "-module", others[1])...).want(t, exitFound)
		require.Contains(t, o.err, "no entry that is selected has the code of "+others[1])
		require.Empty(t, o.out)
	}
	require.NoFileExists(t, bundle)
	require.Len(t, entries(t, cache), 1)
}

// TestEntriesThatAreNone has a directory under the name of an entry.
func TestEntriesThatAreNone(t *testing.T) {
	cache, _ := warmed(t, 2)
	name := filepath.Join(cache, "5", "5"+strings.Repeat("0", 63)+".v1")
	require.NoError(t, os.MkdirAll(filepath.Join(name, "x"), 0o700))
	require.Contains(t, call("verify", "-dir", cache).want(t, exitFound).out, "not a regular file")
	require.DirExists(t, name, "looking changes nothing")
	require.Contains(t, call("verify", "-dir", cache, "-quarantine").want(t, exitFound).out, "not a regular file")
	require.NoDirExists(t, name)
	call("verify", "-dir", cache).want(t, exitOK)

	require.NoError(t, os.MkdirAll(filepath.Join(name, "x"), 0o700))
	require.Contains(t, call("rm", "-dir", cache, "-all").want(t, exitOK).out, "3 entries removed")
	require.NoDirExists(t, name)
	call("verify", "-dir", cache).want(t, exitOK)
}

// TestEntriesThatStay has an entry in a directory that can't be changed.
func TestEntriesThatStay(t *testing.T) {
	if !cachetest.Unprivileged(t) {
		return
	}
	cache := filepath.Join(t.TempDir(), "cache")
	d, err := modcache.OpenDisk(cache, nil)
	require.NoError(t, err)
	for i := range byte(3) {
		require.NoError(t, d.Add(bg, modcache.Key{i << 4}, modcache.NewArtifact([]byte("x"), modcache.Info{Engine: "e"})))
	}
	require.NoError(t, d.Close())
	damage(t, filepath.Join(cache, "1", "10"+strings.Repeat("0", 62)+".v1"))
	shard := filepath.Join(cache, "1")
	require.NoError(t, os.Chmod(shard, 0o500))
	defer os.Chmod(shard, 0o700)
	require.Contains(t, call("verify", "-dir", cache, "-quarantine").want(t, exitFailed).err, "1 entry stays")
	require.Contains(t, call("trim", "-dir", cache, "-max-bytes", "0").want(t, exitFailed).err, "the limits don't hold")
	require.Len(t, entries(t, cache), 1)
	require.Contains(t, call("rm", "-dir", cache, "-all").want(t, exitFailed).err, "1 entry could not be removed")
	require.NoError(t, os.Chmod(shard, 0o700))
	call("rm", "-dir", cache, "-all").want(t, exitOK)
}

// TestTrimBesideOthers stores an entry between a trim and the look at what is left: it goes, and nothing stays.
func TestTrimBesideOthers(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "cache")
	d, err := modcache.OpenDisk(cache, &modcache.DiskOptions{MaxBytes: 1})
	require.NoError(t, err)
	defer d.Close()
	other, err := modcache.OpenDisk(cache, nil)
	require.NoError(t, err)
	defer other.Close()
	r, err := d.Trim(bg)
	require.NoError(t, err)
	require.NoError(t, other.Add(bg, modcache.Key{1}, modcache.NewArtifact([]byte("x"), modcache.Info{Engine: "e"})))
	r, stay, err := trimAgain(bg, d, r)
	require.NoError(t, err)
	require.Empty(t, stay)
	require.Zero(t, r.Entries)
	require.EqualValues(t, 1, d.Metrics().Evictions)
}

// TestUnlisted has a part of a directory that can't be listed.
func TestUnlisted(t *testing.T) {
	cache, _ := warmed(t, 3)
	var broken string
	for _, digit := range layout.Shards {
		if _, err := os.Stat(filepath.Join(cache, string(digit))); err != nil {
			broken = filepath.Join(cache, string(digit))
		}
	}
	require.NoError(t, os.WriteFile(broken, nil, 0o600))
	fails := func(args ...string) outcome {
		o := call(append(args, "-dir", cache)...).want(t, exitFailed)
		require.Regexp(t, filepath.Base(broken)+": ", o.err, args)
		return o
	}
	require.Equal(t, 4, strings.Count(fails("ls").out, "\n"))
	require.Equal(t, 3, strings.Count(fails("ls", "-json").out, "\n"))
	require.Equal(t, 3, told[summary](t, fails("stat", "-json")).Entries)
	require.Contains(t, fails("stat").out, "entries ")
	require.Equal(t, 3, told[verified](t, fails("verify", "-json")).Sound)
	require.Contains(t, fails("verify").out, "3 entries are sound")
	trimmed := fails("trim").out
	require.Contains(t, trimmed, "3 entries stay")
	require.NotContains(t, trimmed, ", within")
	require.Equal(t, 4, strings.Count(fails("rm", "-n", "-all").out, "\n"))
	fails("push", "-o", filepath.Join(t.TempDir(), "bundle"))
	fails("rm", strings.Repeat(filepath.Base(broken), minPrefix))
	require.Len(t, entries(t, cache), 3)

	require.Contains(t, fails("rm", "-all").out, "3 entries removed")
	require.Empty(t, entries(t, cache))
	require.Equal(t, 0, told[rmReport](t, fails("rm", "-json", "-all")).Removed)
}
