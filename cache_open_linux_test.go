package modcache_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestCacheOpenReadsWhatItCantWrite runs as nobody over a cache that root has filled, as images do, and
// over one that is mounted read-only.
func TestCacheOpenReadsWhatItCantWrite(t *testing.T) {
	needsCompiler(t)
	const variable, nobody = "MODCACHE_TEST_READS", 65534
	clock := newClock()
	same := modcache.Options{EngineID: "the same in both processes", Retain: forget, Disk: modcache.DiskOptions{Now: clock.Now}}
	if dir := os.Getenv(variable); dir != "" {
		var seen witness
		c := openCache(t, dir, seen.Options(same))
		requireRuns(t, ways[1], c, chainWasm, chainWant)
		require.EqualValues(t, 1, c.Metrics().Hits)
		requireRuns(t, ways[1], c, otherWasm, otherWant)
		require.Zero(t, c.Metrics().StoreErrors)
		require.Equal(t, 1, seen.Warned())
		s := c.Status()
		require.False(t, s.Storing)
		require.False(t, s.InMemory)
		require.True(t, s.ReadOnly)
		require.Contains(t, s.Why, "you can't write to it")

		strict := same
		strict.RequireHit = true
		requireRuns(t, ways[1], openCache(t, dir, &strict), chainWasm, chainWant)
		strict.MustStore = true
		_, err := modcache.Open(dir, &strict)
		require.ErrorContains(t, err, "you can't write to it")
		// Where there is no cache, there is nothing to read.
		if os.Geteuid() != 0 {
			require.True(t, openCache(t, filepath.Dir(dir), &same).Status().InMemory)
			return
		}
		// The directory is tried again.
		before := c.Metrics().Store
		out, err := exec.Command("mount", "-o", "remount,bind,rw", dir).CombinedOutput()
		require.NoError(t, err, "%s", out)
		clock.pass(time.Second)
		requireRuns(t, ways[1], c, otherWasm, otherWant)
		s = c.Status()
		require.True(t, s.Storing)
		require.False(t, s.ReadOnly)
		require.EqualValues(t, 1, c.Metrics().Store.Adds)
		_, err = c.Metrics().Store.Sub(before)
		require.NoError(t, err, "counters go forward")
		requireRuns(t, ways[1], c, chainWasm, chainWant)
		require.EqualValues(t, 2, c.Metrics().Hits)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: somebody else's cache, which takes root to run as somebody else")
	}
	dir := filepath.Join(t.TempDir(), "cache")
	c := openCache(t, dir, &same)
	requireRuns(t, ways[1], c, chainWasm, chainWant)
	require.NoError(t, c.Close(bg))
	require.NoError(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		mode := fs.FileMode(0o644)
		if d.IsDir() {
			mode = 0o755
		}
		return os.Chmod(name, mode)
	}))
	for d := filepath.Dir(dir); d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	run := func(as *syscall.SysProcAttr, command ...string) {
		cmd := exec.Command(command[0], append(command[1:], "-test.run=^TestCacheOpenReadsWhatItCantWrite$", "-test.v")...)
		cmd.Env = append(os.Environ(), variable+"="+dir)
		cmd.Dir, cmd.SysProcAttr = "/", as
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS")
	}
	run(&syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}, "/proc/self/exe")
	if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: a cache that is mounted read-only, which takes mounts of one process: %v %s", err, out)
	}
	run(nil, "unshare", "--mount", "sh", "-ec", `mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"`, dir, os.Args[0])
}

// TestCacheWithoutExecutableMemory runs in a process that may not make memory executable.
func TestCacheWithoutExecutableMemory(t *testing.T) {
	if !cachetest.Apart(t) {
		return
	}
	cachetest.DenyExecutable(t)
	var seen witness
	c := openCache(t, filepath.Join(t.TempDir(), "c"), seen.Options(modcache.Options{}))
	s := c.Status()
	require.False(t, s.Storing)
	require.ErrorIs(t, s.Err, modcache.ErrUnsupportedWazero)
	require.Contains(t, s.Unsupported, "may not make memory executable")
	require.Equal(t, 1, seen.Warned())
	_, err := modcache.Open(filepath.Join(t.TempDir(), "c"), &modcache.Options{RequireHit: true})
	require.ErrorIs(t, err, modcache.ErrUnsupportedWazero)
	require.ErrorContains(t, err, "MemoryDenyWriteExecute")

	r, err := c.NewRuntime(bg, wazero.NewRuntimeConfigInterpreter())
	require.NoError(t, err)
	defer r.Close(bg)
	got, err := cachetest.Run(r, chainWasm)
	require.NoError(t, err)
	require.EqualValues(t, chainWant, got)

	r, err = c.NewRuntime(bg, wazero.NewRuntimeConfigCompiler())
	require.Nil(t, r)
	require.ErrorIs(t, err, modcache.ErrUnsupportedWazero)
	require.ErrorContains(t, err, "modcache: make runtime: ")
	require.ErrorContains(t, err, "MemoryDenyWriteExecute")
	for _, config := range []wazero.RuntimeConfig{nil, wazero.NewRuntimeConfigCompiler()} { // from v1.12 on, wazero interprets if it isn't told to compile
		m := modcache.NewModule(chainWasm)
		require.ErrorIs(t, c.Warm(bg, config, m), modcache.ErrUnsupportedWazero)
		require.ErrorIs(t, (<-c.Prepare(bg, config, m)).Err, modcache.ErrUnsupportedWazero)
	}
}

// TestCacheOfAnUnknownEngine runs where nothing tells which wazero this is: there is no /proc, and no module
// cache that the test was built from.
func TestCacheOfAnUnknownEngine(t *testing.T) {
	needsCompiler(t)
	const variable = "MODCACHE_TEST_UNKNOWN_ENGINE"
	if dir := os.Getenv(variable); dir != "" {
		_, err := modcache.EngineID()
		require.Error(t, err)
		disk := openDisk(t, dir+"/disk", nil)
		for _, w := range ways {
			var seen witness
			opened := openCache(t, dir+"/c", seen.Options(modcache.Options{}))
			over := newCache(t, disk, &modcache.Options{Retain: forget})
			for _, c := range []*modcache.Cache{opened, over} {
				requireRuns(t, w, c, chainWasm, chainWant)
				requireRuns(t, w, c, chainWasm, chainWant)
				require.EqualValues(t, 1, c.Metrics().Hits, "memory has it")
				s := c.Status()
				require.False(t, s.Storing)
				require.False(t, s.EngineKnown)
				require.True(t, s.InMemory)
				require.Contains(t, s.Why, "EngineID")
			}
			require.Len(t, seen.Saw(modcache.EventDegraded), 1)
			require.Equal(t, 1, seen.Warned())
		}
		require.NoDirExists(t, dir+"/c")
		require.Zero(t, disk.Metrics().Adds)
		for _, o := range []modcache.Options{{MustStore: true}, {RequireHit: true}} {
			_, err := modcache.Open(dir+"/c", &o)
			require.ErrorContains(t, err, "no engine identity")
			_, err = modcache.New(disk, &o)
			require.ErrorContains(t, err, "no engine identity")
		}
		// Memory of the program's own serves as well as ours, and an identity that it knows serves all.
		own := modcache.NewMemory(nil)
		require.Same(t, own, newCache(t, own, nil).Store())
		require.True(t, openCache(t, dir+"/c", &modcache.Options{EngineID: "mine", MustStore: true}).Status().Storing)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: an unknown engine, which takes root to hide /proc")
	}
	wazeroDir, err := wasmtest.WazeroDir()
	if err != nil {
		t.Skip("NOT TESTED: an unknown engine:", err)
	}
	hide := `mount -t tmpfs none "$0" && mount -t tmpfs none /proc && exec "$@"`
	cmd := exec.Command("unshare", "--mount", "sh", "-ec", hide, filepath.Join(wazeroDir, "../../../cache/download"),
		os.Args[0], "-test.run=^TestCacheOfAnUnknownEngine$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+t.TempDir())
	if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: an unknown engine, which takes mounts of one process: %v %s", err, out)
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS")
}
