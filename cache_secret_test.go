package modcache_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/modcache/modcache"
)

// TestCacheSecretsAreTheCallers has a program wipe its secret as soon as Open returns, while
// the directory can't be had yet.
func TestCacheSecretsAreTheCallers(t *testing.T) {
	needsCompiler(t)
	above := filepath.Join(t.TempDir(), "volume")
	require.NoError(t, os.WriteFile(above, nil, 0o600))
	dir := filepath.Join(above, "c")
	clock := newDiskClock()
	secret := []byte("sixteen bytes or more")
	key := append([]byte(nil), secret...)
	c := openCache(t, dir, &modcache.Options{Disk: modcache.DiskOptions{Key: key, Now: clock.Now}})
	clear(key)
	require.NoError(t, os.Remove(above))
	clock.Advance(time.Hour)
	want, err := ways[1].Run(c, chainWasm)
	require.NoError(t, err)
	require.Equal(t, dir, c.Status().Dir)
	require.NoError(t, c.Close(bg))

	c = openCache(t, dir, &modcache.Options{Disk: modcache.DiskOptions{Key: secret}})
	got, err := ways[1].Run(c, chainWasm)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.EqualValues(t, 1, c.Metrics().Hits)
}

func TestCacheOptionsHideTheKey(t *testing.T) {
	o := modcache.Options{Disk: modcache.DiskOptions{Key: []byte("sixteen bytes or more"), MaxBytes: 12345}}
	c := openCache(t, filepath.Join(t.TempDir(), "c"), &o)
	require.NoError(t, c.Close(bg)) // so that nobody works on what is printed
	numbers := fmt.Sprint([]byte("sixteen"))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		for _, v := range []any{o, &o, []any{&o}, o.Disk, &o.Disk, c, c.Store(), newCache(t, modcache.NewMemory(nil), &o)} {
			text := fmt.Sprintf(verb, v)
			require.NotContains(t, text, "sixteen")
			require.NotContains(t, text, numbers[1:len(numbers)-1])
			require.NotContains(t, text, fmt.Sprintf("%x", "sixteen"))
			require.NotContains(t, text, "0x73, 0x69, 0x78")
		}
	}
	require.Contains(t, fmt.Sprintf("%+v", o), "MaxBytes:12345", "the rest can be seen")
	require.Equal(t, "sixteen bytes or more", string(o.Disk.Key))
}

// TestFSStoreHidesTheKey looks also for what is derived from the secret, with which entries could be sealed as well.
func TestFSStoreHidesTheKey(t *testing.T) {
	secret := []byte("sixteen bytes or more")
	var derived [32]byte
	blake3.DeriveKey("modcache 2026-11-20 frame header MAC key", secret, derived[:])
	dir := t.TempDir()
	d := openDisk(t, dir, &modcache.DiskOptions{Key: secret})
	require.NoError(t, d.Close())
	s, err := modcache.OpenFS(os.DirFS(dir), &modcache.FSOptions{Key: secret})
	require.NoError(t, err)
	l := modcache.NewLayered(nil, modcache.Layer{Name: "fs", Store: s})
	defer l.Close()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		for _, v := range []any{s, d, l, struct{ S *modcache.FSStore }{s}} {
			text := fmt.Sprintf(verb, v)
			for _, b := range [][]byte{secret, derived[:]} {
				require.NotContains(t, text, strings.Trim(fmt.Sprint(b[:6]), "[]"))
				require.NotContains(t, text, fmt.Sprintf("%x", b[:6]))
				require.NotContains(t, text, strings.Trim(strings.TrimPrefix(fmt.Sprintf("%#v", b[:6]), "[]byte"), "{}"))
			}
		}
	}
}
