package main

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bundle"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/layout"
)

// pushed returns a bundle with the code of n modules.
func pushed(t *testing.T, n int, flags ...string) (bundle []byte, cache string, files []string) {
	t.Helper()
	cache, files = warmed(t, n)
	var out bytes.Buffer
	callWith(bg, &streams{out: &out}, append([]string{"push", "-dir", cache}, flags...)...).want(t, exitOK)
	return out.Bytes(), cache, files
}

func pull(bundle []byte, args ...string) outcome {
	return callWith(bg, &streams{in: bytes.NewReader(bundle)}, append([]string{"pull"}, args...)...)
}

// sameCode checks that a cache holds what another does, or some of it, and nothing
// else.
func sameCode(t *testing.T, from, to string) (n int) {
	t.Helper()
	src, err := modcache.OpenDisk(from, &modcache.DiskOptions{ReadOnly: true})
	require.NoError(t, err)
	defer src.Close()
	dst, err := modcache.OpenDisk(to, &modcache.DiskOptions{ReadOnly: true})
	require.NoError(t, err)
	defer dst.Close()
	for e, err := range dst.Walk(bg) {
		require.NoError(t, err)
		require.NoError(t, e.Err)
		n++
		got, ok, err := dst.Get(bg, e.Key)
		require.NoError(t, err)
		require.True(t, ok)
		want, ok, err := src.Get(bg, e.Key)
		require.NoError(t, err)
		require.True(t, ok)
		a, err := got.Bytes()
		require.NoError(t, err)
		b, err := want.Bytes()
		require.NoError(t, err)
		require.Equal(t, b, a)
		require.Equal(t, want.Info(), got.Info())
	}
	return n
}

func TestBundle(t *testing.T) {
	bundle, cache, files := pushed(t, 3)
	to := filepath.Join(t.TempDir(), "cache")
	require.Contains(t, pull(bundle, "-dir", to, "-n").want(t, exitOK).out, "3 sound")
	require.NoDirExists(t, to)
	require.Contains(t, pull(bundle, "-dir", to).want(t, exitOK).out, "3 sound, 3 stored, 0 present")
	require.Contains(t, pull(bundle, "-dir", to, "-").want(t, exitOK).out, "3 sound, 0 stored, 3 present")
	require.Equal(t, 3, sameCode(t, cache, to))
	call(append([]string{"warm", "-require", "-dir", to}, files...)...).want(t, exitOK)

	// By file; and the same cache gives the same bytes.
	file := filepath.Join(t.TempDir(), "bundle")
	o := call("push", "-dir", cache, "-o", file).want(t, exitOK)
	require.Contains(t, o.err, "3 entries in the bundle")
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, bundle, b)
	call("pull", "-dir", to, file).want(t, exitOK)
	names, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	require.Len(t, names, 1, "nothing is left beside the bundle")

	call("push", "-dir", cache, "-o", file, "-module", files[1]).want(t, exitOK)
	require.Contains(t, call("pull", "-n", file).want(t, exitOK).out, "1 sound")
	call("push", "-dir", cache, "-o", filepath.Join(file, "x")).want(t, exitFailed)
	call("pull", "-dir", to, filepath.Join(file, "x")).want(t, exitFailed)
	o = pull(bundle, "-dir", filepath.Join(t.TempDir(), "cache"), "-max-entry", "1kB").want(t, exitFound)
	require.Contains(t, o.err, "too large")
}

// TestPullSaysWhatFollows the end of a bundle.
func TestPullSaysWhatFollows(t *testing.T) {
	bundle, _, _ := pushed(t, 2)
	for name, behind := range map[string][]byte{
		"another bundle": bundle, "a byte": {1}, "behind zeros": append(make([]byte, 100_000), 1),
	} {
		to := filepath.Join(t.TempDir(), "cache")
		o := pull(append(slices.Clip(bundle), behind...), "-dir", to).want(t, exitFailed)
		require.Contains(t, o.err, "something follows", name)
		require.Contains(t, o.out, "2 sound, 2 stored", name)
		pull(append(slices.Clip(bundle), behind...), "-n").want(t, exitFailed)
	}
	pull(append(slices.Clip(bundle), make([]byte, 100_000)...), "-n").want(t, exitOK)

	// Nobody waits for long for a pipe that stays open.
	open, w := io.Pipe()
	defer w.Close()
	require.NoError(t, nothingFollows(open, time.Millisecond))
}

// TestPushTakesSnapshots of templates along: those of a module with its code.
func TestPushTakesSnapshots(t *testing.T) {
	cache, files := warmed(t, 2)
	wasm, err := os.ReadFile(files[0])
	require.NoError(t, err)
	template := func(dir string) (snapshots, found uint64) {
		c, err := modcache.Open(dir, nil)
		require.NoError(t, err)
		defer c.Close(bg)
		r, err := c.NewRuntime(bg, nil)
		require.NoError(t, err)
		defer r.Close(bg)
		tmpl, err := r.NewTemplate(bg, modcache.NewModule(wasm), &modcache.TemplateOptions{ID: "1", Init: func(context.Context, api.Module) error { return nil }})
		require.NoError(t, err)
		require.NoError(t, tmpl.Close(bg))
		m := c.Metrics()
		return m.Snapshots, m.SnapshotsFound
	}
	made, _ := template(cache)
	require.EqualValues(t, 1, made)
	file, to := filepath.Join(t.TempDir(), "bundle"), filepath.Join(t.TempDir(), "cache")
	call("push", "-dir", cache, "-o", file, "-module", files[0]).want(t, exitOK)
	call("pull", "-dir", to, file).want(t, exitOK)
	made, found := template(to)
	require.Zero(t, made)
	require.EqualValues(t, 1, found)
}

func TestPushLeavesOutDamage(t *testing.T) {
	cache, _ := warmed(t, 3)
	damage(t, entries(t, cache)[1])
	file := filepath.Join(t.TempDir(), "bundle")
	o := call("push", "-dir", cache, "-o", file).want(t, exitFound)
	require.Contains(t, o.err, "damaged")
	require.Contains(t, o.err, "2 entries in the bundle")
	require.Contains(t, call("pull", "-n", file).want(t, exitOK).out, "2 sound")
}

func TestBundleSecret(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("0123456789abcdef"), 0o600))
	sealed, cache, _ := pushed(t, 2, "-bundle-key-file", secret)
	open, _, _ := pushed(t, 2)
	to := filepath.Join(t.TempDir(), "cache")
	require.Contains(t, pull(sealed, "-dir", to).want(t, exitFound).err, "give -bundle-key-file")
	require.Contains(t, pull(open, "-dir", to, "-bundle-key-file", secret).want(t, exitFound).err, "not sealed with the secret")
	require.Empty(t, entries(t, to))
	pull(sealed, "-dir", to, "-bundle-key-file", secret).want(t, exitOK)
	require.Equal(t, 2, sameCode(t, cache, to))
	for end, code := range map[string]int{"\n": exitOK, "\r\n": exitFound, "\n\n": exitFound} { // as bytes.TrimSuffix(b, "\n")
		require.NoError(t, os.WriteFile(secret, []byte("0123456789abcdef"+end), 0o600))
		pull(sealed, "-dir", filepath.Join(t.TempDir(), "cache"), "-bundle-key-file", secret).want(t, code)
	}
	require.NoError(t, os.WriteFile(secret, []byte("short"), 0o600))
	require.Contains(t, pull(sealed, "-dir", to, "-bundle-key-file", secret).want(t, exitFailed).err, "at least 16")
}

// keyringOf writes lines to a file.
func keyringOf(t *testing.T, lines ...string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "keyring")
	require.NoError(t, os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600))
	return file
}

func TestBundleSigned(t *testing.T) {
	key, public := keypair(t)
	strangersKey, stranger := keypair(t)
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("0123456789abcdef"), 0o600))
	signed, cache, _ := pushed(t, 2, "-sign", key)
	forged, _, _ := pushed(t, 2, "-sign", strangersKey)
	sealed, _, _ := pushed(t, 2, "-bundle-key-file", secret)
	open, _, _ := pushed(t, 2)

	trusted := keyringOf(t, "# ours", public.String()+" # the builder", stranger.String(), "revoked "+stranger.ID().String())
	both := keyringOf(t, stranger.String(), public.String())
	for _, ring := range []string{trusted, both} {
		to := filepath.Join(t.TempDir(), "cache")
		pull(signed, "-dir", to, "-n", "-keyring", ring).want(t, exitOK)
		pull(signed, "-dir", to, "-keyring", ring).want(t, exitOK)
		require.Equal(t, 2, sameCode(t, cache, to))
	}
	pull(forged, "-n", "-keyring", both).want(t, exitOK)

	only := keyringOf(t, public.String())
	to := filepath.Join(t.TempDir(), "cache")
	for _, c := range []struct {
		bundle []byte
		flags  []string
		says   string
	}{
		{forged, []string{"-keyring", only}, "signed with key " + stranger.ID().String() + ", which " + only + " doesn't list"},
		{forged, []string{"-keyring", trusted}, "signed with key " + stranger.ID().String() + ", which " + trusted + " revokes"},
		{open, []string{"-keyring", trusted}, "not signed, and -keyring takes signed entries only: push it again with -sign"},
		{sealed, []string{"-keyring", trusted}, "sealed with a secret, and -keyring takes signed entries only"},
		{signed, nil, "signed with key " + public.ID().String() + ": give a -keyring"},
		{signed, []string{"-bundle-key-file", secret}, "not sealed with the secret in " + secret},
	} {
		o := pull(c.bundle, append([]string{"-dir", to}, c.flags...)...).want(t, exitFound)
		require.Equal(t, 2, strings.Count(o.err, c.says), o.err)
		require.Contains(t, o.out, "0 sound")
		require.Empty(t, entries(t, to))
	}
}

// TestTamperedBundle changes a signed bundle in many places, and claims other signers.
func TestTamperedBundle(t *testing.T) {
	key, public := keypair(t)
	signed, cache, _ := pushed(t, 2, "-sign", key)
	ring := keyringOf(t, public.String())
	step := len(signed)/97 + 1
	for at := 0; at < len(signed); at += step {
		to := filepath.Join(t.TempDir(), "cache")
		changed := bytes.Clone(signed)
		changed[at] ^= 1 << (at % 8)
		o := pull(changed, "-dir", to, "-keyring", ring)
		require.Contains(t, []int{exitOK, exitFailed, exitFound}, o.code, at)
		if kind, _ := kindOf(to); kind == isCache {
			if n := sameCode(t, cache, to); o.code == exitOK {
				require.Equal(t, 2, n, at)
			}
		}
	}

	// A stranger's entries that name a key of the keyring.
	strangersKey, stranger := keypair(t)
	forged, _, _ := pushed(t, 2, "-sign", strangersKey)
	id, ours := stranger.ID(), public.ID()
	require.Equal(t, 2, bytes.Count(forged, id[:]))
	o := pull(bytes.ReplaceAll(forged, id[:], ours[:]), "-n", "-keyring", ring).want(t, exitFound)
	require.Equal(t, 2, strings.Count(o.err, "wrong signature"), o.err)
}

func TestSealUsage(t *testing.T) {
	cache, _ := warmed(t, 1)
	key, public := keypair(t)
	bundle, _, _ := pushed(t, 1, "-sign", key)
	push := func(flags ...string) outcome {
		return call(append([]string{"push", "-dir", cache, "-o", filepath.Join(t.TempDir(), "bundle")}, flags...)...)
	}
	push("-sign", key, "-bundle-key-file", key).want(t, exitUsage)
	pull(bundle, "-n", "-keyring", key, "-bundle-key-file", key).want(t, exitUsage)
	push("-sign", key+"2").want(t, exitFailed)
	require.NotContains(t, push("-sign", keyringOf(t, public.String())).want(t, exitFailed).err, "goroutine")
	require.Contains(t, pull(bundle, "-n", "-keyring", key).want(t, exitFailed).err, "this is a private key")
	require.Contains(t, pull(bundle, "-n", "-keyring", keyringOf(t)).want(t, exitFailed).err, "holds no public key")
	revoked := keyringOf(t, public.String(), "revoked "+public.ID().String())
	require.Contains(t, pull(bundle, "-n", "-keyring", revoked).want(t, exitFailed).err, "revokes all of its keys")
	pull(bundle, "-n", "-keyring", key+"2").want(t, exitFailed)
}

// TestDamagedBundle changes and cuts a bundle in many places.
func TestDamagedBundle(t *testing.T) {
	bundle, cache, _ := pushed(t, 3)
	step := len(bundle)/61 + 1
	for at := 0; at < len(bundle); at += step {
		to := filepath.Join(t.TempDir(), "cache")
		flipped := bytes.Clone(bundle)
		flipped[at] ^= 1 << (at % 8)
		o := pull(flipped, "-dir", to)
		require.Contains(t, []int{exitOK, exitFailed, exitFound}, o.code, at)
		if exists, _ := kindOf(to); exists == isCache {
			if n := sameCode(t, cache, to); o.code == exitOK {
				require.Equal(t, 3, n, at)
			}
		}

		to = filepath.Join(t.TempDir(), "cache")
		o = pull(bundle[:at], "-dir", to)
		if exists, _ := kindOf(to); exists == isCache {
			if n := sameCode(t, cache, to); n < 3 {
				require.Equal(t, exitFailed, o.code, at)
				require.Contains(t, o.err, "pull again")
			}
			pull(bundle, "-dir", to).want(t, exitOK)
			require.Equal(t, 3, sameCode(t, cache, to))
		} else {
			require.Equal(t, exitFailed, o.code, at)
		}
	}
}

// TestStrangeBundles are tar files that others might make.
func TestStrangeBundles(t *testing.T) {
	made, cache, _ := pushed(t, 1)
	r := tar.NewReader(bytes.NewReader(made))
	_, err := r.Next()
	require.NoError(t, err)
	h, err := r.Next()
	require.NoError(t, err)
	entry, err := io.ReadAll(r)
	require.NoError(t, err)

	write := func(members ...*tar.Header) []byte {
		if len(members) > 1 && members[len(members)-1].Name != bundle.End {
			members = append(members, &tar.Header{Name: bundle.End, Typeflag: tar.TypeReg})
		}
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, m := range members {
			content := entry
			switch m.Name {
			case bundle.Start:
				content = []byte(bundle.StartText)
			case bundle.End:
				content = []byte(bundle.EndText(len(members) - 2))
			}
			if m.Size = int64(len(content)); m.Typeflag != tar.TypeReg {
				m.Size, content = 0, nil
			}
			require.NoError(t, w.WriteHeader(m))
			_, err := w.Write(content)
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		return buf.Bytes()
	}
	file := func(name string) *tar.Header { return &tar.Header{Name: name, Typeflag: tar.TypeReg} }
	key := strings.TrimSuffix(h.Name, layout.Suffix)
	other := strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		tar    []byte
		code   int
		stored int
	}{
		"sound":          {write(file(bundle.Start), file(h.Name)), exitOK, 1},
		"twice":          {write(file(bundle.Start), file(h.Name), file(h.Name)), exitOK, 1},
		"an entry short": {bytes.Replace(write(file(bundle.Start), file(h.Name)), []byte(bundle.EndText(1)), []byte(bundle.EndText(2)), 1), exitFailed, 1},
		"no first entry": {write(file(h.Name)), exitFailed, 0},
		"empty":          {nil, exitFailed, 0},
		"text":           {[]byte(strings.Repeat("no tar file ", 1000)), exitFailed, 0},
		"another key":    {write(file(bundle.Start), file(other+layout.Suffix)), exitFound, 0},
		"elsewhere":      {write(file(bundle.Start), file("../../"+h.Name)), exitFound, 0},
		"no key":         {write(file(bundle.Start), file("README")), exitFound, 0},
		"another format": {write(file(bundle.Start), file(key+".v2")), exitFound, 0},
		"directory":      {write(file(bundle.Start), &tar.Header{Name: h.Name, Typeflag: tar.TypeDir}), exitFound, 0},
		"symbolic link":  {write(file(bundle.Start), &tar.Header{Name: h.Name, Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}, file(h.Name)), exitFound, 1},
	} {
		to := filepath.Join(t.TempDir(), "cache")
		pull(c.tar, "-dir", to).want(t, c.code)
		if c.stored == 0 {
			require.Empty(t, entries(t, to), name)
			continue
		}
		require.Equal(t, c.stored, sameCode(t, cache, to), name)
	}
}

func addMember(t *testing.T, w *tar.Writer, name string, content []byte) {
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(content))}))
	_, err := w.Write(content)
	require.NoError(t, err)
}

// TestPullAllocatesWhatArrives has entries that claim far more than follows, and names of any
// length.
func TestPullAllocatesWhatArrives(t *testing.T) {
	const claimed = 64 << 20
	meta := frame.Meta{Key: modcache.Key{1}, Engine: "e"}
	var entry bytes.Buffer
	_, err := frame.Write(&entry, frame.Bytes(make([]byte, claimed)), claimed, meta, &frame.Options{})
	require.NoError(t, err)
	short := entry.Bytes()[:10_000] // the header, and little of the rest

	var made bytes.Buffer
	w := tar.NewWriter(&made)
	addMember(t, w, bundle.Start, []byte(bundle.StartText))
	addMember(t, w, modcache.Key(meta.Key).String()+layout.Suffix, short)
	addMember(t, w, strings.Repeat("x", 100_000), nil)
	addMember(t, w, bundle.End, []byte(bundle.EndText(2)))
	require.NoError(t, w.Close())

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	o := pull(made.Bytes(), "-n").want(t, exitFound)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(claimed/2))
	require.Less(t, len(o.err), 1000)
}

// slowly gives a part of a bundle, then cancels and has nothing more to give.
type slowly struct {
	part   io.Reader
	cancel context.CancelFunc
}

func (s *slowly) Read(p []byte) (int, error) {
	n, err := s.part.Read(p[:min(len(p), 512)])
	if err == io.EOF {
		s.cancel()
		select {}
	}
	return n, err
}

func TestPullInterrupted(t *testing.T) {
	bundle, cache, _ := pushed(t, 4)
	for _, at := range []int{0, 700, len(bundle) / 2, len(bundle) - 2000} {
		to := filepath.Join(t.TempDir(), "cache")
		ctx, cancel := context.WithTimeout(bg, time.Minute)
		in := &slowly{part: bytes.NewReader(bundle[:at]), cancel: cancel}
		o := callWith(ctx, &streams{in: in}, "pull", "-dir", to).want(t, exitFailed)
		require.Contains(t, o.err, "interrupted")
		if kind, _ := kindOf(to); kind == isCache {
			sameCode(t, cache, to)
		}
		pull(bundle, "-dir", to).want(t, exitOK)
		require.Equal(t, 4, sameCode(t, cache, to))
	}
}

func FuzzPull(f *testing.F) {
	src := f.TempDir()
	cache := filepath.Join(src, "cache")
	d, err := modcache.OpenDisk(cache, nil)
	require.NoError(f, err)
	for i := range byte(2) {
		a := modcache.NewArtifact(bytes.Repeat([]byte{i}, 100), modcache.Info{Engine: "e"})
		require.NoError(f, d.Add(bg, modcache.Key{i}, a))
	}
	require.NoError(f, d.Close())
	key, ring := filepath.Join(src, "key"), filepath.Join(src, "keyring")
	public := call("keygen", key)
	require.Equal(f, exitOK, public.code)
	require.NoError(f, os.WriteFile(ring, []byte(public.out), 0o600))
	for _, flags := range [][]string{nil, {"-sign", key}} {
		o := call(append([]string{"push", "-dir", cache}, flags...)...)
		require.Equal(f, exitOK, o.code)
		f.Add([]byte(o.out))
	}
	f.Fuzz(func(t *testing.T, bundle []byte) {
		for _, flags := range [][]string{nil, {"-keyring", ring}} {
			o := pull(bundle, append([]string{"-n", "-max-entry", "1MB"}, flags...)...)
			require.Contains(t, []int{exitOK, exitFailed, exitFound}, o.code)
		}
	})
}
