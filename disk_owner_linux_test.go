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
