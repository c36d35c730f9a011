package remote_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/remote"
)

func newHandler(t testing.TB, s modcache.Store, o *remote.HandlerOptions) *remote.Handler {
	t.Helper()
	h, err := remote.NewHandler(s, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

// metric returns a figure of a handler as the text of Prometheus has it; "" if there is none.
func metric(t testing.TB, h *remote.Handler, name string) string {
	t.Helper()
	var out strings.Builder
	require.NoError(t, h.WriteMetrics(&out))
	for line := range strings.Lines(out.String()) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func openDisk(t testing.TB, dir string, o *modcache.DiskOptions) *modcache.Disk {
	t.Helper()
	d, err := modcache.OpenDisk(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func entryFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "?", "*"))
	require.NoError(t, err)
	return files
}

// signedOnce waits until n entries were compressed.
func signedOnce(t testing.TB, h *remote.Handler, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		return metric(t, h, "modcache_server_signed_total") == fmt.Sprint(n) && metric(t, h, "modcache_server_to_sign") == "0"
	}, minute, tick)
	require.Equal(t, "0", metric(t, h, "modcache_server_sign_failures_total"))
}

// TestHandlerSignsOnce serves an artifact at once, and compressed from then on, also after a restart.
func TestHandlerSignsOnce(t *testing.T) {
	key1, path := key(1), "/x/"+key(1).String()
	want := code(700_000)
	signer := generate(t)
	o := &remote.HandlerOptions{Signer: signer}
	decoded := func(b []byte) []byte { // as a client sees it
		f := newFake()
		f.entries[key1] = b
		s := over(t, f, *patient(remote.Options{Keyring: remote.Keyring{Keys: []remote.PublicKey{signer.Public()}}}))
		defer s.Close()
		a := get(t, s, key1)
		require.NotNil(t, a)
		got, err := a.Bytes()
		require.NoError(t, err)
		return got
	}
	for name, open := range map[string]func(dir string) modcache.Store{
		"disk":           func(dir string) modcache.Store { return openDisk(t, dir, nil) },
		"read-only disk": func(dir string) modcache.Store { return openDisk(t, dir, &modcache.DiskOptions{ReadOnly: true}) },
		"another store":  func(string) modcache.Store { return &storetest.Fake{} },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writer := openDisk(t, dir, nil)
			require.NoError(t, writer.Add(t.Context(), key1, newArtifact(want)))
			store := open(dir)
			if name == "another store" {
				require.NoError(t, store.Add(t.Context(), key1, newArtifact(want)))
			}
			h := newHandler(t, store, o)
			first := request(t, h, "GET", path, nil)
			require.Equal(t, 200, first.StatusCode)
			asIs := content(t, first)
			require.Greater(t, len(asIs), len(want), "nobody waits for compression")
			require.Equal(t, want, decoded(asIs))

			signedOnce(t, h, 1)
			srv := httptest.NewServer(h) // where the kernel can send by itself
			defer srv.Close()
			var kept []byte
			for range 3 {
				r, err := http.Get(srv.URL + path)
				require.NoError(t, err)
				b := content(t, r)
				require.Less(t, len(b), len(want))
				require.Equal(t, want, decoded(b))
				require.NotEqual(t, first.Header.Get("ETag"), r.Header.Get("ETag"))
				require.NoError(t, r.Body.Close())
				if kept != nil {
					require.Equal(t, kept, b)
				}
				kept = b
			}
			for _, span := range [][2]int{{0, 10}, {100, 200}, {len(kept) - 5, len(kept)}} {
				req, err := http.NewRequest("GET", srv.URL+path, nil)
				require.NoError(t, err)
				req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", span[0], span[1]-1))
				r, err := http.DefaultClient.Do(req)
				require.NoError(t, err)
				require.Equal(t, 206, r.StatusCode)
				require.Equal(t, kept[span[0]:span[1]], content(t, r))
				require.NoError(t, r.Body.Close())
			}
			require.Equal(t, "0", metric(t, h, "modcache_server_to_sign"))

			again := newHandler(t, store, o)
			b := content(t, request(t, again, "GET", path, nil))
			if name != "disk" {
				require.Equal(t, asIs, b)
				return
			}
			require.Equal(t, kept, b, "kept")
			other := newHandler(t, store, &remote.HandlerOptions{Signer: generate(t)})
			require.Equal(t, 200, status(t, other, "HEAD", path, nil))
			signedOnce(t, other, 1) // a head is interest enough
		})
	}
}

// TestHandlerSignsWithoutEvicting keeps an entry in memory where it would cost the artifact, and
// makes it once, also if nobody can keep it.
func TestHandlerSignsWithoutEvicting(t *testing.T) {
	random := make([]byte, 700_000) // so that the entry is as large
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	for name, store := range map[string]modcache.Store{
		"memory":          modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: 1_000_000}),
		"disk":            openDisk(t, t.TempDir(), &modcache.DiskOptions{MaxBytes: 1_000_000}),
		"half a disk":     openDisk(t, t.TempDir(), &modcache.DiskOptions{MaxBytes: 2_000_000}),
		"unbounded disk":  openDisk(t, t.TempDir(), &modcache.DiskOptions{MaxBytes: -1}),
		"a store of ours": &storetest.Fake{},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, store.Add(t.Context(), key(1), newArtifact(random)))
			h := newHandler(t, store, &remote.HandlerOptions{Signer: generate(t)})
			for range 3 {
				require.Equal(t, 200, status(t, h, "GET", "/"+key(1).String(), nil))
				signedOnce(t, h, 1)
			}
			require.Zero(t, store.Metrics().Evictions)
			a := get(t, store, key(1))
			require.NotNil(t, a)
			require.NoError(t, a.Close())
			if d, ok := store.(*modcache.Disk); ok {
				want := 1
				if name == "unbounded disk" {
					want = 2
				}
				require.Equal(t, want, d.Usage().Entries)
			}
		})
	}
}

// TestHandlerSignsUpToHalf keeps of two entries the one for which there is room.
func TestHandlerSignsUpToHalf(t *testing.T) {
	d := openDisk(t, t.TempDir(), &modcache.DiskOptions{MaxBytes: 4_400_000})
	for i := range byte(2) {
		random := make([]byte, 700_000)
		_, _ = rand.NewChaCha8([32]byte{i}).Read(random)
		require.NoError(t, d.Add(t.Context(), key(i), newArtifact(random)))
	}
	h := newHandler(t, d, &remote.HandlerOptions{Signer: generate(t)})
	for i := range byte(2) {
		require.Equal(t, 200, status(t, h, "GET", "/"+key(i).String(), nil))
	}
	signedOnce(t, h, 2)
	require.Equal(t, 3, d.Usage().Entries)
}

// TestHandlerAsksForRoomAgain, since others fill the directory too.
func TestHandlerAsksForRoomAgain(t *testing.T) {
	random := func(seed byte, size int) *modcache.Artifact {
		b := make([]byte, size)
		_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
		return newArtifact(b)
	}
	for size, want := range map[int]int{10_000: 5, 1_000_000: 4} {
		dir := t.TempDir()
		d := openDisk(t, dir, &modcache.DiskOptions{MaxBytes: 2_000_000})
		for i := range byte(2) {
			require.NoError(t, d.Add(t.Context(), key(i), random(i, 100_000)))
		}
		h := newHandler(t, d, &remote.HandlerOptions{Signer: generate(t)})
		require.Equal(t, 200, status(t, h, "GET", "/"+key(0).String(), nil))
		signedOnce(t, h, 1)
		require.Len(t, entryFiles(t, dir), 3)
		require.NoError(t, openDisk(t, dir, &modcache.DiskOptions{MaxBytes: -1}).Add(t.Context(), key(2), random(2, size)))
		remote.AskForRoom(h)
		require.Equal(t, 200, status(t, h, "GET", "/"+key(1).String(), nil))
		signedOnce(t, h, 2)
		require.Len(t, entryFiles(t, dir), want, size)
	}
}

// TestHandlerSignsWhereTheDiskFails keeps an entry in memory, and compresses once even if that fails too.
func TestHandlerSignsWhereTheDiskFails(t *testing.T) {
	tries := func(h *remote.Handler) string {
		return metric(t, h, "modcache_server_signed_total") + metric(t, h, "modcache_server_sign_failures_total")
	}
	for _, memory := range []bool{true, false} {
		dir := t.TempDir()
		first, err := modcache.OpenDisk(dir, nil)
		require.NoError(t, err)
		_, err = first.Trim(t.Context())
		require.NoError(t, errors.Join(err, first.Close())) // so that none is under way below
		disk := openDisk(t, dir, nil)
		require.NoError(t, disk.Add(t.Context(), key(1), newArtifact(code(700_000))))
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "tmp")))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "tmp"), nil, 0o600)) // where files are written
		h := newHandler(t, disk, &remote.HandlerOptions{Signer: generate(t)})
		if !memory {
			remote.KeepNothing(h)
		}
		for range 3 {
			require.Equal(t, 200, status(t, h, "GET", "/"+key(1).String(), nil))
			require.Eventually(t, func() bool {
				return metric(t, h, "modcache_server_to_sign") == "0" && tries(h) > "00"
			}, minute, tick)
		}
		want := []string{"10"} // signed
		if !memory {
			want = append(want, "01") // failed, unless the directory has mended itself by then
		}
		require.Contains(t, want, tries(h), "tried once")
	}
}

// TestHandlerSignsWhatIsThere keeps no entry of an artifact that was replaced or is gone, nor one that was damaged.
func TestHandlerSignsWhatIsThere(t *testing.T) {
	disk := openDisk(t, t.TempDir(), nil)
	signer := generate(t)
	h := newHandler(t, disk, &remote.HandlerOptions{Signer: signer})
	path := "/" + key(1).String()
	s := open(t, serve(t, disk, &remote.HandlerOptions{Signer: signer}), patient(remote.Options{Signer: signer, ReadOnly: true}))
	for i := range 3 {
		want, about := code(300_000+i), info
		about.Created = about.Created.Add(time.Duration(i) * time.Second)
		require.NoError(t, disk.Delete(t.Context(), key(1)))
		require.NoError(t, disk.Add(t.Context(), key(1), modcache.NewArtifact(want, about)))
		require.Equal(t, 200, status(t, h, "GET", path, nil))
		signedOnce(t, h, i+1)
		a := get(t, s, key(1))
		require.NotNil(t, a)
		b, err := a.Bytes()
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, b))
		require.Equal(t, about, a.Info())
		require.EqualValues(t, 2, disk.Metrics().Entries, "one artifact, and one entry")
	}
	require.NoError(t, disk.Delete(t.Context(), key(1)))
	require.Equal(t, 404, status(t, h, "GET", path, nil))
	require.NoError(t, h.Close())
	require.NoError(t, disk.Add(t.Context(), key(1), newArtifact(code(1000))))
	require.Equal(t, 200, status(t, h, "GET", path, nil), "without the background")
	require.Equal(t, "3", metric(t, h, "modcache_server_signed_total"))
}
