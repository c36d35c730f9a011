package modcache_test

import (
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
		d, err := modcache.OpenDisk(filepath.Join(base, "own"), nil)
		require.NoError(t, err, "it is the user's own")
		require.NoError(t, d.Close())
		_, err = modcache.OpenDisk(filepath.Join(base, "unmapped"), &modcache.DiskOptions{ReadOnly: true})
		require.ErrorIs(t, err, modcache.ErrInsecureDir)
		require.ErrorContains(t, err, "a user that can't be told")
		return
	}
	base := t.TempDir()
	for name, owner := range map[string]int{"own": nobody, "unmapped": 100_000} {
		dir := filepath.Join(base, name)
		require.NoError(t, os.Mkdir(dir, 0o755))
		if err := os.Chown(dir, owner, owner); err != nil {
			t.Skip(err)
		}
	}
	for d := base; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755))
	}
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
