package modcache_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/breaker"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// cantBeHad makes the name of a directory that can't be made, and returns what has it made.
func cantBeHad(t *testing.T) (dir string, mend func()) {
	above := filepath.Join(t.TempDir(), "volume")
	require.NoError(t, os.WriteFile(above, nil, 0o600))
	return filepath.Join(above, "cache"), func() { require.NoError(t, os.Remove(above)) }
}

// clock is one that a test sets.
type testClock struct{ now time.Time }

func newClock() *testClock                { return &testClock{time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)} }
func (c *testClock) Now() time.Time       { return c.now }
func (c *testClock) pass(d time.Duration) { c.now = c.now.Add(d) }

func TestCacheOpenGoesOnInMemory(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			dir, _ := cantBeHad(t)
			var seen witness
			c := openCache(t, dir, seen.Options(modcache.Options{}))
			require.Len(t, seen.Saw(modcache.EventDegraded), 1)
			require.Equal(t, 1, seen.Warned())
			for range 2 {
				requireRuns(t, w, c, chainWasm, chainWant)
			}
			require.EqualValues(t, 1, c.Metrics().Compiles)
			require.EqualValues(t, 1, c.Metrics().Hits, "memory has it")
			require.IsType(t, &modcache.Memory{}, c.Store())
			require.Equal(t, 1, seen.Warned())

			s := c.Status()
			require.False(t, s.Storing)
			require.True(t, s.InMemory)
			require.Equal(t, dir, s.Dir)
			require.Contains(t, s.Why, dir)
			require.ErrorIs(t, s.Err, seen.Saw(modcache.EventDegraded)[0].(interface{ Unwrap() error }).Unwrap())
			require.EqualValues(t, 1, s.Entries)
			require.EqualValues(t, 64<<20, s.MaxBytes)
			require.Contains(t, s.String(), "in memory only")

			defer debug.SetMemoryLimit(debug.SetMemoryLimit(256 << 20))
			require.EqualValues(t, 32<<20, openCache(t, dir, nil).Status().MaxBytes)
		})
	}
}

func TestCacheOpenMustStore(t *testing.T) {
	needsCompiler(t)
	dir, _ := cantBeHad(t)
	for _, o := range []modcache.Options{{MustStore: true}, {RequireHit: true}} {
		_, err := modcache.Open(dir, &o)
		var at *modcache.Error
		require.ErrorAs(t, err, &at)
		require.Equal(t, "open", at.Op)
		require.Contains(t, err.Error(), dir)
	}
}

// TestCacheOpenTakesADirectoryThatComesLate has a volume mounted after the start.
func TestCacheOpenTakesADirectoryThatComesLate(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			dir, mend := cantBeHad(t)
			clock := newClock()
			c, err := modcache.Open(dir, &modcache.Options{Retain: forget, Disk: modcache.DiskOptions{Now: clock.Now}})
			require.NoError(t, err)
			requireRuns(t, w, c, chainWasm, chainWant)
			mend()
			requireRuns(t, w, c, chainWasm, chainWant)
			require.True(t, c.Status().InMemory, "it is tried again too soon")
			clock.pass(time.Second)
			requireRuns(t, w, c, otherWasm, otherWant)
			s := c.Status()
			require.True(t, s.Storing, s.String())
			require.False(t, s.InMemory)
			require.Equal(t, dir, s.Dir)
			require.IsType(t, &modcache.Disk{}, c.Store())
			require.NoError(t, c.Close(bg)) // and with it the moving of what memory had

			c = openCache(t, dir, &modcache.Options{RequireHit: true})
			requireRuns(t, w, c, otherWasm, otherWant)
			requireRuns(t, w, c, chainWasm, chainWant)
		})
	}
}

// TestCacheOpenMovesWhatItCan has memory hold something that the directory doesn't take, which stays there.
func TestCacheOpenMovesWhatItCan(t *testing.T) {
	needsCompiler(t)
	dir, mend := cantBeHad(t)
	clock := newClock()
	w := ways[1]
	c, err := modcache.Open(dir, &modcache.Options{Retain: forget, Disk: modcache.DiskOptions{Now: clock.Now, MaxBytes: 256 << 10}})
	require.NoError(t, err)
	var small, large [][]byte
	for i := range int32(5) {
		small, large = append(small, wasmtest.Sum(4, i)), append(large, wasmtest.Sum(5000, i))
	}
	run := func(modules [][]byte) {
		for _, wasm := range modules {
			_, err := w.Run(c, wasm)
			require.NoError(t, err)
		}
	}
	run(small)
	run(large)
	mend()
	clock.pass(time.Second)
	requireRuns(t, w, c, chainWasm, chainWant)
	require.False(t, c.Status().InMemory)
	compiles := c.Metrics().Compiles
	run(small)
	run(large)
	require.Equal(t, compiles, c.Metrics().Compiles)
	require.NoError(t, c.Close(bg))

	c = openCache(t, dir, &modcache.Options{RequireHit: true})
	run(small)
}

func TestCacheOpenTriesLessAndLessOften(t *testing.T) {
	needsCompiler(t)
	dir, mend := cantBeHad(t)
	clock := newClock()
	c := openCache(t, dir, &modcache.Options{Retain: forget, Disk: modcache.DiskOptions{Now: clock.Now}})
	look := func() { requireRuns(t, ways[0], c, chainWasm, chainWant) }
	for range 8 { // to a minute
		clock.pass(time.Minute)
		look()
	}
	mend()
	clock.pass(59 * time.Second)
	look()
	require.True(t, c.Status().InMemory)
	clock.pass(time.Second)
	look()
	require.False(t, c.Status().InMemory)
}

func TestCacheOpenTriesAgainWhenTheClockWasSetBack(t *testing.T) {
	needsCompiler(t)
	dir, mend := cantBeHad(t)
	clock := newClock()
	c := openCache(t, dir, &modcache.Options{Disk: modcache.DiskOptions{Now: clock.Now}})
	mend()
	clock.pass(-time.Hour)
	requireRuns(t, ways[0], c, chainWasm, chainWant)
	require.False(t, c.Status().InMemory)
}

// distinct returns a module that no other call returned.
func distinct() []byte { return wasmtest.Const(1000 + distinctModules.Add(1)) }

var distinctModules atomic.Int32

// TestCacheWarnsOnceOfAServerThatIsLeftAlone, whatever a layer before it has, and again when that is long ago.
func TestCacheWarnsOnceOfAServerThatIsLeftAlone(t *testing.T) {
	needsCompiler(t)
	clock := newClock()
	away := &modcache.Error{Op: "get", Err: fmt.Errorf("%w: %w", modcache.ErrUnavailable, breaker.ErrOpen)}
	server := &storetest.Fake{OnGet: func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) { return nil, false, away }}
	both := layered(t, nil, modcache.Layer{Store: modcache.NewMemory(nil)}, modcache.Layer{Store: server, Write: modcache.WriteNever})
	var seen witness
	c := newCache(t, both, seen.Options(modcache.Options{Disk: modcache.DiskOptions{Now: clock.Now}}))
	known := distinct()
	compile := func(wasm []byte) {
		_, err := ways[0].Run(c, wasm)
		require.NoError(t, err)
		clock.pass(time.Second)
	}
	for range 2 {
		clock.pass(24 * time.Hour)
		for range 5 {
			compile(distinct())
			compile(known)
		}
	}
	require.Equal(t, 2, seen.Warned())
	require.ErrorIs(t, c.Status().LastErr, modcache.ErrUnavailable)
}

// A store that stops taking entries is a warning once, and again after it has recovered.
func TestCacheWarnsOnceThatItStopsStoring(t *testing.T) {
	needsCompiler(t)
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			clock := newClock()
			s := &storetest.Fake{}
			var seen witness
			c := newCache(t, s, seen.Options(modcache.Options{Disk: modcache.DiskOptions{Now: clock.Now}}))
			compile := func() {
				_, err := w.Run(c, distinct())
				require.NoError(t, err)
			}
			compile()
			require.True(t, c.Status().Storing)
			require.True(t, c.Status().Since.IsZero())

			full := errors.New("no space left on device")
			s.OnAdd = func(context.Context, modcache.Key, *modcache.Artifact) error { return full }
			clock.pass(time.Hour)
			since := clock.Now()
			for range 3 {
				compile()
				clock.pass(time.Minute)
			}
			require.Equal(t, 1, seen.Warned())
			require.Len(t, seen.Saw(modcache.EventStoreFailed), 3, "an observer sees each")
			st := c.Status()
			require.False(t, st.Storing)
			require.Equal(t, since, st.Since)
			require.ErrorIs(t, st.Err, full)
			require.ErrorIs(t, st.LastErr, full)
			require.Equal(t, clock.Now().Add(-time.Minute), st.LastErrorAt)

			s.Heal()
			compile()
			require.True(t, c.Status().Storing)
			require.ErrorIs(t, c.Status().LastErr, full, "is remembered")
			s.OnAdd = func(context.Context, modcache.Key, *modcache.Artifact) error { return full }
			compile()
			require.Equal(t, 2, seen.Warned())

			// What is too large says nothing about other modules.
			s.Heal()
			compile()
			s.OnAdd = func(context.Context, modcache.Key, *modcache.Artifact) error { return modcache.ErrTooLarge }
			compile()
			require.True(t, c.Status().Storing)
		})
	}
}

// A directory that can't be written any more is the same, and is made anew as soon as it can be.
func TestCacheWarnsOnceThatItsDirectoryIsGone(t *testing.T) {
	needsCompiler(t)
	above := filepath.Join(t.TempDir(), "volume")
	require.NoError(t, os.Mkdir(above, 0o700))
	var seen witness
	c := openCache(t, filepath.Join(above, "c"), seen.Options(modcache.Options{}))
	compile := func() {
		_, err := ways[1].Run(c, distinct())
		require.NoError(t, err)
	}
	compile()
	require.True(t, c.Status().Storing)
	// The first trim may be making files in it meanwhile.
	require.Eventually(t, func() bool { return os.RemoveAll(above) == nil }, time.Minute, time.Millisecond)
	require.NoError(t, os.WriteFile(above, nil, 0o600))
	for range 3 {
		compile()
	}
	require.False(t, c.Status().Storing)
	require.Contains(t, c.Status().Why, above)
	require.Equal(t, 1, seen.Warned())
	require.NoError(t, os.Remove(above))
	compile()
	require.True(t, c.Status().Storing)
	require.Equal(t, 1, seen.Warned())
}

func TestCacheStatus(t *testing.T) {
	needsCompiler(t)
	dir := filepath.Join(t.TempDir(), "c")
	c := openCache(t, dir, &modcache.Options{Disk: modcache.DiskOptions{MaxBytes: 1 << 30}})
	s := c.Status()
	require.True(t, s.Storing)
	require.Equal(t, "disk", s.Store)
	require.Equal(t, dir, s.Dir)
	require.EqualValues(t, 1<<30, s.MaxBytes)
	require.True(t, s.EngineKnown)
	require.Equal(t, c.EngineID(), s.EngineID)
	require.NotEmpty(t, s.Wazero)
	require.Empty(t, s.Unsupported)
	require.Empty(t, s.Off)
	requireRuns(t, ways[1], c, chainWasm, chainWant)
	require.EqualValues(t, 1, c.Status().Entries)
	require.NoError(t, c.Close(bg))
	require.ErrorIs(t, c.Status().Err, modcache.ErrClosed)

	c = openCache(t, dir, &modcache.Options{ReadOnly: true})
	require.False(t, c.Status().Storing)
	require.True(t, c.Status().ReadOnly)
	require.False(t, c.Status().InMemory)

	c = newCache(t, &storetest.Fake{}, nil)
	require.EqualValues(t, -1, c.Status().Entries)
	require.Equal(t, "*storetest.Fake", c.Status().Store)
}

func TestCacheOpenFollowsTheEnvironment(t *testing.T) {
	needsCompiler(t)
	set := func(mode, dir, maxBytes string) {
		t.Setenv("MODCACHE", mode)
		t.Setenv("MODCACHE_DIR", dir)
		t.Setenv("MODCACHE_MAX_BYTES", maxBytes)
	}
	dir := filepath.Join(t.TempDir(), "c")
	set("", dir, "100MB")
	c := openCache(t, "", nil)
	requireRuns(t, ways[1], c, chainWasm, chainWant)
	require.Equal(t, dir, c.Status().Dir)
	require.EqualValues(t, 100e6, c.Status().MaxBytes)
	require.Equal(t, []string{"MODCACHE_DIR=" + dir, "MODCACHE_MAX_BYTES=100MB"}, c.Status().Env)
	require.NoError(t, c.Close(bg))

	set("ro", dir, "")
	var seen witness
	c = openCache(t, "", seen.Options(modcache.Options{Disk: modcache.DiskOptions{MaxBytes: 1 << 20}}))
	requireRuns(t, ways[1], c, chainWasm, chainWant)
	requireRuns(t, ways[1], c, otherWasm, otherWant)
	require.EqualValues(t, 1, c.Metrics().Hits)
	require.Zero(t, c.Metrics().Store.Adds)
	require.Zero(t, seen.Warned())
	require.EqualValues(t, 1<<20, c.Status().MaxBytes)
	require.Contains(t, c.Status().Why, "MODCACHE=ro")

	set("off", dir, "")
	c = openCache(t, "", seen.Options(modcache.Options{}))
	requireRuns(t, ways[1], c, chainWasm, chainWant)
	require.Zero(t, c.Metrics().Hits)
	require.True(t, c.Status().InMemory)
	require.Contains(t, c.Status().Why, "MODCACHE=off")
	require.Zero(t, seen.Warned())
	require.NoError(t, c.Warm(bg, nil, modcache.NewModule(chainWasm)), "works on")
	for _, o := range []modcache.Options{{MustStore: true}, {RequireHit: true}} {
		_, err := modcache.Open("", &o)
		require.ErrorContains(t, err, "MODCACHE=off")
	}

	// Nothing of that counts where the program names a directory, or doesn't want it.
	set("off", "relative", "x")
	c = openCache(t, dir, &modcache.Options{RequireHit: true})
	requireRuns(t, ways[1], c, chainWasm, chainWant)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	_, err := modcache.Open("", &modcache.Options{MustStore: true})
	require.ErrorContains(t, err, "MODCACHE_DIR")
	openCache(t, "", &modcache.Options{MustStore: true, IgnoreEnv: true})

	set("", "relative", "x")
	c = openCache(t, "", seen.Options(modcache.Options{}))
	require.Equal(t, 1, seen.Warned())
	require.True(t, c.Status().Storing)
	require.Len(t, c.Status().Off, 1)
}
