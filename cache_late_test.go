package modcache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestCacheOpenReadOnlyKeepsCodeInMemory has a directory that can't be had, and that would only be read.
func TestCacheOpenReadOnlyKeepsCodeInMemory(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			dir, mend := cantBeHad(t)
			clock := newClock()
			c := openCache(t, dir, &modcache.Options{ReadOnly: true, Retain: forget, Disk: modcache.DiskOptions{Now: clock.Now}})
			for range 2 {
				requireRuns(t, w, c, chainWasm, chainWant)
			}
			require.EqualValues(t, 1, c.Metrics().Compiles)
			require.True(t, c.Status().InMemory)
			require.True(t, c.Status().ReadOnly)
			require.NoError(t, c.Warm(bg, nil, modcache.NewModule(otherWasm)))
			require.EqualValues(t, 2, c.Status().Entries, "Warm too")

			mend()
			require.NoError(t, os.MkdirAll(dir, 0o700))
			clock.pass(time.Second)
			requireRuns(t, w, c, chainWasm, chainWant)
			require.False(t, c.Status().InMemory)
			require.EqualValues(t, 2, c.Metrics().Compiles, "memory still has it")
			_, err := w.Run(c, distinct())
			require.NoError(t, err)
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

// TestCacheReadOnlyKeepsNothingInAMemory is about one that is the caller's.
func TestCacheReadOnlyKeepsNothingInAMemory(t *testing.T) {
	needsCompiler(t)
	m := modcache.NewMemory(nil)
	c := newCache(t, m, &modcache.Options{ReadOnly: true})
	requireRuns(t, ways[1], c, chainWasm, chainWant)
	require.Zero(t, m.Metrics().Entries)
	require.False(t, c.Status().InMemory)
}

// TestCacheOpenRemembersWhereItWas names a directory that isn't there yet, and goes elsewhere.
func TestCacheOpenRemembersWhereItWas(t *testing.T) {
	needsCompiler(t)
	here, elsewhere := t.TempDir(), t.TempDir()
	t.Chdir(here)
	require.NoError(t, os.WriteFile("volume", nil, 0o600))
	clock := newClock()
	c := openCache(t, filepath.Join("volume", "cache"), &modcache.Options{Disk: modcache.DiskOptions{Now: clock.Now}})
	require.True(t, c.Status().InMemory)
	require.Equal(t, filepath.Join(here, "volume", "cache"), c.Status().Dir)
	require.NoError(t, os.Remove("volume"))
	t.Chdir(elsewhere)
	clock.pass(time.Second)
	requireRuns(t, ways[1], c, chainWasm, chainWant)
	require.DirExists(t, filepath.Join(here, "volume", "cache"))
	require.NoDirExists(t, filepath.Join(elsewhere, "volume"))
}

// TestCacheMetricsGoForward compares snapshots from before and after a directory has come late.
func TestCacheMetricsGoForward(t *testing.T) {
	needsCompiler(t)
	evicting := modcache.NewMemory(nil)
	require.NoError(t, evicting.Add(bg, modcache.Key{1}, modcache.NewArtifact([]byte("code"), modcache.Info{})))
	evicting.Resize(1)
	for _, behind := range [][]modcache.Layer{nil, {{Store: evicting}}} {
		dir, mend := cantBeHad(t)
		clock := newClock()
		c := openCache(t, dir, &modcache.Options{Behind: behind, Retain: forget, Disk: modcache.DiskOptions{Now: clock.Now}})
		before := c.Metrics().Store
		forward := func() {
			t.Helper()
			now := c.Metrics().Store
			_, err := now.Sub(before)
			require.NoError(t, err)
			before = now
		}
		for range 5 {
			_, err := ways[1].Run(c, distinct())
			require.NoError(t, err)
			forward()
		}
		mend()
		clock.pass(time.Second)
		requireRuns(t, ways[1], c, chainWasm, chainWant)
		require.False(t, c.Status().InMemory)
		forward()
		requireRuns(t, ways[1], c, chainWasm, chainWant)
		forward()
		if behind != nil {
			require.EqualValues(t, 1, before.Evictions, "those of a store behind both count once")
		}
	}
}

// TestCacheOpenBehind has a store behind a directory that comes late.
func TestCacheOpenBehind(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			dir, mend := cantBeHad(t)
			clock := newClock()
			var seen witness
			fleet := modcache.NewMemory(nil)
			o := seen.Options(modcache.Options{
				EngineID: "the same", Behind: []modcache.Layer{{Store: fleet, Name: "fleet"}}, Retain: forget, Disk: modcache.DiskOptions{Now: clock.Now},
			})
			c, err := modcache.Open(dir, o)
			require.NoError(t, err)
			requireRuns(t, w, c, chainWasm, chainWant)
			s := c.Status()
			require.False(t, s.Storing)
			require.True(t, s.InMemory)
			require.Equal(t, dir, s.Dir)
			require.Contains(t, s.Why, dir)
			require.Len(t, s.Off, 1)
			require.Len(t, seen.Saw(modcache.EventDegraded), 1)
			require.EqualValues(t, 1, fleet.Metrics().Entries)
			require.Equal(t, []string{"memory", "fleet"}, layerNames(c))

			mend()
			clock.pass(time.Second)
			requireRuns(t, w, c, otherWasm, otherWant)
			s = c.Status()
			require.True(t, s.Storing, s.String())
			require.False(t, s.InMemory)
			require.Equal(t, dir, s.Dir)
			require.Equal(t, "layered", s.Store)
			require.Equal(t, int64(modcache.DefaultDiskMaxBytes), s.MaxBytes)
			require.Equal(t, []string{"disk", "fleet"}, layerNames(c))
			require.EqualValues(t, 2, fleet.Metrics().Entries)
			require.NoError(t, c.Close(bg))
			require.Empty(t, seen.Saw(modcache.EventStoreFailed))

			// The directory has got both, and so has who finds nothing in his.
			for _, c := range []*modcache.Cache{
				openCache(t, dir, &modcache.Options{EngineID: "the same", RequireHit: true}),
				openCache(t, t.TempDir(), &modcache.Options{EngineID: "the same", RequireHit: true, Behind: o.Behind}),
			} {
				requireRuns(t, w, c, otherWasm, otherWant)
				requireRuns(t, w, c, chainWasm, chainWant)
			}
			c = openCache(t, t.TempDir(), &modcache.Options{EngineID: "another", RequireHit: true, Behind: o.Behind})
			_, err = w.Run(c, chainWasm)
			require.ErrorIs(t, err, modcache.ErrMiss)
			require.ErrorContains(t, err, "is empty")
			unwritable, _ := cantBeHad(t)
			c = openCache(t, unwritable, &modcache.Options{EngineID: "the same", RequireHit: true, Behind: o.Behind})
			requireRuns(t, w, c, chainWasm, chainWant)

			// What is read only gets nothing.
			c = openCache(t, dir, &modcache.Options{EngineID: "the same", ReadOnly: true, Behind: o.Behind, SmallModules: -1})
			_, err = w.Run(c, distinct())
			require.NoError(t, err)
			require.NoError(t, c.Flush(bg))
			require.EqualValues(t, 2, fleet.Metrics().Entries)
			require.Zero(t, c.Metrics().StoreErrors)
			t.Setenv("MODCACHE_DIR", unwritable)
			t.Setenv("MODCACHE", "ro")
			c = openCache(t, "", &modcache.Options{EngineID: "the same", Behind: o.Behind, SmallModules: -1})
			require.True(t, c.Status().InMemory)
			_, err = w.Run(c, distinct())
			require.NoError(t, err)
			require.NoError(t, c.Flush(bg))
			require.EqualValues(t, 2, fleet.Metrics().Entries)
		})
	}
}

// TestCacheOpenReadOnlyDeletesNothingBehind has a store behind the directory whose entries are damaged.
func TestCacheOpenReadOnlyDeletesNothingBehind(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			fleet := &storetest.Fake{}
			o := modcache.Options{EngineID: "the same", Behind: []modcache.Layer{{Store: fleet, Name: "fleet"}}, Retain: forget, SmallModules: -1}
			c := openCache(t, t.TempDir(), &o)
			requireRuns(t, w, c, chainWasm, chainWant)
			require.NoError(t, c.Close(bg))
			keys := fleet.Keys()
			require.NotEmpty(t, keys)
			for _, key := range keys {
				fleet.Set(key, modcache.NewArtifact([]byte("not sealed"), fleet.Entry(key).Info()))
			}

			unwritable, _ := cantBeHad(t)
			t.Setenv("MODCACHE", "ro")
			for _, dir := range []string{t.TempDir(), unwritable} {
				t.Setenv("MODCACHE_DIR", dir)
				readOnly := o
				readOnly.ReadOnly = true
				for _, c := range []*modcache.Cache{openCache(t, dir, &readOnly), openCache(t, "", &o)} {
					for range 2 {
						requireRuns(t, w, c, chainWasm, chainWant)
					}
					require.NoError(t, c.Flush(bg))
					require.NotZero(t, c.Metrics().Corrupt)
					require.Equal(t, keys, fleet.Keys())
					require.Zero(t, fleet.Calls().Delete)
					if c.Status().InMemory {
						require.EqualValues(t, 1, c.Metrics().Compiles, "memory has sound code in the place of a damaged entry")
					}
				}
			}

			// One that writes deletes them.
			requireRuns(t, w, openCache(t, unwritable, &o), chainWasm, chainWant)
			require.NotZero(t, fleet.Calls().Delete)
		})
	}
}

// TestCacheOpenBehindWhatStoodIn has a write under way while the directory comes, that fails later.
func TestCacheOpenBehindWhatStoodIn(t *testing.T) {
	needsCompiler(t)
	for _, ending := range []string{"told", "flushed", "closed"} {
		t.Run(ending, func(t *testing.T) {
			dir, mend := cantBeHad(t)
			clock := newClock()
			var seen witness
			slow := &observedStore{}
			begun, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			broken := errors.New("broken")
			slow.OnAdd = func(context.Context, modcache.Key, *modcache.Artifact) error {
				first := false
				once.Do(func() { first = true })
				if !first {
					return nil
				}
				close(begun)
				<-release
				return broken
			}
			c := openCache(t, dir, seen.Options(modcache.Options{
				Behind: []modcache.Layer{{Store: slow, Name: "slow", Write: modcache.WriteBehind}}, Retain: forget, Disk: modcache.DiskOptions{Now: clock.Now},
			}))
			requireRuns(t, ways[1], c, chainWasm, chainWant)
			<-begun
			mend()
			clock.pass(time.Second)
			requireRuns(t, ways[1], c, otherWasm, otherWant)
			require.Equal(t, []string{"disk", "slow"}, layerNames(c))
			require.EqualValues(t, 1, slow.observers.Load(), "else all is told twice")
			switch ending {
			case "told":
				close(release)
				require.Eventually(t, func() bool { return len(seen.Saw(modcache.EventStoreFailed)) > 0 }, time.Minute, time.Millisecond)
				require.ErrorIs(t, seen.Saw(modcache.EventStoreFailed)[0], broken)
				require.ErrorIs(t, c.Flush(bg), broken)
				require.NoError(t, c.Flush(bg), "once")
			case "flushed":
				impatient, cancel := context.WithCancel(bg)
				cancel()
				require.ErrorIs(t, c.Flush(impatient), context.Canceled)
				go func() {
					time.Sleep(10 * time.Millisecond)
					close(release)
				}()
				require.ErrorIs(t, c.Flush(bg), broken)
			case "closed":
				go func() {
					time.Sleep(10 * time.Millisecond)
					close(release)
				}()
				require.ErrorIs(t, c.Close(bg), broken)
			}
			require.Len(t, cachetest.Entries(t, dir), 2)
		})
	}
}

// observedStore counts its observers.
type observedStore struct {
	storetest.Fake
	observers atomic.Int64
}

func (s *observedStore) Observe(func(modcache.Event)) (stop func()) {
	s.observers.Add(1)
	return func() { s.observers.Add(-1) }
}

// TestCacheOpenBehindHearsTheDirectory from the start: a trim may be due then.
func TestCacheOpenBehindHearsTheDirectory(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		d := openDisk(t, dir, &modcache.DiskOptions{Now: func() time.Time { return time.Now().Add(-48 * time.Hour) }})
		for i := range uint64(20) {
			require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, 5000)))
		}
		_, err := d.Trim(bg)
		require.NoError(t, err)
		require.NoError(t, d.Close())

		var told atomic.Int64
		c, err := modcache.Open(dir, &modcache.Options{
			Behind: []modcache.Layer{{Store: modcache.NewMemory(nil)}}, Disk: modcache.DiskOptions{MaxBytes: 5 * onDisk(5000)},
			OnEvent: func(e modcache.Event) {
				if e.Kind == modcache.EventEvicted && e.Layer == "disk" {
					told.Add(1)
				}
			},
		})
		require.NoError(t, err)
		require.Eventually(t, func() bool { return c.Metrics().Store.Evictions >= 15 }, time.Minute, time.Millisecond)
		require.NoError(t, c.Close(bg))
		require.EqualValues(t, 15, told.Load())
	}
}

func layerNames(c *modcache.Cache) (names []string) {
	for _, l := range c.Store().(*modcache.Layered).Layers() {
		names = append(names, l.Name)
	}
	return names
}

// TestCacheStatusOfAStoreThatIsTooSmall has each artifact refused.
func TestCacheStatusOfAStoreThatIsTooSmall(t *testing.T) {
	needsCompiler(t)
	var seen witness
	c := openCache(t, t.TempDir(), seen.Options(modcache.Options{Disk: modcache.DiskOptions{MaxBytes: 1}}))
	for range 3 {
		_, err := ways[1].Run(c, distinct())
		require.NoError(t, err)
	}
	require.False(t, c.Status().Storing)
	require.ErrorIs(t, c.Status().Err, modcache.ErrTooLarge)
	require.Equal(t, 1, seen.Warned())

	s := &storetest.Fake{OnAdd: func(context.Context, modcache.Key, *modcache.Artifact) error { return modcache.ErrTooLarge }}
	c = newCache(t, s, nil)
	_, err := ways[1].Run(c, distinct())
	require.NoError(t, err)
	require.False(t, c.Status().Storing)
	s.Heal()
	_, err = ways[1].Run(c, distinct())
	require.NoError(t, err)
	require.True(t, c.Status().Storing)
}

// TestCacheStatusKeepsNoLongErrors has a store fail, and a feature end, with errors that are very long.
func TestCacheStatusKeepsNoLongErrors(t *testing.T) {
	const size, failures = 4 << 20, 20
	long := strings.Repeat("x", size)
	store := &storetest.Fake{OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
		return nil, false, fmt.Errorf("%s: %w", strings.Clone(long), io.ErrUnexpectedEOF)
	}}
	observable := struct {
		*storetest.Fake
		unobservable
	}{Fake: store, unobservable: unobservable(long)}
	c := newCache(t, observable, nil)
	r := newRuntime(t, c, nil)
	live := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	runtime.GC()
	before := live()
	for i := range int32(failures) {
		ok, err := r.Stored(bg, modcache.NewModule(wasmtest.Const(i)))
		require.ErrorContains(t, err, long)
		require.False(t, ok)
	}
	s := c.Status()
	require.ErrorIs(t, s.LastErr, io.ErrUnexpectedEOF)
	require.ErrorAs(t, s.LastErr, new(*modcache.Error))
	require.Contains(t, s.LastError, "bytes more)")
	require.Len(t, s.Off, 1)
	for _, text := range append(s.Off, s.LastError, s.LastErr.Error(), s.String()) {
		require.Less(t, len(text), 4<<10)
	}
	cachetest.GivesBack(t, func() bool { return live()-before < size })
	runtime.KeepAlive(c)
}

// unobservable can't be observed, for which it has many words.
type unobservable string

func (u unobservable) Observe(func(modcache.Event)) (stop func()) { panic(string(u)) }

// TestCacheStatusKeepsWhatErrorsAre has a store fail with errors of other people's types, short and long.
func TestCacheStatusKeepsWhatErrorsAre(t *testing.T) {
	for _, size := range []int{10, 4 << 10} {
		var told error
		store := &storetest.Fake{OnGet: func(_ context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
			return nil, false, &modcache.Error{Op: "get", Store: "theirs", Key: key, Err: refusal(strings.Repeat("x", size))}
		}}
		c := newCache(t, store, &modcache.Options{OnEvent: func(e modcache.Event) {
			if e.Kind == modcache.EventStoreFailed {
				told = e.Err
			}
		}})
		_, err := newRuntime(t, c, nil).Stored(bg, modcache.NewModule(wasmtest.Const(1)))
		require.ErrorIs(t, err, fs.ErrPermission)
		kept := c.Status().LastErr
		require.ErrorIs(t, kept, fs.ErrPermission)
		require.ErrorIs(t, kept, modcache.ErrUnavailable)
		require.NotErrorIs(t, kept, modcache.ErrClosed)
		require.Equal(t, strings.Count(told.Error(), "get "), strings.Count(kept.Error(), "get "), kept)
		require.Equal(t, size < 1<<10, kept == told, size)
	}
}

// refusal says by a method what it is.
type refusal string

func (r refusal) Error() string { return string(r) }

func (refusal) Is(target error) bool {
	return target == fs.ErrPermission || target == modcache.ErrUnavailable
}
