//go:build unix

package e2e

import (
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// childLimited compiles where no file may grow beyond a few bytes, or where it may not
// read or write, both ways in.
func childLimited(t *testing.T, j job) (r report) {
	if j.Step > 0 {
		signal.Ignore(syscall.SIGXFSZ)
		var limit syscall.Rlimit
		setNumber(&limit.Cur, j.Step)
		setNumber(&limit.Max, j.Step)
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit))
	}
	c, err := modcache.Open(j.Dir, &modcache.Options{Retain: forget, EngineID: j.Options.EngineID})
	if err != nil {
		r.Err = err.Error()
		return r
	}
	defer c.Close(bg)
	for _, w := range ways {
		for range 2 {
			requireRuns(t, w, c, wasmtest.Sum(j.Functions, j.Seed), j.Functions*(j.Functions+1)/2+int(j.Seed))
		}
	}
	r.Metrics = c.Metrics()
	return r
}

// setNumber sets a number whose type differs from system to system.
func setNumber[N int64 | uint64](n *N, value int) { *n = N(value) }

func TestNoRoomForFiles(t *testing.T) {
	needsCompiler(t)
	for _, limit := range []int{1, 200, 600} {
		dir := t.TempDir() + "/cache"
		r := inChild(t, job{Child: "limited", Dir: dir, Functions: 20, Step: limit})
		require.Empty(t, r.Err)
		require.EqualValues(t, 4, r.Metrics.StoreErrors)
		require.Zero(t, r.Metrics.Hits)
		require.Empty(t, entriesBelow(t, dir))
		left, err := filepath.Glob(dir + "/tmp/*")
		require.NoError(t, err)
		require.Empty(t, left, "a file that couldn't be written stays behind")
	}
}

func TestFullFileSystem(t *testing.T) {
	needsCompiler(t)
	if runtime.GOOS != "linux" {
		t.Skip("NOT TESTED: a full file system, outside Linux")
	}
	mount := t.TempDir()
	if err := mountTmpfs(mount, "size=64k"); err != nil {
		t.Skipf("NOT TESTED: a full file system; mounting a tmpfs: %v", err)
	}
	defer func() { require.NoError(t, unix.Unmount(mount, 0)) }()
	dir := mount + "/cache"
	c := openCache(t, dir, &modcache.Options{Retain: forget, Disk: modcache.DiskOptions{MinFree: -1}})
	for _, w := range ways {
		// One that fits, one that never will, and then many that fill it.
		requireRuns(t, w, c, wasmtest.Sum(20, 7), 217)
		requireRuns(t, w, c, wasmtest.Sum(1000, 0), 500500)
		for i := range int32(30) {
			requireRuns(t, w, c, wasmtest.Sum(20, 1000+i), 1210+int(i))
		}
	}
	require.NotZero(t, c.Metrics().StoreErrors)
	require.NoError(t, c.Close(bg))
}

// Somebody who may not do it tries to use the directory: root must not, as
// permissions don't bind it.
func TestWithoutPermission(t *testing.T) {
	needsCompiler(t)
	dir := t.TempDir()
	cache := dir + "/cache"
	// Whoever may not read root's module cache finds another identity there.
	const engine = "the same for every user"
	j := job{Child: "limited", Dir: cache, Functions: 20}
	j.Options.EngineID = engine
	c := openCache(t, cache, &modcache.Options{EngineID: engine})
	for _, w := range ways {
		requireRuns(t, w, c, wasmtest.Sum(20, 0), 210)
	}
	require.NoError(t, c.Close(bg))
	own := func(uid int) {
		require.NoError(t, filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
			if err == nil {
				err = os.Chown(path, uid, uid)
			}
			return err
		}))
	}
	run := func() report { return inChild(t, j) }
	if os.Geteuid() == 0 {
		const nobody = 65534
		exe, err := os.Executable()
		require.NoError(t, err)
		copied := dir + "/test"
		b, err := os.ReadFile(exe)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(copied, b, 0o755))
		own(nobody)
		// The directories that Go's testing package makes are for their owner only.
		for d := dir; d != filepath.Dir(os.TempDir()) && d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
			require.NoError(t, os.Chown(d, nobody, nobody))
		}
		run = func() report {
			cmd := childCommand(t, j)
			cmd.Path, cmd.Dir = copied, dir
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
			out, err := cmd.CombinedOutput()
			if err != nil && len(out) == 0 {
				t.Skipf("NOT TESTED: permissions, which don't bind root: %v", err)
			}
			require.NoError(t, err, "%s", out)
			r, ok := reportOf(out)
			require.True(t, ok, "%s", out)
			return r
		}
	}
	r := run()
	require.Empty(t, r.Err)
	require.EqualValues(t, 4, r.Metrics.Hits)

	modes := func(dirs, files os.FileMode) {
		require.NoError(t, filepath.Walk(cache, func(path string, fi os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			if fi.IsDir() {
				return os.Chmod(path, dirs)
			}
			return os.Chmod(path, files)
		}))
	}
	t.Cleanup(func() { modes(0o700, 0o600) })

	modes(0o700, 0o000) // entries that can't be read
	r = run()
	require.Empty(t, r.Err)
	require.EqualValues(t, 2, r.Metrics.Hits, "the first compile of each way replaces the entry for the second")
	require.NotZero(t, r.Metrics.StoreErrors)
	require.Len(t, entriesBelow(t, cache), 2)

	modes(0o500, 0o400) // nothing can be written
	r = run()
	require.Empty(t, r.Err)
	require.EqualValues(t, 4, r.Metrics.Hits)
}
