package modcache_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

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

// ownedCaches makes directories with two entries for users, and gives the second entry to a stranger. Everybody can
// read them.
func ownedCaches(t *testing.T, stranger int, owners map[string]int) (base string) {
	needsRoot(t)
	base = t.TempDir()
	for d := base; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	for name, owner := range owners {
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
		require.NoError(t, errors.Join(os.Chown(planted, stranger, stranger), os.Chmod(planted, 0o644)))
	}
	return base
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
	base := ownedCaches(t, 100_000, map[string]int{"own": nobody, "unmapped": 100_000})
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

// TestDiskOnAnIDMappedMount runs as the user whose number also stands for all that such a mount doesn't map.
func TestDiskOnAnIDMappedMount(t *testing.T) {
	const variable, nobody, other = "MODCACHE_TEST_ID_MAPPED", 65534, 100_000
	if mount := os.Getenv(variable); mount != "" {
		d, err := modcache.OpenDisk(filepath.Join(mount, "own"), nil)
		require.NoError(t, err, "it is the user's own")
		requireHit(t, d, diskKey(1), diskCode(1, 100))
		requireMiss(t, d, diskKey(2))
		require.NoError(t, d.Close())
		_, err = modcache.OpenDisk(filepath.Join(mount, "others"), &modcache.DiskOptions{ReadOnly: true})
		require.ErrorIs(t, err, modcache.ErrInsecureDir)
		require.ErrorContains(t, err, "a user that can't be told")
		_, err = modcache.OpenDisk(filepath.Join(mount, "link"), &modcache.DiskOptions{ReadOnly: true})
		require.ErrorIs(t, err, modcache.ErrInsecureDir)
		require.ErrorContains(t, err, "a symbolic link of a user that can't be told")
		_, err = modcache.OpenDisk(filepath.Join(mount, "group"), &modcache.DiskOptions{ReadOnly: true, Group: true})
		require.ErrorIs(t, err, modcache.ErrInsecureDir)
		require.ErrorContains(t, err, "isn't known to be")
		d, err = modcache.OpenDisk(filepath.Join(mount, "own", "new"), nil)
		require.NoError(t, err)
		require.NoError(t, d.Close())
		return
	}
	base := ownedCaches(t, other, map[string]int{"own": nobody, "others": other, "group": nobody})
	require.NoError(t, errors.Join(os.Chown(filepath.Join(base, "group"), nobody, other), os.Chmod(filepath.Join(base, "group"), 0o770)))
	require.NoError(t, errors.Join(os.Symlink("own", filepath.Join(base, "link")), os.Lchown(filepath.Join(base, "link"), other, other)))

	// The mount is for this thread and its children, and goes with them.
	var out []byte
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = mapIDs(base, nobody+1); err != nil {
			return
		}
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestDiskOnAnIDMappedMount$", "-test.v")
		cmd.Env = append(os.Environ(), variable+"="+base)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err = cmd.CombinedOutput()
	}()
	<-done
	if _, ran := err.(*exec.ExitError); err != nil && !ran {
		t.Skipf("NOT TESTED: a mount that maps users: %v", err)
	}
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS")
}

// mapIDs mounts a directory over itself for this thread, so that only users and groups below n are mapped.
func mapIDs(dir string, n int) error {
	holder := exec.Command("cat")
	some := []syscall.SysProcIDMap{{Size: n}}
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: some, GidMappings: some}
	end, err := holder.StdinPipe()
	if err != nil {
		return err
	}
	if err := holder.Start(); err != nil {
		return err
	}
	defer holder.Wait()
	defer end.Close()
	users, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", holder.Process.Pid))
	if err != nil {
		return err
	}
	defer users.Close()
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attr); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
}
