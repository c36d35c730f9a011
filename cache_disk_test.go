package modcache_test

import (
	"bytes"
	"cmp"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

func TestCacheOpenRefuses(t *testing.T) {
	dir, must := t.TempDir(), &modcache.Options{MustStore: true}
	in := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.WriteFile(in("file"), nil, 0o600))
	require.NoError(t, os.Mkdir(in("real"), 0o700))

	_, err := modcache.Open(in("file"), must)
	require.Error(t, err)
	require.Contains(t, err.Error(), in("file"))
	_, err = modcache.Open(in("file")+"/below", must)
	require.Error(t, err)
	require.Contains(t, err.Error(), in("file"))
	_, err = modcache.Open(in("real"), &modcache.Options{EngineID: strings.Repeat("x", 256)})
	require.Error(t, err)
	_, err = modcache.Open(in("real"), &modcache.Options{Disk: modcache.DiskOptions{Key: []byte("short")}})
	require.ErrorContains(t, err, "Key")
	if runtime.GOOS == "windows" {
		t.Skip("NOT TESTED: permissions and links on Windows")
	}
	for _, mode := range []fs.FileMode{0o720, 0o702, 0o777} {
		require.NoError(t, os.Chmod(in("real"), mode))
		for _, readOnly := range []bool{false, true} {
			_, err = modcache.Open(in("real"), &modcache.Options{ReadOnly: readOnly, MustStore: true})
			require.ErrorIs(t, err, modcache.ErrInsecureDir, "%v", mode)
			require.Contains(t, err.Error(), in("real"))
		}
	}
	require.NoError(t, os.Chmod(in("real"), 0o700))
	require.NoError(t, os.Symlink(in("real"), in("link")))
	require.NoError(t, os.Symlink(in("nowhere"), in("dangling")))
	openCache(t, in("link"), must)
	_, err = modcache.Open(in("dangling"), must)
	require.Error(t, err)
	require.NoDirExists(t, in("nowhere"))
	openCache(t, in("real"), nil)

	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: a directory of another user, which takes root to make")
	}
	require.NoError(t, os.Mkdir(in("theirs"), 0o700))
	require.NoError(t, os.Chown(in("theirs"), 65534, 65534))
	_, err = modcache.Open(in("theirs"), must)
	require.ErrorIs(t, err, modcache.ErrInsecureDir)
}

func TestCacheOpenDefaultDirectory(t *testing.T) {
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" || runtime.GOOS == "ios" {
		t.Skip("NOT TESTED: XDG_CACHE_HOME is not used on this platform")
	}
	home := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", home+"/cache")
	openCache(t, "", nil)
	require.DirExists(t, home+"/cache/modcache")

	must := &modcache.Options{MustStore: true}
	t.Setenv("XDG_CACHE_HOME", "relative")
	_, err := modcache.Open("", must)
	require.ErrorContains(t, err, "name one")
	t.Setenv("XDG_CACHE_HOME", "")
	for _, home := range []string{"", "relative"} {
		t.Setenv("HOME", home)
		_, err = modcache.Open("", must)
		require.ErrorContains(t, err, "name one")
	}
}

func TestCacheReadOnlyCreatesNoDirectory(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		dir := filepath.Join(t.TempDir(), "missing", "cache")
		c := openCache(t, dir, &modcache.Options{ReadOnly: true})
		requireRuns(t, w, c, chainWasm, chainWant)
		require.Zero(t, c.Metrics().StoreErrors)
		require.NoError(t, c.Flush(bg))
		require.NoError(t, c.Close(bg))
		require.NoDirExists(t, filepath.Dir(dir))

		// An existing one is read, and stays as it is to the last byte.
		c = openCache(t, dir, nil)
		requireRuns(t, w, c, chainWasm, chainWant)
		require.NoError(t, c.Close(bg)) // and with it the trim that opening began
		before := snapshot(t, dir)
		c = openCache(t, dir, &modcache.Options{ReadOnly: true})
		requireRuns(t, w, c, chainWasm, chainWant)
		requireRuns(t, w, c, otherWasm, otherWant)
		require.EqualValues(t, 1, c.Metrics().Hits)
		require.NoError(t, c.Close(bg))
		require.Equal(t, before, snapshot(t, dir))
	}
}

// snapshot returns the names, modes, times and contents of all files below dir.
func snapshot(t testing.TB, dir string) map[string]string {
	m := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		m[path] = fi.Mode().String() + fi.ModTime().String()
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			m[path] += string(b)
			return err
		}
		return nil
	}))
	return m
}

const large = 850

// A size below and one above that up to which Disk reads an entry at once.
var liveSizes = []struct {
	name       string
	wasm, next []byte
	want       int
}{
	{"small", wasmtest.Sum(5, 0), wasmtest.Sum(5, 1), 15},
	{"large", wasmtest.Sum(large, 0), wasmtest.Sum(large, 1), large * (large + 1) / 2},
}

// TestCacheOverADiskWithFaults damages the directory of a Cache that is open, then
// compiles what was there and something new.
func TestCacheOverADiskWithFaults(t *testing.T) {
	needsCompiler(t)
	each := func(f func(t testing.TB, file string)) func(t testing.TB, dir string) {
		return func(t testing.TB, dir string) {
			files := cachetest.Entries(t, dir)
			require.NotEmpty(t, files)
			for _, file := range files {
				f(t, file)
			}
		}
	}
	rewrite := func(change func(b []byte) []byte) func(t testing.TB, dir string) {
		return each(func(t testing.TB, file string) {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(file, change(b), 0o600))
		})
	}
	type fault struct {
		name  string
		apply func(t testing.TB, dir string)
	}
	faults := []fault{
		{"entries removed", each(func(t testing.TB, file string) { require.NoError(t, os.Remove(file)) })},
		{"entries emptied", rewrite(func([]byte) []byte { return nil })},
		{"entries cut short", rewrite(func(b []byte) []byte { return b[:len(b)/2] })},
		{"entries cut by a byte", rewrite(func(b []byte) []byte { return b[:len(b)-1] })},
		{"entries extended", rewrite(func(b []byte) []byte { return append(b, 0) })},
		{"first bit flipped", rewrite(func(b []byte) []byte { b[0] ^= 1; return b })},
		{"bit flipped in the middle", rewrite(func(b []byte) []byte { b[len(b)/2] ^= 1; return b })},
		{"last bit flipped", rewrite(func(b []byte) []byte { b[len(b)-1] ^= 1; return b })},
		{"zeros", rewrite(func(b []byte) []byte { clear(b); return b })},
		{"entries swapped", func(t testing.TB, dir string) {
			files := cachetest.Entries(t, dir)
			require.Len(t, files, 2)
			require.NoError(t, os.Rename(files[0], dir+"/swap"))
			require.NoError(t, os.Rename(files[1], files[0]))
			require.NoError(t, os.Rename(dir+"/swap", files[1]))
		}},
		{"entries replaced by directories", each(func(t testing.TB, file string) {
			require.NoError(t, os.Remove(file))
			require.NoError(t, os.Mkdir(file, 0o700))
		})},
		{"shards replaced by files", each(func(t testing.TB, file string) {
			_ = os.RemoveAll(filepath.Dir(file))
			require.NoError(t, os.WriteFile(filepath.Dir(file), nil, 0o600))
		})},
		{"directory for files being written replaced by a file", func(t testing.TB, dir string) {
			require.NoError(t, os.RemoveAll(dir+"/tmp"))
			require.NoError(t, os.WriteFile(dir+"/tmp", nil, 0o600))
			each(func(t testing.TB, file string) { require.NoError(t, os.Remove(file)) })(t, dir)
		}},
		{"directory emptied", func(t testing.TB, dir string) {
			all, err := filepath.Glob(dir + "/*")
			require.NoError(t, err)
			for _, f := range all {
				removeAll(t, f)
			}
		}},
	}
	if runtime.GOOS != "windows" {
		faults = append(faults,
			fault{"directory removed", func(t testing.TB, dir string) { removeAll(t, dir) }},
			fault{"directory replaced by a file", func(t testing.TB, dir string) {
				removeAll(t, dir)
				require.NoError(t, os.WriteFile(dir, nil, 0o600))
			}},
			fault{"directory replaced by another", func(t testing.TB, dir string) {
				require.NoError(t, os.Rename(dir, dir+".old"))
				require.NoError(t, os.Mkdir(dir, 0o700))
			}},
			fault{"entries replaced by links out of it", each(func(t testing.TB, file string) {
				out := filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(file))), filepath.Base(file))
				require.NoError(t, os.Rename(file, out))
				require.NoError(t, os.Symlink(out, file))
			})},
			fault{"entries that link to themselves", each(func(t testing.TB, file string) {
				require.NoError(t, os.Remove(file))
				require.NoError(t, os.Symlink(filepath.Base(file), file))
			})},
		)
	}
	for _, w := range ways {
		for _, size := range liveSizes {
			for _, f := range faults {
				if size.name == "large" && !strings.Contains(f.name, "flipped") && !strings.Contains(f.name, "cut") && f.name != "entries swapped" {
					continue // is found before the size matters
				}
				t.Run(w.Name+"/"+size.name+"/"+f.name, func(t *testing.T) {
					dir := t.TempDir() + "/cache"
					c := openCache(t, dir, &modcache.Options{Retain: forget})
					requireRuns(t, w, c, size.wasm, size.want)
					requireRuns(t, w, c, size.next, size.want+1)
					f.apply(t, dir)
					before := c.Metrics()
					requireRuns(t, w, c, size.wasm, size.want)
					requireRuns(t, w, c, size.next, size.want+1)
					after := c.Metrics()
					if f.name == "directory replaced by another" {
						// The old one is still open, and as good as ever.
						require.Equal(t, before.Hits+2, after.Hits)
					} else {
						require.Equal(t, before.Hits, after.Hits)
					}
					require.Equal(t, after.Lookups, after.Hits+after.Misses)
					requireRuns(t, w, c, size.wasm, size.want)
					requireRuns(t, w, c, wasmtest.Const(9), 9)
					_ = c.Flush(bg)
					require.NoError(t, c.Close(bg))
				})
			}
		}
	}
}

// removeAll removes a directory in which a Disk may be at work.
func removeAll(t testing.TB, dir string) {
	var err error
	for range 100 {
		if err = os.RemoveAll(dir); err == nil {
			return
		}
	}
	require.NoError(t, err)
}

// Whoever opens a damaged directory repairs it by using it.
func TestCacheHealsADiskByUse(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		for _, size := range liveSizes {
			t.Run(w.Name+"/"+size.name, func(t *testing.T) {
				dir := t.TempDir() + "/cache"
				c := openCache(t, dir, nil)
				requireRuns(t, w, c, size.wasm, size.want)
				require.NoError(t, c.Close(bg))
				file := cachetest.Entries(t, dir)[0]
				sound, err := os.ReadFile(file)
				require.NoError(t, err)
				damaged := bytes.Clone(sound)
				damaged[len(damaged)-100] ^= 0x10
				require.NoError(t, os.WriteFile(file, damaged, 0o600))

				var seen witness
				own := 0
				c = openCache(t, dir, seen.Options(modcache.Options{Disk: modcache.DiskOptions{OnEvent: func(e modcache.Event) {
					if e.Kind == modcache.EventCorrupt {
						own++
					}
				}}}))
				requireRuns(t, w, c, size.wasm, size.want)
				m := c.Metrics()
				require.Zero(t, m.Hits)
				require.NotZero(t, m.Corrupt+m.Store.Corrupt)
				require.Positive(t, own)
				require.NotEmpty(t, seen.Saw(modcache.EventCorrupt), "also where Disk has an observer of its own")
				require.Positive(t, seen.Warned())
				require.NoError(t, c.Close(bg))

				c = openCache(t, dir, &modcache.Options{RequireHit: true})
				requireRuns(t, w, c, size.wasm, size.want)
			})
		}
	}
}

// What a Disk has verified is what it has under the key that it was asked for.
func TestCacheOverADiskWithSwappedKeys(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		for _, size := range liveSizes {
			d, swap := openDisk(t, t.TempDir()+"/cache", nil), map[modcache.Key]modcache.Key{}
			s := &storetest.Locking{Fake: storetest.Fake{Under: d}, OnLock: d.Lock}
			s.OnGet = func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
				return d.Get(ctx, cmp.Or(swap[key], key))
			}
			var seen witness
			c := newCache(t, s, seen.Options(modcache.Options{}))
			requireRuns(t, w, c, size.wasm, size.want)
			requireRuns(t, w, c, size.next, size.want+1)
			keys := seen.Keys()
			require.Len(t, keys, 2)
			swap[keys[0]], swap[keys[1]] = keys[1], keys[0]
			requireRuns(t, w, c, size.wasm, size.want)
			requireRuns(t, w, c, size.next, size.want+1)
			require.Zero(t, c.Metrics().Hits)
			require.NotZero(t, c.Metrics().Corrupt)
		}
	}
}
