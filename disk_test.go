package modcache_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/modcachetest"
)

// diskKey returns the n-th of a series of keys.
func diskKey(n uint64) modcache.Key {
	return modcache.Key(modcache.Sum([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}))
}

// diskCode returns size bytes that look like machine code to no one but are
// the same for the same seed.
func diskCode(seed uint64, size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	_, _ = r.Read(b)
	return b
}

func diskArtifact(seed uint64, size int) *modcache.Artifact {
	return modcache.NewArtifact(diskCode(seed, size), diskInfo)
}

var diskInfo = modcache.Info{
	Engine:      "wazero v1.12.0 linux/amd64",
	Module:      modcache.Sum([]byte("module")),
	WasmSize:    1234,
	CompileTime: 5 * time.Second,
	Created:     time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
}

// diskClock is a clock that stands still unless it is moved.
type diskClock struct{ now atomic.Int64 }

func newDiskClock() *diskClock {
	c := new(diskClock)
	c.now.Store(time.Now().UnixNano())
	return c
}

func (c *diskClock) Now() time.Time          { return time.Unix(0, c.now.Load()) }
func (c *diskClock) Advance(d time.Duration) { c.now.Add(int64(d)) }

// memDir returns a directory in memory where there is one: thousands of small
// files take long elsewhere.
func memDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "modcache-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func openDisk(t testing.TB, dir string, o *modcache.DiskOptions) *modcache.Disk {
	t.Helper()
	d, err := modcache.OpenDisk(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// requireHit checks that the entry is there, in every byte and all of its Info.
func requireHit(t testing.TB, d *modcache.Disk, key modcache.Key, want []byte) {
	t.Helper()
	a, ok, err := d.Get(bg, key)
	require.NoError(t, err)
	require.True(t, ok, "miss of %v", key)
	defer a.Close()
	got := make([]byte, a.Size())
	_, err = a.ReadAt(got, 0)
	require.NoError(t, err)
	require.True(t, string(want) == string(got), "wrong bytes under %v", key)
	require.Equal(t, diskInfo, a.Info())
}

func requireMiss(t testing.TB, d *modcache.Disk, key modcache.Key) {
	t.Helper()
	_, ok, err := d.Get(bg, key)
	require.NoError(t, err)
	require.False(t, ok)
}

// entryFiles returns the paths of all entries in a cache directory.
func entryFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "?", "*"))
	require.NoError(t, err)
	return files
}

func entryFile(t testing.TB, dir string, key modcache.Key) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "?", key.String()+"*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	return files[0]
}

var diskSizes = []int{0, 1, 1000, 64 << 10, 100_000, 256 << 10, 1<<20 + 17}

func TestDiskKeepsWhatWasAdded(t *testing.T) {
	for name, o := range map[string]modcache.DiskOptions{
		"plain":    {},
		"sealed":   {Key: []byte("0123456789abcdef")},
		"zstd":     {Compress: true},
		"synced":   {SyncEveryAdd: true},
		"everyOpt": {Key: []byte("0123456789abcdef"), Compress: true, SyncEveryAdd: true, MaxBytes: -1, MinFree: -1, MaxAge: -1},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "cache")
			d := openDisk(t, dir, &o)
			for i, size := range diskSizes {
				requireMiss(t, d, diskKey(uint64(i)))
				require.NoError(t, d.Add(bg, diskKey(uint64(i)), diskArtifact(uint64(i), size)))
				requireHit(t, d, diskKey(uint64(i)), diskCode(uint64(i), size))
			}
			m := d.Metrics()
			require.EqualValues(t, len(diskSizes), m.Adds)
			require.EqualValues(t, len(diskSizes), m.Hits)
			require.EqualValues(t, len(diskSizes), m.Misses)
			require.EqualValues(t, len(diskSizes), m.Entries)
			require.Zero(t, m.Corrupt+m.Errors+m.RejectedAdds)

			other := openDisk(t, dir, &o)
			for i, size := range diskSizes {
				requireHit(t, other, diskKey(uint64(i)), diskCode(uint64(i), size))
			}
			require.NoError(t, other.Delete(bg, diskKey(0)))
			require.NoError(t, other.Delete(bg, diskKey(0)))
			requireMiss(t, d, diskKey(0))
		})
	}
}

func TestDiskAddOfAPresentEntryDoesNothing(t *testing.T) {
	d := openDisk(t, t.TempDir(), nil)
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(2, 200)))
	requireHit(t, d, diskKey(1), diskCode(1, 100))
}

func TestDiskAddsFromAnotherDisk(t *testing.T) {
	from, to := openDisk(t, t.TempDir(), nil), openDisk(t, t.TempDir(), nil)
	const size = 3<<20 + 5
	require.NoError(t, from.Add(bg, diskKey(1), diskArtifact(1, size)))
	a, ok, err := from.Get(bg, diskKey(1))
	require.NoError(t, err)
	require.True(t, ok)
	defer a.Close()
	require.False(t, a.InMemory())
	require.NoError(t, to.Add(bg, diskKey(1), a))
	requireHit(t, to, diskKey(1), diskCode(1, size))
}

func TestDiskRefusesInsecureDirectories(t *testing.T) {
	base := t.TempDir()
	open := filepath.Join(base, "open")
	require.NoError(t, os.Mkdir(open, 0o700))
	require.NoError(t, os.Chmod(open, 0o777))
	file := filepath.Join(base, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, o := range []*modcache.DiskOptions{nil, {ReadOnly: true}} {
		_, err := modcache.OpenDisk(open, o)
		require.ErrorIs(t, err, modcache.ErrInsecureDir)
		_, err = modcache.OpenDisk(file, o)
		require.Error(t, err)
	}
}

func TestDiskFilesArePrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	d := openDisk(t, dir, nil)
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		require.NoError(t, err)
		fi, err := e.Info()
		require.NoError(t, err)
		require.Zero(t, fi.Mode().Perm()&0o077, path)
		return nil
	}))
}

func TestDiskReadOnly(t *testing.T) {
	base := t.TempDir()
	missing := openDisk(t, filepath.Join(base, "missing"), &modcache.DiskOptions{ReadOnly: true})
	requireMiss(t, missing, diskKey(1))
	require.NoDirExists(t, filepath.Join(base, "missing"))

	dir := filepath.Join(base, "cache")
	w := openDisk(t, dir, nil)
	require.NoError(t, w.Add(bg, diskKey(1), diskArtifact(1, 100)))
	for _, d := range []*modcache.Disk{missing, openDisk(t, dir, &modcache.DiskOptions{ReadOnly: true})} {
		require.ErrorIs(t, d.Add(bg, diskKey(2), diskArtifact(2, 10)), modcache.ErrReadOnly)
		require.ErrorIs(t, d.Delete(bg, diskKey(1)), modcache.ErrReadOnly)
		_, err := d.Lock(bg, diskKey(1))
		require.ErrorIs(t, err, modcache.ErrReadOnly)
		_, err = d.Trim(bg)
		require.ErrorIs(t, err, modcache.ErrReadOnly)
		require.NoError(t, d.Flush(bg))
	}
	requireHit(t, openDisk(t, dir, &modcache.DiskOptions{ReadOnly: true}), diskKey(1), diskCode(1, 100))
}

func TestDiskClosed(t *testing.T) {
	d, err := modcache.OpenDisk(t.TempDir(), nil)
	require.NoError(t, err)
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 1<<20)))
	a, ok, err := d.Get(bg, diskKey(1))
	require.NoError(t, err)
	require.True(t, ok)
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())

	got, err := a.Bytes()
	require.NoError(t, err, "artifacts outlive the store")
	require.True(t, string(diskCode(1, 1<<20)) == string(got))
	require.NoError(t, a.Close())

	_, ok, err = d.Get(bg, diskKey(1))
	require.ErrorIs(t, err, modcache.ErrClosed)
	require.False(t, ok)
	require.ErrorIs(t, d.Add(bg, diskKey(1), diskArtifact(1, 1)), modcache.ErrClosed)
	require.ErrorIs(t, d.Delete(bg, diskKey(1)), modcache.ErrClosed)
	require.ErrorIs(t, d.Flush(bg), modcache.ErrClosed)
	_, err = d.Trim(bg)
	require.ErrorIs(t, err, modcache.ErrClosed)
}

// TestDiskGetReportsOnce counts the events of each Get, which are one hit or one miss
// whatever becomes of it.
func TestDiskGetReportsOnce(t *testing.T) {
	ended, cancel := context.WithCancel(bg)
	cancel()
	late, cancel := context.WithTimeout(bg, -1)
	defer cancel()
	var events diskEvents
	d, err := modcache.OpenDisk(t.TempDir(), &modcache.DiskOptions{OnEvent: events.observe})
	require.NoError(t, err)
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
	for _, c := range []struct {
		ctx    context.Context
		key    uint64
		closed bool
		kind   modcache.EventKind
		reason modcache.Reason
		err    error
	}{
		{ctx: bg, key: 1, kind: modcache.EventHit},
		{ctx: bg, key: 2, kind: modcache.EventMiss, reason: modcache.ReasonAbsent},
		{ctx: ended, key: 1, kind: modcache.EventMiss, reason: modcache.ReasonTimeout, err: context.Canceled},
		{ctx: late, key: 1, kind: modcache.EventMiss, reason: modcache.ReasonTimeout, err: context.DeadlineExceeded},
		{ctx: bg, key: 1, closed: true, kind: modcache.EventMiss, reason: modcache.ReasonIO, err: modcache.ErrClosed},
	} {
		if c.closed {
			require.NoError(t, d.Close())
		}
		events.take(0)
		a, ok, err := d.Get(c.ctx, diskKey(c.key))
		require.ErrorIs(t, err, c.err)
		require.Equal(t, c.kind == modcache.EventHit, ok)
		if ok {
			require.NoError(t, a.Close())
		}
		require.Len(t, events.all, 1)
		require.Equal(t, c.kind, events.all[0].Kind)
		require.Equal(t, c.reason, events.all[0].Reason)
		require.Equal(t, err, events.all[0].Err)
	}
	m := d.Metrics()
	require.Equal(t, m.Lookups, m.Hits+m.Misses)
	require.EqualValues(t, 1, m.Hits)
}

// TestDiskErrorsNameEachThingOnce pins the form of messages.
func TestDiskErrorsNameEachThingOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	d := openDisk(t, dir, &modcache.DiskOptions{MaxBytes: 1000})
	at, key := "modcache: disk "+dir+": ", diskKey(1).String()
	require.EqualError(t, d.Add(bg, diskKey(1), diskArtifact(1, 2000)),
		at+"add "+key+": artifact is too large: it takes 4096 bytes on disk, MaxBytes is 1000")
	ended, cancel := context.WithCancel(bg)
	cancel()
	require.EqualError(t, d.Delete(ended, diskKey(1)), at+"delete "+key+": context canceled")
	require.EqualError(t, d.Flush(ended), at+"flush: context canceled")
	ro := openDisk(t, dir, &modcache.DiskOptions{ReadOnly: true})
	require.EqualError(t, ro.Add(bg, diskKey(1), diskArtifact(1, 1)), at+"add "+key+": store is read-only")

	// A shard that is a file fails every operation, in ways that name its path.
	require.NoError(t, os.WriteFile(filepath.Join(dir, key[:1]), nil, 0o600))
	_, _, err := d.Get(bg, diskKey(1))
	require.EqualError(t, err, at+"get "+key+": openat: not a directory")
	for op, err := range map[string]error{"add": d.Add(bg, diskKey(1), diskArtifact(1, 1)), "delete": d.Delete(bg, diskKey(1))} {
		var e *modcache.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, modcache.Error{Op: op, Store: "disk " + dir, Key: diskKey(1), Err: e.Err}, *e)
		require.Equal(t, 1, strings.Count(err.Error(), key), err)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, diskKey(2).String()[:1]), nil, 0o600))
	for _, err = range d.Walk(bg) {
	}
	require.Regexp(t, `^modcache: disk [^\n]*: walk: [^;\n]*: not a directory; [^;\n]*: not a directory$`, err)
	trace := errors.New("wasm error: unreachable\nwasm stack trace:\n\t.f()")
	require.EqualError(t, &modcache.Error{Op: "make template", Err: trace}, "modcache: make template: "+trace.Error(), "lines of one error stay")

	_, err = modcache.OpenDisk("", nil)
	require.EqualError(t, err, "modcache: OpenDisk needs the name of a directory")
	for _, url := range []string{"https://u:SECRET@host/x", "s3://bucket"} {
		_, err = modcache.OpenDisk(url, nil)
		require.EqualError(t, err, "modcache: a URL stands where a directory is wanted")
		_, err = modcache.Open(url, nil)
		require.EqualError(t, err, "modcache: a URL stands where a directory is wanted")
	}
	open := t.TempDir()
	require.NoError(t, os.Chmod(open, 0o777))
	_, err = modcache.OpenDisk(open, nil)
	require.EqualError(t, err, "modcache: disk "+open+": open: insecure cache directory: everybody can write to it (drwxrwxrwx); chmod 700 "+open+", or set DiskOptions.Key")
}

func TestDiskRefusesWhatAHeaderCantHold(t *testing.T) {
	d := openDisk(t, t.TempDir(), nil)
	long := modcache.NewArtifact(nil, modcache.Info{Engine: strings.Repeat("x", 256)})
	require.ErrorContains(t, d.Add(bg, diskKey(1), long), "engine identity of 256 bytes, at most 255 fit")
	require.EqualValues(t, 1, d.Metrics().RejectedAdds)
	require.Zero(t, d.Metrics().Errors, "the store is not at fault")
}

// panicking is a source that panics in whatever goroutine reads it.
type panicking struct{}

func (panicking) ReadAt([]byte, int64) (int, error) { panic("no such luck") }

func TestDiskSurvivesSourcesThatPanic(t *testing.T) {
	d := openDisk(t, t.TempDir(), nil)
	require.ErrorContains(t, d.Add(bg, diskKey(1), modcache.NewArtifactFrom(panicking{}, 5<<20, diskInfo)), "no such luck")
	requireMiss(t, d, diskKey(1))
}

func TestDiskKeepsTheContract(t *testing.T) {
	t.Run("plain", func(t *testing.T) { modcachetest.TestStore(t, openTestDisk, diskClauses(nil)) })
	t.Run("compressed", func(t *testing.T) {
		o := &modcache.DiskOptions{Compress: true, Key: []byte("a secret of sixteen bytes or more")}
		modcachetest.TestStore(t, func(tb testing.TB) modcache.Store { return openDiskAt(tb, tempCacheDir(tb), o) }, diskClauses(o))
	})
}

func tempCacheDir(tb testing.TB) string { return filepath.Join(tb.TempDir(), "cache") }

func openTestDisk(tb testing.TB) modcache.Store { return openDiskAt(tb, tempCacheDir(tb), nil) }

func openDiskAt(tb testing.TB, dir string, o *modcache.DiskOptions) *modcache.Disk {
	d, err := modcache.OpenDisk(dir, o)
	require.NoError(tb, err)
	tb.Cleanup(func() { d.Close() })
	return d
}

// diskClauses are what a Disk promises beyond other stores.
func diskClauses(o *modcache.DiskOptions) *modcachetest.Options {
	dirOf := func(s modcache.Store) string { return s.(*modcache.Disk).Dir() }
	return &modcachetest.Options{
		ExclusiveLocks: true,
		Reopen: func(tb testing.TB, s modcache.Store) modcache.Store {
			require.NoError(tb, s.(*modcache.Disk).Close())
			return openDiskAt(tb, dirOf(s), o)
		},
		Share: func(tb testing.TB, s modcache.Store) modcache.Store { return openDiskAt(tb, dirOf(s), o) },
		ReadOnly: func(tb testing.TB, s modcache.Store) modcache.Store {
			ro := modcache.DiskOptions{}
			if o != nil {
				ro = *o
			}
			ro.ReadOnly = true
			return openDiskAt(tb, dirOf(s), &ro)
		},
		Damage: func(tb testing.TB, s modcache.Store, key modcache.Key) {
			name := filepath.Join(dirOf(s), key.String()[:1], key.String()+".v1")
			b, err := os.ReadFile(name)
			require.NoError(tb, err)
			b[len(b)/2] ^= 1
			require.NoError(tb, os.WriteFile(name, b, 0o600))
		},
		Observe: func(tb testing.TB, observer func(modcache.Event)) modcache.Store {
			observed := modcache.DiskOptions{}
			if o != nil {
				observed = *o
			}
			observed.OnEvent = observer
			return openDiskAt(tb, tempCacheDir(tb), &observed)
		},
	}
}
