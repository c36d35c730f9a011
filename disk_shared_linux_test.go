package modcache_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// remount does what the kubelet does to a volume with an fsGroup, each time it is mounted.
func remount(t *testing.T, volume string, group int) {
	require.NoError(t, filepath.WalkDir(volume, func(path string, e fs.DirEntry, err error) error {
		require.NoError(t, err)
		fi, err := e.Info()
		require.NoError(t, err)
		require.NoError(t, os.Lchown(path, -1, group))
		mode := fi.Mode()&(fs.ModePerm|setgid) | 0o660
		if e.IsDir() {
			mode |= setgid | 0o110
		}
		return os.Chmod(path, mode)
	}))
}

// asUser opens a Disk as somebody else, adds and gets.
func asUser(t *testing.T, user, dir, column string) accessCase {
	var done accessCase
	t.Run("as "+user, func(t *testing.T) {
		done = tryAs(t, accessUsers[user], []accessCase{{User: user, Column: column, Dir: dir}})[0]
	})
	return done
}

func needsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: several users, which takes root")
	}
}

// TestDiskAccessAfterRemount is about a volume with an fsGroup, from its second mount on.
func TestDiskAccessAfterRemount(t *testing.T) {
	needsRoot(t)
	s := scene{t, openToAll(t, t.TempDir()), me}
	volume := filepath.Join(s.base, "volume")
	s.mkdir(volume, 0o755, 0, 0)
	remount(t, volume, team)
	dir := filepath.Join(volume, "cache")
	for range 2 {
		c := asUser(t, "user", dir, "`DiskOptions.Key`")
		require.True(t, c.Added, c.Err)
		remount(t, volume, team)
		before := traces(t, volume)
		c = asUser(t, "user", dir, "as it is")
		require.True(t, c.Insecure, c.Err)
		require.Contains(t, c.Err, "set DiskOptions.Group")
		require.NotContains(t, c.Err, "chmod", "it would be undone")
		require.Equal(t, before, traces(t, volume))
	}
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.Lchown(dir, me, team))
	for range 3 {
		remount(t, volume, team)
		for _, user := range []string{"user", "mapped"} {
			c := asUser(t, user, dir, "`DiskOptions.Group`")
			require.True(t, c.Added, c.Err)
		}
	}
}

// TestDiskAccessOfAGroup looks at what a Disk makes for a group, under a mask that forbids it.
func TestDiskAccessOfAGroup(t *testing.T) {
	needsRoot(t)
	defer syscall.Umask(syscall.Umask(0o077))
	for name, o := range map[string]modcache.DiskOptions{
		"group": {Group: true}, "sealed": {Key: accessOptions["`DiskOptions.Key`"].Key},
	} {
		t.Run(name, func(t *testing.T) {
			above := filepath.Join(openToAll(t, t.TempDir()), "team")
			require.NoError(t, os.Mkdir(above, 0o755))
			require.NoError(t, os.Chown(above, 0, 0))
			dir := filepath.Join(above, "a", "cache")
			if !o.Group {
				require.NoError(t, os.MkdirAll(dir, 0o755))
				require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
				require.NoError(t, os.Chmod(dir, 0o770|setgid))
			}
			d := openTrimmed(t, dir, &o) // with no trim in the background, which makes a file
			require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100_000)))
			unlock, err := d.Lock(bg, diskKey(2))
			require.NoError(t, err)
			defer unlock()
			require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				require.NoError(t, err)
				fi, err := e.Info()
				require.NoError(t, err)
				want := fs.FileMode(0o660)
				if e.IsDir() {
					want = fs.ModeDir | setgid | 0o770
				}
				require.Equal(t, want, fi.Mode(), path)
				return nil
			}))
		})
	}
}

// TestDiskAccessUnderAMask looks at what a user makes under masks that take the owner's part.
func TestDiskAccessUnderAMask(t *testing.T) {
	needsRoot(t)
	for _, mask := range []int{0o100, 0o277, 0o400, 0o777} {
		s := scene{t, openToAll(t, t.TempDir()), me}
		s.above(0o755, me, me)
		c := tryAs(t, accessUsers["user"], []accessCase{{User: "user", Column: "as it is", Dir: filepath.Join(s.dir(), "below"), Umask: mask}})[0]
		require.True(t, c.Added, "%o: %s", mask, c.Err)
		require.NoError(t, filepath.WalkDir(s.dir(), func(path string, e fs.DirEntry, err error) error {
			require.NoError(t, err)
			fi, err := e.Info()
			require.NoError(t, err)
			want := fs.FileMode(0o600)
			if e.IsDir() {
				want = fs.ModeDir | 0o700
			}
			require.Equal(t, want, fi.Mode(), "%o: %s", mask, path)
			return nil
		}))
	}
}

// TestDiskAccessLinked has names in a directory for files that are elsewhere.
func TestDiskAccessLinked(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o777))
	o := &modcache.DiskOptions{Key: accessOptions["`DiskOptions.Key`"].Key}
	d := openTrimmed(t, dir, o)
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
	unlock, err := d.Lock(bg, diskKey(2)) // makes the directory
	require.NoError(t, err)
	unlock()
	lock := filepath.Join(dir, "lock", diskKey(1).String())
	var files []string
	for i, name := range []string{lock, filepath.Join(dir, "trimmed")} {
		file := filepath.Join(elsewhere, fmt.Sprint(i))
		files = append(files, file)
		require.NoError(t, os.WriteFile(file, []byte("a text that is nobody's business"), 0o600))
		_ = os.Remove(name)
		require.NoError(t, os.Link(file, name))
	}
	_, err = d.Lock(bg, diskKey(1))
	require.ErrorContains(t, err, "another name")
	_, err = d.Trim(bg)
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, "a text that is nobody's business", string(text))
		fi, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), fi.Mode())
	}
	requireHit(t, d, diskKey(1), diskCode(1, 100))
}

// TestDiskAccessReplaced has somebody who can write to the directory above put another
// one in the place of a cache.
func TestDiskAccessReplaced(t *testing.T) {
	needsRoot(t)
	s := scene{t, openToAll(t, t.TempDir()), me}
	above, dir := filepath.Dir(s.dir()), s.dir()
	s.above(0o777, 0, 0) // an emptyDir
	c := asUser(t, "user", dir, "as it is")
	require.True(t, c.Added, c.Err)
	c = asUser(t, "user", dir, "as it is")
	require.True(t, c.Opened, c.Err)
	require.NoError(t, os.Rename(dir, dir+".away"))

	for what, replace := range map[string]func(){
		"a directory of theirs": func() { s.mkdir(dir, 0o755, other, other) },
		"a link of theirs": func() {
			require.NoError(t, os.Symlink(dir+".away", dir))
			require.NoError(t, os.Lchown(dir, other, other))
		},
		"a checkout of ours": func() { s.mkdir(dir, 0o755, me, me) },
		"their file":         func() { require.NoError(t, os.WriteFile(dir, nil, 0o666)) },
	} {
		replace()
		before := traces(t, above)
		c = asUser(t, "user", dir, "as it is")
		require.False(t, c.Opened, what)
		require.Equal(t, before, traces(t, above), what)
		require.NoError(t, os.RemoveAll(dir))
	}
}

// TestDiskAccessPlanted finds entries that others have left in a directory, or can write to, which
// was theirs to write to once.
func TestDiskAccessPlanted(t *testing.T) {
	needsRoot(t)
	for name, plant := range map[string]func(file string) error{
		"theirs":         func(file string) error { return os.Chown(file, other, other) },
		"open to all":    func(file string) error { return os.Chmod(file, 0o666) },
		"open to groups": func(file string) error { return os.Chmod(file, 0o660) },
		// As after the end of a directory that was shared.
		"in a private directory": func(file string) error {
			return errors.Join(os.Chmod(filepath.Dir(filepath.Dir(file)), 0o700), os.Chmod(file, 0o660))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir() // 0755
			var events diskEvents
			d := openDisk(t, dir, &modcache.DiskOptions{OnEvent: events.observe})
			require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
			require.NoError(t, plant(entryFile(t, dir, diskKey(1))))
			require.NoError(t, d.Close())
			d = openDisk(t, dir, &modcache.DiskOptions{OnEvent: events.observe})
			requireMiss(t, d, diskKey(1))
			corrupt := events.take(modcache.EventCorrupt)
			require.Len(t, corrupt, 1)
			require.ErrorIs(t, corrupt[0].Err, modcache.ErrAuth)
			require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
			requireHit(t, d, diskKey(1), diskCode(1, 100))
		})
	}
}

// TestDiskAccessPlantedInAGroup is about a directory that is shared with a group, and was open to
// all once.
func TestDiskAccessPlantedInAGroup(t *testing.T) {
	needsRoot(t)
	for name, c := range map[string]struct {
		plant func(file string) error
		hit   bool
	}{
		"a colleague's":   {func(file string) error { return os.Chown(file, other, team) }, true},
		"of a stranger":   {func(file string) error { return errors.Join(os.Chown(file, other, otherGroup), os.Chmod(file, 0o664)) }, false},
		"another group's": {func(file string) error { return errors.Join(os.Chown(file, me, otherGroup), os.Chmod(file, 0o660)) }, false},
		"open to all":     {func(file string) error { return os.Chmod(file, 0o666) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := scene{t, openToAll(t, t.TempDir()), me}
			s.in(0o770, me, team) // no setgid
			c1 := asUser(t, "user", s.dir(), "`DiskOptions.Group`")
			require.True(t, c1.Added, c1.Err)
			file := entryFile(t, s.dir(), diskKey(1))
			require.NoError(t, c.plant(file))
			before, err := os.Stat(file)
			require.NoError(t, err)
			c2 := asUser(t, "user", s.dir(), "`DiskOptions.Group`")
			require.True(t, c2.Added, "it is replaced: %s", c2.Err)
			after, err := os.Stat(file)
			require.NoError(t, err)
			require.Equal(t, c.hit, os.SameFile(before, after))
		})
	}
}

// TestDiskAccessOfAHome is root with a user's HOME, as under some sudo.
func TestDiskAccessOfAHome(t *testing.T) {
	needsRoot(t)
	home := openToAll(t, t.TempDir())
	require.NoError(t, os.Chown(home, me, me))
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", "")
	before := traces(t, home)
	_, err := modcache.Open("", &modcache.Options{MustStore: true})
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, fmt.Sprintf("root makes no directory in %s, which belongs to user %d", home, me))
	require.Equal(t, before, traces(t, home))
	c := asUser(t, "user", filepath.Join(home, ".cache", "modcache"), "as it is")
	require.True(t, c.Added, c.Err)
}

// TestDiskAccessLeavesNothing learns only from what it has made that it has to refuse it:
// on this file system, a directory gets the group of the one above it without being asked.
func TestDiskAccessLeavesNothing(t *testing.T) {
	const child = "MODCACHE_TEST_GRPID"
	if above := os.Getenv(child); above != "" {
		before := traces(t, above)
		dir := filepath.Join(above, "a", "cache")
		_, err := modcache.OpenDisk(dir, &modcache.DiskOptions{Group: true})
		require.ErrorIs(t, err, modcache.ErrInsecureDir)
		require.NoDirExists(t, filepath.Join(above, "a"))
		require.Equal(t, strings.Count(before, "\n"), strings.Count(traces(t, above), "\n"))
		openDisk(t, dir, nil)
		return
	}
	needsRoot(t)
	image, mount := filepath.Join(t.TempDir(), "image"), t.TempDir()
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 8<<20))
	if out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: a file system on which groups are inherited: %v %s", err, out)
	}
	cmd := exec.Command("unshare", "-m", "sh", "-euc", `mount -o loop,grpid "$1" "$2" || exit 42
mkdir "$2/above"; chgrp 42001 "$2/above"
exec "$3" -test.run='^TestDiskAccessLeavesNothing$' -test.v`, "sh", image, mount, os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+filepath.Join(mount, "above"))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() == 42 {
		t.Skipf("NOT TESTED: a file system on which groups are inherited: %v %s", err, out)
	}
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS")
}
