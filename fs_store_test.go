package modcache_test

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bundle/pack"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/modcachetest"
)

// fsEntryName is the name of a key's file in a cache directory.
func fsEntryName(key modcache.Key) string { return key.String()[:1] + "/" + key.String() + ".v1" }

// filesOf returns what a cache directory holds.
func filesOf(t testing.TB, dir string) fstest.MapFS {
	t.Helper()
	files := make(fstest.MapFS)
	require.NoError(t, fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(name, "tmp/") {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		files[name] = &fstest.MapFile{Data: b, Mode: 0o600}
		return err
	}))
	return files
}

// bundleOf returns a bundle of the entries of a cache directory.
func bundleOf(t testing.TB, dir string) []byte {
	t.Helper()
	files := filesOf(t, dir)
	var names []string
	for name := range files {
		if strings.HasSuffix(name, ".v1") && len(name) == 2+64+3 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var buf bytes.Buffer
	w, err := pack.NewWriter(&buf)
	require.NoError(t, err)
	for _, name := range names {
		key, err := modcache.ParseKey(name[2:66])
		require.NoError(t, err)
		require.NoError(t, w.Add(key, time.Time{}, files[name].Data))
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// zipOf returns a cache directory as a zip file, whose files are compressed.
func zipOf(t testing.TB, dir string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	require.NoError(t, w.AddFS(filesOf(t, dir)))
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// The ways to have a cache directory without one.
var fsWays = []struct {
	name string
	open func(t testing.TB, dir string, o *modcache.FSOptions) (*modcache.FSStore, error)
}{
	{"directory", func(_ testing.TB, dir string, o *modcache.FSOptions) (*modcache.FSStore, error) {
		return modcache.OpenFS(os.DirFS(dir), o)
	}},
	{"zip", func(t testing.TB, dir string, o *modcache.FSOptions) (*modcache.FSStore, error) {
		b := zipOf(t, dir)
		r, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
		require.NoError(t, err)
		return modcache.OpenFS(r, o)
	}},
	{"bundle", func(t testing.TB, dir string, o *modcache.FSOptions) (*modcache.FSStore, error) {
		b := bundleOf(t, dir)
		return modcache.OpenBundle(bytes.NewReader(b), int64(len(b)), o)
	}},
}

// servedStore writes to a Disk, and reads through an FSStore that is opened anew after
// each change.
type servedStore struct {
	*modcache.Disk
	open    func() *modcache.FSStore
	mu      sync.Mutex // guards the rest, and keeps changes from what is opened
	current *modcache.FSStore
	before  modcache.Metrics // of those that were replaced
}

func (s *servedStore) Get(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		s.current = s.open()
	}
	return s.current.Get(ctx, key)
}

func (s *servedStore) change(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.current = s.metrics(), nil
	return f()
}

func (s *servedStore) Add(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
	return s.change(func() error { return s.Disk.Add(ctx, key, a) })
}

func (s *servedStore) Delete(ctx context.Context, key modcache.Key) error {
	return s.change(func() error { return s.Disk.Delete(ctx, key) })
}

func (s *servedStore) metrics() modcache.Metrics {
	m := s.before
	if s.current != nil {
		m, _ = m.Plus(s.current.Metrics())
	}
	m.Entries, m.Bytes = 0, 0
	return m
}

func (s *servedStore) Metrics() modcache.Metrics {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, _ := s.metrics().Plus(s.Disk.Metrics())
	m.Entries, m.Bytes = s.Disk.Metrics().Entries, s.Disk.Metrics().Bytes
	return m
}

func TestFSStoreKeepsTheContract(t *testing.T) {
	secret := []byte("a secret of sixteen bytes or more")
	for _, way := range fsWays {
		for _, o := range []modcache.DiskOptions{{}, {Key: secret, Compress: true}} {
			open := func(tb testing.TB, dir string, observer func(modcache.Event)) *servedStore {
				s := &servedStore{Disk: openDiskAt(tb, dir, &o)}
				s.open = func() *modcache.FSStore {
					fsys, err := way.open(tb, dir, &modcache.FSOptions{Key: o.Key, OnEvent: observer})
					require.NoError(tb, err)
					return fsys
				}
				return s
			}
			options := &modcachetest.Options{
				ExclusiveLocks: true,
				Skip:           []string{"closed-store-answers-ErrClosed"}, // there is nothing to close
				ReadOnly: func(tb testing.TB, s modcache.Store) modcache.Store {
					fsys, err := way.open(tb, s.(*servedStore).Dir(), &modcache.FSOptions{Key: o.Key})
					require.NoError(tb, err)
					return fsys
				},
				Damage: func(tb testing.TB, s modcache.Store, key modcache.Key) {
					served := s.(*servedStore)
					require.NoError(tb, served.change(func() error {
						diskClauses(&o).Damage(tb, served.Disk, key)
						return nil
					}))
				},
				Observe: func(tb testing.TB, observer func(modcache.Event)) modcache.Store {
					return open(tb, tempCacheDir(tb), observer)
				},
			}
			if testing.Short() && o.Compress != (way.name == "bundle") {
				continue // each way once
			}
			t.Run(fmt.Sprintf("%s, compressed %v", way.name, o.Compress), func(t *testing.T) {
				modcachetest.TestStore(t, func(tb testing.TB) modcache.Store { return open(tb, tempCacheDir(tb), nil) }, options)
			})
		}
	}
}

// fsFilled returns a directory with a large and a small entry under the first two keys.
func fsFilled(t testing.TB, o *modcache.DiskOptions) (dir string, large, small []byte) {
	return fsFilledIn(t, tempCacheDir(t), o)
}

func fsFilledIn(t testing.TB, dir string, o *modcache.DiskOptions) (_ string, large, small []byte) {
	d := openDisk(t, dir, o)
	large, small = diskCode(1, 3<<20+77), diskCode(2, 1000)
	require.NoError(t, d.Add(bg, diskKey(1), modcache.NewArtifact(slices.Clone(large), diskInfo)))
	require.NoError(t, d.Add(bg, diskKey(2), modcache.NewArtifact(slices.Clone(small), diskInfo)))
	return dir, large, small
}

func TestFSStoreServes(t *testing.T) {
	for _, compress := range []bool{false, true} {
		dir, large, small := fsFilled(t, &modcache.DiskOptions{Compress: compress})
		for _, way := range fsWays {
			t.Run(fmt.Sprintf("%s, compressed %v", way.name, compress), func(t *testing.T) {
				s, err := way.open(t, dir, nil)
				require.NoError(t, err)
				for key, want := range map[modcache.Key][]byte{diskKey(1): large, diskKey(2): small} {
					a, ok, err := s.Get(bg, key)
					require.NoError(t, err)
					require.True(t, ok)
					require.Equal(t, diskInfo, a.Info())
					// In pieces that end nowhere in particular, backwards.
					got := make([]byte, a.Size())
					for end := len(got); end > 0; end -= 70_001 {
						_, err := a.ReadAt(got[max(0, end-70_001):end], int64(max(0, end-70_001)))
						require.NoError(t, err)
					}
					require.Equal(t, want, got)
					require.NoError(t, a.Close())
				}
				_, ok, err := s.Get(bg, diskKey(3))
				require.NoError(t, err)
				require.False(t, ok)
				require.ErrorIs(t, s.Add(bg, diskKey(1), diskArtifact(1, 10)), modcache.ErrReadOnly)
				require.ErrorIs(t, s.Delete(bg, diskKey(1)), modcache.ErrReadOnly)
				require.NoError(t, s.Flush(bg))
				ctx, cancel := context.WithCancel(bg)
				cancel()
				_, _, err = s.Get(ctx, diskKey(1))
				require.ErrorIs(t, err, context.Canceled)

				m := s.Metrics()
				if way.name == "bundle" {
					require.EqualValues(t, 2, m.Entries)
					require.Positive(t, m.Bytes)
				}
				m.Entries, m.Bytes = 0, 0
				require.Equal(t, modcache.Metrics{Lookups: 4, Hits: 2, Misses: 2, RejectedAdds: 1}, m)

				var walked []modcache.DiskEntry
				for e, err := range s.Walk(bg) {
					require.NoError(t, err)
					require.NoError(t, e.Err)
					require.Equal(t, diskInfo, e.Info)
					walked = append(walked, e)
				}
				require.Len(t, walked, 2)
				for _, err := range s.Walk(ctx) {
					require.ErrorIs(t, err, context.Canceled)
				}
			})
		}
	}
}

// TestLayeredDeleteUncovers has an entry that can't be deleted stay out of the way of the one that takes its place.
func TestLayeredDeleteUncovers(t *testing.T) {
	dir, _, small := fsFilled(t, nil)
	for _, way := range fsWays {
		t.Run(way.name, func(t *testing.T) {
			s, err := way.open(t, dir, nil)
			require.NoError(t, err)
			l := modcache.NewLayered(nil, modcache.Layer{Name: "fs", Store: s, Write: modcache.WriteNever},
				modcache.Layer{Name: "memory", Store: modcache.NewMemory(nil)})
			defer l.Close()
			for _, key := range []modcache.Key{diskKey(1), diskKey(3)} { // of which one is there
				require.ErrorIs(t, l.Delete(bg, key), modcache.ErrReadOnly)
				require.NoError(t, l.Add(bg, key, diskArtifact(9, 1000)))
				a, ok, err := l.Get(bg, key)
				require.NoError(t, err)
				require.True(t, ok)
				require.EqualValues(t, 1000, a.Size())
				require.NoError(t, a.Close())
			}
			a, ok, err := s.Get(bg, diskKey(2))
			require.NoError(t, err)
			require.True(t, ok)
			require.EqualValues(t, len(small), a.Size())
			require.NoError(t, a.Close())
			m := s.Metrics()
			require.Zero(t, m.Corrupt+m.Errors, "deleted is not damaged")
		})
	}
}

// Entries are read where they lie.
func TestFSStoreCopiesNothing(t *testing.T) {
	dir, large, _ := fsFilled(t, nil)
	for _, way := range fsWays {
		if way.name == "zip" {
			continue // compressed
		}
		s, err := way.open(t, dir, nil)
		require.NoError(t, err)
		into := make([]byte, len(large))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		a, ok, err := s.Get(bg, diskKey(1))
		require.NoError(t, err)
		require.True(t, ok)
		_, err = a.ReadAt(into, 0)
		require.NoError(t, err)
		runtime.ReadMemStats(&after)
		require.Equal(t, large, into)
		require.NoError(t, a.Close())
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(len(large)/8), way.name)
	}
}

// countingFS counts what is read of its files, which have no ReadAt.
type countingFS struct {
	fs.FS
	read int
}

func (c *countingFS) Open(name string) (fs.File, error) {
	f, err := c.FS.Open(name)
	return &countingFile{f, c}, err
}

type countingFile struct {
	fs.File
	c *countingFS
}

func (f *countingFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	f.c.read += n
	return n, err
}

// What is compressed is decompressed once, and only as far as it is read.
func TestFSStoreReadsInOrderOnce(t *testing.T) {
	dir, large, _ := fsFilled(t, nil)
	c := &countingFS{FS: filesOf(t, dir)}
	s, err := modcache.OpenFS(c, nil)
	require.NoError(t, err)
	a, ok, err := s.Get(bg, diskKey(1))
	require.NoError(t, err)
	require.True(t, ok)
	require.Less(t, c.read, 64<<10, "Get reads the header")
	for range 3 {
		b := make([]byte, len(large))
		_, err := a.ReadAt(b, 0)
		require.NoError(t, err)
		require.Equal(t, large, b)
	}
	require.Less(t, c.read, len(large)+64<<10)
	require.NoError(t, a.Close())
}

func TestFSStoreFindsDamage(t *testing.T) {
	dir, large, _ := fsFilled(t, nil)
	files := filesOf(t, dir)
	one, two := fsEntryName(diskKey(1)), fsEntryName(diskKey(2))
	for what, c := range map[string]struct {
		damage func(fstest.MapFS)
		read   bool // seen when it is read, not in Get
	}{
		"header":            {damage: func(f fstest.MapFS) { f[one].Data[40] ^= 1 }},
		"another entry":     {damage: func(f fstest.MapFS) { f[one] = f[two] }},
		"truncated":         {damage: func(f fstest.MapFS) { f[one].Data = f[one].Data[:1<<20] }},
		"longer":            {damage: func(f fstest.MapFS) { f[one].Data = append(f[one].Data, 0) }},
		"empty":             {damage: func(f fstest.MapFS) { f[one].Data = nil }},
		"a directory":       {damage: func(f fstest.MapFS) { f[one] = &fstest.MapFile{Mode: fs.ModeDir | 0o700} }},
		"code":              {damage: func(f fstest.MapFS) { f[one].Data[2<<20] ^= 1 }, read: true},
		"the end of a file": {damage: func(f fstest.MapFS) { f[one].Data[len(f[one].Data)-1] ^= 1 }, read: true},
	} {
		t.Run(what, func(t *testing.T) {
			damaged := make(fstest.MapFS)
			for name, f := range files {
				damaged[name] = &fstest.MapFile{Data: bytes.Clone(f.Data), Mode: f.Mode}
			}
			c.damage(damaged)
			var seen []modcache.Event
			s, err := modcache.OpenFS(damaged, &modcache.FSOptions{OnEvent: func(e modcache.Event) { seen = append(seen, e) }})
			require.NoError(t, err)
			if c.read {
				a, ok, err := s.Get(bg, diskKey(1))
				require.NoError(t, err)
				require.True(t, ok)
				for range 2 {
					_, err = a.ReadAt(make([]byte, len(large)), 0)
					require.ErrorIs(t, err, modcache.ErrCorrupt)
				}
				require.NoError(t, a.Close())
				require.EqualValues(t, 1, s.Metrics().Corrupt, "counted once")
			}
			a, ok, err := s.Get(bg, diskKey(1))
			require.NoError(t, err)
			require.False(t, ok)
			require.Nil(t, a)
			m := s.Metrics()
			require.Positive(t, m.Corrupt)
			require.Zero(t, m.Errors)
			last := seen[len(seen)-1]
			require.Equal(t, modcache.EventMiss, last.Kind)
			require.Equal(t, modcache.ReasonCorrupt, last.Reason)
			require.Equal(t, modcache.EventCorrupt, seen[len(seen)-2].Kind)
			require.Equal(t, "fs", last.Layer)

			_, ok, err = s.Get(bg, diskKey(2)) // the other isn't affected
			require.NoError(t, err)
			require.True(t, ok)
		})
	}
}

// oddFS is somebody else's code: it fails, lies and panics.
type oddFS struct {
	fs.FS
	odd func(f fs.File) (fs.File, error)
}

func (o *oddFS) Open(name string) (fs.File, error) {
	f, err := o.FS.Open(name)
	if err != nil || o.odd == nil {
		return f, err
	}
	return o.odd(f)
}

type oddFile struct {
	fs.File
	read func(p []byte) (int, error)
	size int64
}

func (f *oddFile) Read(p []byte) (int, error) {
	if f.read != nil {
		return f.read(p)
	}
	return f.File.Read(p)
}

func (f *oddFile) Stat() (fs.FileInfo, error) {
	fi, err := f.File.Stat()
	return oddInfo{fi, cmp.Or(f.size, fi.Size())}, err
}

type oddInfo struct {
	fs.FileInfo
	size int64
}

func (i oddInfo) Size() int64 { return i.size }

func TestFSStoreSurvivesFileSystems(t *testing.T) {
	dir, large, _ := fsFilled(t, nil)
	failing := errors.New("no such luck")
	reads := func(read func([]byte) (int, error)) func(fs.File) (fs.File, error) {
		return func(f fs.File) (fs.File, error) { return &oddFile{File: f, read: read}, nil }
	}
	sized := func(size int64) func(fs.File) (fs.File, error) {
		return func(f fs.File) (fs.File, error) { return &oddFile{File: f, size: size}, nil }
	}
	for what, c := range map[string]struct {
		odd     func(fs.File) (fs.File, error)
		corrupt bool
		want    error
	}{
		"open fails":    {odd: func(fs.File) (fs.File, error) { return nil, failing }, want: failing},
		"open panics":   {odd: func(fs.File) (fs.File, error) { panic(failing) }, want: failing},
		"read fails":    {odd: reads(func([]byte) (int, error) { return 0, failing }), want: failing},
		"read panics":   {odd: reads(func([]byte) (int, error) { panic(failing) }), want: failing},
		"reads nothing": {odd: reads(func([]byte) (int, error) { return 0, nil }), want: io.ErrNoProgress},
		"ends at once":  {odd: reads(func([]byte) (int, error) { return 0, io.EOF }), corrupt: true},
		"negative":      {odd: sized(-1), corrupt: true},
		"far too long":  {odd: sized(1 << 62), want: modcache.ErrTooLarge},
		"a bomb":        {odd: sized(1 << 29), corrupt: true},
	} {
		t.Run(what, func(t *testing.T) {
			o := &oddFS{FS: filesOf(t, dir)}
			s, err := modcache.OpenFS(o, nil)
			require.NoError(t, err)
			o.odd = c.odd
			a, ok, err := s.Get(bg, diskKey(1))
			require.False(t, ok)
			require.Nil(t, a)
			m := s.Metrics()
			if c.corrupt {
				require.NoError(t, err)
				require.EqualValues(t, 1, m.Corrupt)
			} else {
				require.ErrorIs(t, err, c.want)
				require.EqualValues(t, 1, m.Errors)
			}
			o.odd = nil
			a, ok, err = s.Get(bg, diskKey(1)) // nothing is remembered of a failure
			require.NoError(t, err)
			require.True(t, ok)
			b, err := a.Bytes()
			require.NoError(t, err)
			require.Equal(t, large, b)
			require.NoError(t, a.Close())
		})
	}
	for what, open := range map[string]func() error{
		"open":   func() error { _, err := modcache.OpenFS(&oddFS{}, nil); return err },
		"bundle": func() error { _, err := modcache.OpenBundle(panicking{}, 1<<20, nil); return err },
	} {
		require.ErrorContains(t, open(), "panic", what)
	}
}

// sealedWith returns a bundle of one entry.
func sealedWith(t testing.TB, auth frame.Auth) []byte {
	var entry, buf bytes.Buffer
	_, err := frame.Write(&entry, frame.Bytes(diskCode(1, 1000)), 1000, frame.MetaOf(diskKey(1), diskInfo), &frame.Options{Auth: auth})
	require.NoError(t, err)
	w, err := pack.NewWriter(&buf)
	require.NoError(t, err)
	require.NoError(t, w.Add(diskKey(1), time.Time{}, entry.Bytes()))
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func TestFSStoreTrusts(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	other, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	secret, wrong := []byte("a secret of sixteen bytes or more"), []byte("another secret of sixteen bytes")
	plain, keyed, signed := sealedWith(t, frame.Auth{}), sealedWith(t, frame.NewKeyed(secret)), sealedWith(t, frame.NewSigner(private))
	none, key, wrongKey := modcache.FSOptions{}, modcache.FSOptions{Key: secret}, modcache.FSOptions{Key: wrong}
	signer := modcache.FSOptions{Signers: []ed25519.PublicKey{other, public}}
	stranger := modcache.FSOptions{Signers: []ed25519.PublicKey{other}}
	for _, c := range []struct {
		b  []byte
		o  modcache.FSOptions
		ok bool
	}{
		{plain, none, true}, {plain, key, false}, {plain, signer, false},
		{keyed, none, false}, {keyed, key, true}, {keyed, wrongKey, false}, {keyed, signer, false},
		{signed, none, false}, {signed, key, false}, {signed, signer, true}, {signed, stranger, false},
	} {
		var why error
		c.o.OnEvent = func(e modcache.Event) { why = e.Err }
		s, err := modcache.OpenBundle(bytes.NewReader(c.b), int64(len(c.b)), &c.o)
		require.NoError(t, err)
		_, ok, err := s.Get(bg, diskKey(1))
		require.NoError(t, err)
		require.Equal(t, c.ok, ok)
		if !c.ok {
			require.ErrorIs(t, why, modcache.ErrOtherKey)
		}
	}
}

func TestFSStoreOptions(t *testing.T) {
	short := &modcache.FSOptions{Key: []byte("short")}
	both := &modcache.FSOptions{Key: make([]byte, 16), Signers: []ed25519.PublicKey{bytes.Repeat([]byte{7}, 32)}}
	noKey := &modcache.FSOptions{Signers: []ed25519.PublicKey{nil}}
	zeroKey := &modcache.FSOptions{Signers: []ed25519.PublicKey{make([]byte, 32)}}
	noSigner, noSecret := &modcache.FSOptions{Signers: []ed25519.PublicKey{}}, &modcache.FSOptions{Key: []byte("")}
	files := fstest.MapFS{"CACHEDIR.TAG": &fstest.MapFile{}}
	for o, want := range map[*modcache.FSOptions]string{short: "FSOptions.Key has 5 bytes", both: "exclude each other", noKey: "Signers[0]: the key has 0 bytes",
		zeroKey: "Signers[0]: the key is zero", noSigner: "Signers is empty", noSecret: "FSOptions.Key has 0 bytes"} {
		_, err := modcache.OpenFS(files, o)
		require.ErrorContains(t, err, want)
		_, err = modcache.OpenBundle(bytes.NewReader(nil), 0, o)
		require.ErrorContains(t, err, want)
	}
	require.NotContains(t, fmt.Sprintf("%+v %#v", *both, modcache.FSOptions{Key: []byte("a secret of sixteen bytes")}), "secret of")

	_, err := modcache.OpenFS(nil, nil)
	require.ErrorContains(t, err, "needs a file system")
	_, err = modcache.OpenBundle(nil, 0, nil)
	require.ErrorContains(t, err, "needs a reader")
	_, err = modcache.OpenFS(fstest.MapFS{"cache/CACHEDIR.TAG": &fstest.MapFile{}}, nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "fs.Sub")
	_, err = modcache.OpenFS(os.DirFS(filepath.Join(t.TempDir(), "none")), nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = modcache.OpenFS(fstest.MapFS{"7/" + strings.Repeat("7", 64) + ".v1": &fstest.MapFile{}}, nil)
	require.NoError(t, err, "copied without the tag")
	_, err = modcache.OpenBundle(strings.NewReader("no bundle"), 9, &modcache.FSOptions{Name: "plugins"})
	require.ErrorContains(t, err, "plugins: open: empty, or not a bundle")
}

// A Cache loads from it as from a Disk, and without a second copy of the code.
func TestFSStoreLoads(t *testing.T) {
	needsCompiler(t)
	for _, way := range fsWays {
		for _, in := range ways {
			t.Run(way.name+", "+in.Name, func(t *testing.T) {
				dir := tempCacheDir(t)
				filled := openCache(t, dir, nil)
				requireRuns(t, in, filled, chainWasm, chainWant)
				require.NoError(t, filled.Close(bg))

				s, err := way.open(t, dir, nil)
				require.NoError(t, err)
				c := newCache(t, s, &modcache.Options{RequireHit: true, ReadOnly: true})
				requireRuns(t, in, c, chainWasm, chainWant)
				require.Zero(t, c.Metrics().Compiles)

				_, err = in.Run(c, otherWasm)
				require.ErrorIs(t, err, modcache.ErrMiss)
				require.ErrorContains(t, err, "but not this module")
			})
		}
	}
}

// What isn't in the bundle is kept on disk, and nothing else.
func TestFSStoreBeforeADisk(t *testing.T) {
	needsCompiler(t)
	shipped, dir := tempCacheDir(t), tempCacheDir(t)
	filled := openCache(t, shipped, nil)
	requireRuns(t, ways[1], filled, chainWasm, chainWant)
	require.NoError(t, filled.Close(bg))
	b := bundleOf(t, shipped)

	for start := range 2 {
		s, err := modcache.OpenBundle(bytes.NewReader(b), int64(len(b)), nil)
		require.NoError(t, err)
		disk := openDisk(t, dir, nil)
		layers := modcache.NewLayered(nil, modcache.Layer{Store: s, Write: modcache.WriteNever}, modcache.Layer{Store: disk})
		c := newCache(t, layers, nil)
		requireRuns(t, ways[1], c, chainWasm, chainWant)
		require.Zero(t, c.Metrics().Compiles)
		require.Zero(t, disk.Metrics().Adds, "what is shipped isn't copied")
		requireRuns(t, ways[1], c, otherWasm, otherWant)
		require.EqualValues(t, 1-start, c.Metrics().Compiles)
		require.Zero(t, c.Metrics().StoreErrors)
		require.NoError(t, c.Close(bg))
		require.NoError(t, layers.Close())
		require.NoError(t, disk.Close())
	}
}

// A damaged bundle costs compiles, and nothing else.
func TestFSStoreDamagedBundleIsCompiled(t *testing.T) {
	needsCompiler(t)
	dir := tempCacheDir(t)
	filled := openCache(t, dir, nil)
	requireRuns(t, ways[1], filled, chainWasm, chainWant)
	require.NoError(t, filled.Close(bg))
	b := bundleOf(t, dir)
	for at := 512; at < len(b); at += 509 {
		damaged := bytes.Clone(b)
		damaged[at] ^= 0x10
		s, err := modcache.OpenBundle(bytes.NewReader(damaged), int64(len(b)), nil)
		if err != nil {
			require.ErrorIs(t, err, modcache.ErrCorrupt)
			continue
		}
		c := newCache(t, s, &modcache.Options{ReadOnly: true})
		requireRuns(t, ways[1], c, chainWasm, chainWant)
		require.NoError(t, c.Close(bg))
	}
}

// quitter is a file system that ends the goroutine of who opens a file, or reads more than the head of one.
type quitter struct {
	fstest.MapFS
	in string
}

func (q *quitter) Open(name string) (fs.File, error) {
	if q.in == "open" {
		runtime.Goexit()
	}
	f, err := q.MapFS.Open(name)
	return quittingFile{f, q}, err
}

type quittingFile struct {
	fs.File
	q *quitter
}

func (f quittingFile) ReadAt(p []byte, off int64) (int, error) {
	if f.q.in == "read" && len(p) > 16<<10 {
		runtime.Goexit()
	}
	return f.File.(io.ReaderAt).ReadAt(p, off)
}

// A Cache goes on without a file system that ends goroutines, as wherever it reads.
func TestFSStoreOverWhatEndsGoroutines(t *testing.T) {
	needsCompiler(t)
	wasm := wasmtest.Sum(3000, 0)
	for _, w := range ways {
		for _, in := range []string{"open", "read"} {
			t.Run(w.Name+" "+in, func(t *testing.T) {
				dir := tempCacheDir(t)
				c := openCache(t, dir, nil)
				want, err := w.Run(c, wasm)
				require.NoError(t, err)
				require.NoError(t, c.Close(bg))
				files := &quitter{MapFS: filesOf(t, dir)}
				s, err := modcache.OpenFS(files, nil)
				require.NoError(t, err)
				files.in = in
				c = newCache(t, s, &modcache.Options{ReadOnly: true})
				requireRuns(t, w, c, wasm, int(want))
				require.EqualValues(t, 1, c.Metrics().Compiles)
				require.NotZero(t, c.Metrics().StoreErrors)
			})
		}
	}
}
