package modcache_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
)

// slow turns on the long variants of tests: MODCACHE_SLOW_TESTS=1.
var slow = os.Getenv("MODCACHE_SLOW_TESTS") != ""

// diskEvents collects what a Disk reports.
type diskEvents struct {
	mu  sync.Mutex
	all []modcache.Event
}

func (e *diskEvents) observe(ev modcache.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

// list returns the events of that kind so far.
func (e *diskEvents) list(kind modcache.EventKind) (out []modcache.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.all {
		if ev.Kind == kind {
			out = append(out, ev)
		}
	}
	return out
}

// take is list, and forgets all.
func (e *diskEvents) take(kind modcache.EventKind) []modcache.Event {
	out := e.list(kind)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = nil
	return out
}

// requireDamage checks that a damaged entry is a miss that is counted and
// reported, that Add heals it, and that no damaged byte is ever returned. A
// damaged entry that Get doesn't see is found by the read.
func requireDamage(t *testing.T, d *modcache.Disk, events *diskEvents, key modcache.Key, want []byte, what string) {
	t.Helper()
	events.take(0)
	before := d.Metrics()
	a, ok, err := d.Get(bg, key)
	require.NoError(t, err, what)
	if ok {
		got := make([]byte, a.Size())
		n, err := a.ReadAt(got, 0)
		require.ErrorIs(t, err, modcache.ErrCorrupt, what)
		require.True(t, bytes.HasPrefix(want, got[:n]), what)
		require.NoError(t, a.Close())
	}
	m, err := d.Metrics().Sub(before)
	if err == nil {
		require.EqualValues(t, 1, m.Corrupt, what)
	}
	corrupt := events.take(modcache.EventCorrupt)
	require.Len(t, corrupt, 1, what)
	require.Equal(t, key, corrupt[0].Key)
	require.Error(t, corrupt[0].Err)

	require.NoError(t, d.Add(bg, key, modcache.NewArtifact(want, diskInfo)), what)
	requireHit(t, d, key, want)
}

func TestDiskFindsEveryBitFlipAndTruncation(t *testing.T) {
	for name, o := range map[string]modcache.DiskOptions{"plain": {}, "sealed": {Key: []byte("0123456789abcdef")}} {
		t.Run(name, func(t *testing.T) {
			dir := memDir(t)
			var events diskEvents
			o.OnEvent = events.observe
			d := openDisk(t, dir, &o)
			want := diskCode(1, 64)
			require.NoError(t, d.Add(bg, diskKey(1), modcache.NewArtifact(want, diskInfo)))
			file := entryFile(t, dir, diskKey(1))
			good, err := os.ReadFile(file)
			require.NoError(t, err)
			step := 1
			if !slow {
				step = 3 // coprime to 8: every byte, and every bit of some
			}
			for bit := 0; bit < 8*len(good); bit += step {
				bad := bytes.Clone(good)
				bad[bit/8] ^= 1 << (bit % 8)
				require.NoError(t, os.WriteFile(file, bad, 0o600))
				requireDamage(t, d, &events, diskKey(1), want, "flip")
			}
			for n := range good {
				require.NoError(t, os.Truncate(file, int64(n)))
				requireDamage(t, d, &events, diskKey(1), want, "truncation")
			}
			require.NoError(t, os.WriteFile(file, append(good, 0), 0o600))
			requireDamage(t, d, &events, diskKey(1), want, "trailing byte")

			quarantined, err := os.ReadDir(filepath.Join(dir, "quarantine"))
			require.NoError(t, err)
			require.LessOrEqual(t, len(quarantined), 8, "the quarantine is bounded")
		})
	}
}

func TestDiskFindsMutationsOfLargeEntries(t *testing.T) {
	const size = 300_000
	dir := memDir(t)
	var events diskEvents
	d := openDisk(t, dir, &modcache.DiskOptions{OnEvent: events.observe})
	want := diskCode(1, size)
	require.NoError(t, d.Add(bg, diskKey(1), modcache.NewArtifact(want, diskInfo)))
	file := entryFile(t, dir, diskKey(1))
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	rounds := 500
	if slow {
		rounds = 10_000
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range rounds {
		bad := mutate(rng, good)
		require.NoError(t, os.WriteFile(file, bad, 0o600))
		requireDamage(t, d, &events, diskKey(1), want, "mutation")
	}
}

// mutate returns a damaged copy, as disks, programs and people damage files.
func mutate(rng *rand.Rand, good []byte) []byte {
	for {
		bad := bytes.Clone(good)
		at := rng.IntN(len(bad))
		if rng.IntN(3) == 0 {
			at = rng.IntN(400) // the header is small but delicate
		}
		n := min(1+rng.IntN(5000), len(bad)-at)
		switch rng.IntN(6) {
		case 0:
			bad[at] ^= 1 << rng.IntN(8)
		case 1:
			clear(bad[at : at+n])
		case 2:
			bad = append(bad[:at], bad[at+n:]...)
		case 3:
			bad = append(bad[:at:at], append(bytes.Clone(bad[at:at+n]), bad[at:]...)...)
		case 4:
			copy(bad[at:at+n], bad[rng.IntN(len(bad)-n+1):])
		case 5:
			bad = bad[:at]
		}
		if !bytes.Equal(bad, good) {
			return bad
		}
	}
}

func TestDiskEntriesAreBoundToTheirKey(t *testing.T) {
	for name, o := range map[string]modcache.DiskOptions{"plain": {}, "sealed": {Key: []byte("0123456789abcdef")}} {
		for _, size := range []int{100, 200_000} {
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				var events diskEvents
				o.OnEvent = events.observe
				d := openDisk(t, dir, &o)
				require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, size)))
				require.NoError(t, d.Add(bg, diskKey(2), diskArtifact(2, size)))
				one, two := entryFile(t, dir, diskKey(1)), entryFile(t, dir, diskKey(2))
				require.NoError(t, os.Rename(one, one+"~"))
				require.NoError(t, os.Rename(two, one))
				require.NoError(t, os.Rename(one+"~", two))
				requireDamage(t, d, &events, diskKey(1), diskCode(1, size), "swapped")
				requireDamage(t, d, &events, diskKey(2), diskCode(2, size), "swapped")
			})
		}
	}
}

// TestDiskSeals opens one directory with different secrets and with none.
func TestDiskSeals(t *testing.T) {
	secrets := [][]byte{nil, []byte("the first secret"), []byte("the second secret")}
	for i, writer := range secrets {
		for j, reader := range secrets {
			dir := t.TempDir()
			w := openDisk(t, dir, &modcache.DiskOptions{Key: writer})
			require.NoError(t, w.Add(bg, diskKey(1), diskArtifact(1, 100)))
			var events diskEvents
			r := openDisk(t, dir, &modcache.DiskOptions{Key: reader, OnEvent: events.observe})
			if i == j {
				requireHit(t, r, diskKey(1), diskCode(1, 100))
				continue
			}
			requireMiss(t, r, diskKey(1))
			require.EqualValues(t, 1, r.Metrics().Corrupt)
			misses := events.take(modcache.EventMiss)
			require.Equal(t, modcache.ReasonAuth, misses[0].Reason)
			require.ErrorIs(t, misses[0].Err, modcache.ErrAuth)
			require.ErrorIs(t, misses[0].Err, modcache.ErrOtherKey)
			requireHit(t, w, diskKey(1), diskCode(1, 100)) // another's entry isn't taken away

			require.NoError(t, r.Add(bg, diskKey(1), diskArtifact(1, 100)))
			requireHit(t, r, diskKey(1), diskCode(1, 100))
			requireMiss(t, w, diskKey(1))
		}
	}
	for _, secret := range []string{"", "short"} {
		_, err := modcache.OpenDisk(t.TempDir(), &modcache.DiskOptions{Key: []byte(secret)})
		require.ErrorContains(t, err, "at least 16")
	}
}

func TestDiskDamageAfterGet(t *testing.T) {
	const size = 1 << 20
	dir := t.TempDir()
	d := openDisk(t, dir, nil)
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, size)))
	a, ok, err := d.Get(bg, diskKey(1))
	require.NoError(t, err)
	require.True(t, ok)
	defer a.Close()

	f, err := os.OpenFile(entryFile(t, dir, diskKey(1)), os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("damage"), size/2)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	for range 2 {
		_, err = a.ReadAt(make([]byte, size), 0)
		require.ErrorIs(t, err, modcache.ErrCorrupt)
	}
	requireMiss(t, d, diskKey(1))
	require.EqualValues(t, 1, d.Metrics().Corrupt)
	require.Len(t, entryFiles(t, dir), 0)
}

func TestDiskDamageLeavesAReplacementAlone(t *testing.T) {
	const size = 1 << 20
	dir := t.TempDir()
	d := openDisk(t, dir, nil)
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, size)))
	a, ok, err := d.Get(bg, diskKey(1))
	require.NoError(t, err)
	require.True(t, ok)
	defer a.Close()
	require.NoError(t, os.Truncate(entryFile(t, dir, diskKey(1)), size/2))

	require.NoError(t, d.Delete(bg, diskKey(1)))
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, size)))
	_, err = a.Bytes()
	require.ErrorIs(t, err, modcache.ErrCorrupt)
	requireHit(t, d, diskKey(1), diskCode(1, size))
}

func TestDiskReadOnlyLeavesDamage(t *testing.T) {
	dir := t.TempDir()
	w := openDisk(t, dir, nil)
	require.NoError(t, w.Add(bg, diskKey(1), diskArtifact(1, 100)))
	require.NoError(t, os.Truncate(entryFile(t, dir, diskKey(1)), 50))
	r := openDisk(t, dir, &modcache.DiskOptions{ReadOnly: true})
	requireMiss(t, r, diskKey(1))
	requireMiss(t, r, diskKey(1))
	require.EqualValues(t, 2, r.Metrics().Corrupt)
	entryFile(t, dir, diskKey(1))
}

// TestDiskLeavesWhatHasNoAddresses: an entry that only processes with more addresses can read is a miss, and stays.
func TestDiskLeavesWhatHasNoAddresses(t *testing.T) {
	if math.MaxInt > math.MaxInt32 {
		t.Skip("SKIPPED: addresses have 64 bits here")
	}
	dir := t.TempDir()
	d := openDisk(t, dir, nil)
	require.NoError(t, d.Add(bg, diskKey(1), modcache.NewArtifact([]byte("code"), modcache.Info{})))
	files := cachetest.Entries(t, dir)
	require.Len(t, files, 1)
	b, err := os.ReadFile(files[0])
	require.NoError(t, err)
	for _, at := range []int{16, 24} { // docs/format.md: the length, and that as it is encoded
		binary.LittleEndian.PutUint64(b[at:], 3<<30)
	}
	require.NoError(t, os.WriteFile(files[0], b, 0o600))
	require.NoError(t, os.Truncate(files[0], 3<<30+1<<20)) // which takes no more room
	_, ok, err := d.Get(bg, diskKey(1))
	require.False(t, ok)
	require.ErrorContains(t, err, "no addresses")
	require.Zero(t, d.Metrics().Corrupt)
	require.Equal(t, files, cachetest.Entries(t, dir))
}
