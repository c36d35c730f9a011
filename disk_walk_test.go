package modcache_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

func TestDiskVerify(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, nil)
	for i := range uint64(20) {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, 1000+int(i)*50_000)))
	}
	for _, i := range []uint64{3, 17} {
		file := entryFile(t, dir, diskKey(i))
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		b[len(b)-1] ^= 1
		require.NoError(t, os.WriteFile(file, b, 0o600))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a", "stranger"), nil, 0o600))

	seen := 0
	for e, err := range d.Walk(bg) {
		require.NoError(t, err)
		require.NoError(t, e.Err, "the headers are sound")
		require.Equal(t, diskInfo, e.Info)
		stat, ok, err := d.Stat(bg, e.Key)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, e, stat)
		seen++
	}
	require.Equal(t, 20, seen)
	_, ok, err := d.Stat(bg, diskKey(99))
	require.NoError(t, err)
	require.False(t, ok)

	r, err := d.Verify(bg)
	require.NoError(t, err)
	require.Equal(t, 18, r.Entries)
	require.Len(t, r.Corrupt, 2)
	require.Empty(t, r.Failed)
	for _, e := range r.Corrupt {
		require.ErrorIs(t, e.Err, modcache.ErrCorrupt)
		require.Contains(t, []modcache.Key{diskKey(3), diskKey(17)}, e.Key)
	}
	r, err = d.Verify(bg)
	require.NoError(t, err)
	require.Equal(t, 18, r.Entries)
	require.Empty(t, r.Corrupt)
	require.FileExists(t, filepath.Join(dir, "a", "stranger"))
}

// TestDiskTellsOtherKeysFromDamage has one directory with entries of two secrets, one of
// which is also damaged.
func TestDiskTellsOtherKeysFromDamage(t *testing.T) {
	dir := t.TempDir()
	mine := openDisk(t, dir, &modcache.DiskOptions{Key: []byte("the first secret")})
	theirs := openDisk(t, dir, &modcache.DiskOptions{Key: []byte("the second secret")})
	for i, d := range []*modcache.Disk{mine, mine, theirs} {
		require.NoError(t, d.Add(bg, diskKey(uint64(i)), diskArtifact(uint64(i), 1000)))
	}
	file := entryFile(t, dir, diskKey(1))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	b[200] ^= 1
	require.NoError(t, os.WriteFile(file, b, 0o600))

	errs := map[modcache.Key]error{}
	for e, err := range mine.Walk(bg) {
		require.NoError(t, err)
		errs[e.Key] = e.Err
	}
	require.Len(t, errs, 3)
	require.NoError(t, errs[diskKey(0)])
	require.ErrorIs(t, errs[diskKey(1)], modcache.ErrAuth)
	require.NotErrorIs(t, errs[diskKey(1)], modcache.ErrOtherKey)
	e, ok, err := mine.Stat(bg, diskKey(2))
	require.NoError(t, err)
	require.True(t, ok)
	require.ErrorIs(t, e.Err, modcache.ErrOtherKey)
	require.ErrorContains(t, e.Err, "modcache: disk "+dir+": stat "+diskKey(2).String()+": entry is not authentic: sealed under another key: ")

	r, err := mine.Verify(bg)
	require.NoError(t, err)
	require.Equal(t, 1, r.Entries)
	require.Len(t, r.Corrupt, 1)
	require.Equal(t, diskKey(1), r.Corrupt[0].Key)
	require.Len(t, r.OtherKey, 1)
	require.Equal(t, diskKey(2), r.OtherKey[0].Key)
	require.Empty(t, r.Failed)
	requireHit(t, theirs, diskKey(2), diskCode(2, 1000)) // it was left where it is
}

// TestDiskReportsAsJSON pins the names that dashboards use.
func TestDiskReportsAsJSON(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, report := range map[string]any{
		`{"pending":1,"pending_bytes":2,"durable":false}`:                                    modcache.DurabilityReport{Pending: 1, PendingBytes: 2, LastError: os.ErrInvalid},
		`{"pending":0,"pending_bytes":0,"durable":true,"last_flush":"2026-01-02T03:04:05Z"}`: modcache.DurabilityReport{Durable: true, LastFlush: at},
		`{"entries":1,"bytes":2,"evicted":3,"evicted_bytes":4,"reaped":5}`:                   modcache.TrimReport{Entries: 1, Bytes: 2, Evicted: 3, EvictedBytes: 4, Reaped: 5},
		`{"entries":1,"bytes":2}`: modcache.VerifyReport{Entries: 1, Bytes: 2},
	} {
		got, err := json.Marshal(report)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
}

// TestDiskDatesThatCannotBe come back as none, so that who lists entries as JSON can.
func TestDiskDatesThatCannotBe(t *testing.T) {
	d := openDisk(t, t.TempDir(), nil)
	for i, year := range []int{-1, 10_000, 100_000} {
		info := diskInfo
		info.Created = time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		require.NoError(t, d.Add(bg, diskKey(uint64(i)), modcache.NewArtifact([]byte("code"), info)))
		e, ok, err := d.Stat(bg, diskKey(uint64(i)))
		require.NoError(t, err)
		require.True(t, ok)
		require.True(t, e.Info.Created.IsZero())
		_, err = json.Marshal(e)
		require.NoError(t, err)
	}
}
