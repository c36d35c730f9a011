package modcache_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// TestDiskOfAnUnknownUser opens a directory in a user namespace that maps nobody, in which
// the process and the owner of the directory have the same number.
func TestDiskOfAnUnknownUser(t *testing.T) {
	const variable = "MODCACHE_TEST_UNKNOWN_USER"
	if dir := os.Getenv(variable); dir != "" {
		_, err := modcache.OpenDisk(dir, &modcache.DiskOptions{ReadOnly: true})
		require.ErrorIs(t, err, modcache.ErrInsecureDir)
		require.ErrorContains(t, err, "a user that can't be told")
		return
	}
	dir := filepath.Join(t.TempDir(), "cache")
	require.NoError(t, os.Mkdir(dir, 0o755))
	if err := os.Chown(dir, 12345, 12345); err != nil {
		t.Skip(err)
	}
	for d := filepath.Dir(dir); d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDiskOfAnUnknownUser$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	out, err := cmd.CombinedOutput()
	if _, ran := err.(*exec.ExitError); err != nil && !ran {
		t.Skip(err)
	}
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS")
}

// TestDiskOfNobody runs as the user whose number also stands for all that the user
// namespace doesn't map, as programs in containers do.
func TestDiskOfNobody(t *testing.T) {
	const variable, nobody = "MODCACHE_TEST_NOBODY", 65534
	if base := os.Getenv(variable); base != "" {
		if os.Getenv(variable+"_UNMAPPED") == "" {
			d, err := modcache.OpenDisk(filepath.Join(base, "own"), nil)
			require.NoError(t, err, "it is the user's own")
			requireHit(t, d, diskKey(1), diskCode(1, 100))
			requireMiss(t, d, diskKey(2))
			require.NoError(t, d.Close())
		}
		_, err := modcache.OpenDisk(filepath.Join(base, "unmapped"), &modcache.DiskOptions{ReadOnly: true})
		require.ErrorIs(t, err, modcache.ErrInsecureDir)
		require.ErrorContains(t, err, "a user that can't be told")
		return
	}
	needsRoot(t)
	base := t.TempDir()
	for name, owner := range map[string]int{"own": nobody, "unmapped": 100_000} {
		dir := filepath.Join(base, name)
		require.NoError(t, os.Mkdir(dir, 0o755))
		d := openDisk(t, dir, nil)
		require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
		require.NoError(t, d.Add(bg, diskKey(2), diskArtifact(2, 100)))
		require.NoError(t, d.Close())
		require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			return errors.Join(err, os.Chown(path, owner, owner))
		}))
		planted := entryFile(t, dir, diskKey(2))
		require.NoError(t, errors.Join(os.Chown(planted, 100_000, 100_000), os.Chmod(planted, 0o644)))
	}
	for d := base; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	t.Run("without proc", func(t *testing.T) {
		program, err := os.ReadFile("/proc/self/exe")
		require.NoError(t, err)
		copied := filepath.Join(base, "program")
		require.NoError(t, os.WriteFile(copied, program, 0o755))
		cmd := exec.Command("unshare", "-m", "sh", "-euc", `mount -t tmpfs none /proc || exit 42
setpriv --reuid 1001 --regid 1001 --clear-groups unshare -U true || exit 42
exec setpriv --reuid 1001 --regid 1001 --clear-groups unshare -U "$0" -test.run='^TestDiskOfNobody$' -test.v`, copied)
		cmd.Env = append(os.Environ(), variable+"="+base, variable+"_UNMAPPED=1")
		cmd.Dir = "/"
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() == 42 {
			t.Skipf("NOT TESTED: a user namespace without /proc: %v %s", err, out)
		}
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS")
	})
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestDiskOfNobody$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+base)
	cmd.Dir = "/"
	all := []syscall.SysProcIDMap{{Size: nobody + 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: all, GidMappings: all,
		Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
	}
	out, err := cmd.CombinedOutput()
	if _, ran := err.(*exec.ExitError); err != nil && !ran {
		t.Skip(err)
	}
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS")
}
