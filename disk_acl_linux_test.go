package modcache_test

import (
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/modcache/modcache"
)

// setList gives a file an access control list that lets somebody else write to it.
func setList(t *testing.T, path, list string, tag uint16) {
	t.Helper()
	const none = ^uint32(0)
	text := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, 7, none}, {0x02, 7, other}, {0x04, 7, none}, {0x08, 7, otherGroup}, {0x10, 7, none}, {0x20, 0, none}} {
		if e.id == none || e.tag == tag {
			text = binary.LittleEndian.AppendUint16(text, e.tag)
			text = binary.LittleEndian.AppendUint16(text, e.perm)
			text = binary.LittleEndian.AppendUint32(text, e.id)
		}
	}
	if err := unix.Setxattr(path, list, text, 0); err != nil {
		t.Skipf("NOT TESTED: the file system of %s has no access control lists: %v", path, err)
	}
}

// TestDiskAccessControlLists lets somebody write to a group's directory whom the mode doesn't show.
func TestDiskAccessControlLists(t *testing.T) {
	const access, inherited = "system.posix_acl_access", "system.posix_acl_default"
	const user, group = 0x02, 0x08
	shared := func(t *testing.T) string {
		dir := filepath.Join(t.TempDir(), "cache")
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, os.Chmod(dir, 0o770|fs.ModeSetgid))
		return dir
	}
	for name, how := range map[string]struct {
		list string
		tag  uint16
	}{"a user": {access, user}, "a group": {access, group}, "a user, what is made": {inherited, user}} {
		t.Run(name, func(t *testing.T) {
			dir := shared(t)
			setList(t, dir, how.list, how.tag)
			_, err := modcache.OpenDisk(dir, &modcache.DiskOptions{Group: true})
			require.ErrorIs(t, err, modcache.ErrInsecureDir)
			require.ErrorContains(t, err, "access control list")
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, left)
			openDisk(t, dir, &modcache.DiskOptions{Group: true, Key: []byte("a secret of sixteen bytes")})
		})
	}
	t.Run("made where it is inherited", func(t *testing.T) {
		above := t.TempDir()
		setList(t, above, inherited, user)
		dir := filepath.Join(above, "cache")
		_, err := modcache.OpenDisk(dir, &modcache.DiskOptions{Group: true})
		require.ErrorIs(t, err, modcache.ErrInsecureDir)
		require.NoDirExists(t, dir)
	})
	t.Run("a user, above it", func(t *testing.T) {
		above := shared(t)
		dir := filepath.Join(above, "shared")
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, os.Chmod(dir, 0o770|fs.ModeSetgid))
		setList(t, above, access, user)
		_, err := modcache.OpenDisk(dir, &modcache.DiskOptions{Group: true})
		require.ErrorIs(t, err, modcache.ErrInsecureDir)
		require.ErrorContains(t, err, above+" above it can be written by")
	})
	t.Run("an entry", func(t *testing.T) {
		dir := shared(t)
		d := openTrimmed(t, dir, &modcache.DiskOptions{Group: true})
		for n := range uint64(2) {
			require.NoError(t, d.Add(bg, diskKey(n), diskArtifact(n, 1000)))
		}
		setList(t, entryFile(t, dir, diskKey(1)), access, user)
		requireHit(t, d, diskKey(0), diskCode(0, 1000))
		requireMiss(t, d, diskKey(1))
		require.EqualValues(t, 1, d.Metrics().Corrupt)
	})
}
