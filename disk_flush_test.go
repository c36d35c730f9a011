package modcache_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/dirfs/dirfstest"
)

// TestDiskKeepsWhatItFlushed cuts the power at random moments: what a Flush
// had covered is there afterwards, and nothing else is there in another form than
// it was added in.
func TestDiskKeepsWhatItFlushed(t *testing.T) {
	rounds := uint64(30)
	if slow {
		rounds = 1000
	}
	for seed := range rounds {
		rng := rand.New(rand.NewPCG(seed, 1))
		dir := memDir(t)
		var device *dirfstest.Volatile
		d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS {
			device = dirfstest.NewVolatile(tree)
			return device
		}, &modcache.DiskOptions{MaxBytes: -1, SyncEveryAdd: seed%5 == 0})
		require.NoError(t, err)

		flushed := make(map[uint64]bool)
		added := make(map[uint64]bool)
		for step := range 20 + rng.IntN(30) {
			n := uint64(rng.IntN(12))
			switch rng.IntN(6) {
			case 0:
				require.NoError(t, d.Flush(bg))
				require.True(t, d.DurabilityReport().Durable)
				for n := range added {
					flushed[n] = true
				}
			case 1:
				require.NoError(t, d.Delete(bg, diskKey(n)))
				delete(added, n)
				delete(flushed, n)
			default:
				require.NoError(t, d.Add(bg, diskKey(n), diskArtifact(n, int(n)*9000)))
				added[n] = true
				if seed%5 == 0 {
					flushed[n] = true
				}
			}
			if d.DurabilityReport().Durable {
				for n := range added {
					require.True(t, flushed[n], "%d/%d: reported durable without a flush", seed, step)
				}
			}
		}
		require.NoError(t, d.Close())

		for range 3 {
			image := memDir(t)
			require.NoError(t, device.Crash(rng, image))
			after, err := modcache.OpenDisk(image, nil)
			require.NoError(t, err)
			for n := range uint64(12) {
				if flushed[n] {
					requireHit(t, after, diskKey(n), diskCode(n, int(n)*9000))
				} else if a, ok, err := after.Get(bg, diskKey(n)); ok {
					b, err := a.Bytes()
					require.True(t, errors.Is(err, modcache.ErrCorrupt) || err == nil && string(b) == string(diskCode(n, int(n)*9000)), "%v", err)
					require.NoError(t, a.Close())
				} else {
					require.NoError(t, err)
				}
			}
			require.NoError(t, after.Close())
		}
	}
}

// TestDiskFlushReportsHonestly looks at the report while syncs are under way and
// after they failed.
func TestDiskFlushReportsHonestly(t *testing.T) {
	for _, op := range []dirfstest.Op{dirfstest.Sync, dirfstest.SyncDir} {
		t.Run(string(op), func(t *testing.T) {
			var (
				mu     sync.Mutex
				d      *modcache.Disk
				broken = true
				asked  int
				synced int
			)
			d, err := modcache.OpenDiskOn(t.TempDir(), func(tree dirfs.FS) dirfs.FS {
				return dirfstest.NewFaulty(tree, func(o dirfstest.Op, _ int) error {
					mu.Lock()
					defer mu.Unlock()
					if o == dirfstest.Sync {
						synced++
					}
					if o != op {
						return nil
					}
					asked++
					if r := d.DurabilityReport(); r.Durable || r.Pending != 3 {
						t.Errorf("during a sync: %+v", r)
					}
					if broken {
						return syscall.EIO
					}
					return nil
				})
			}, nil)
			require.NoError(t, err)
			defer d.Close()
			require.True(t, d.DurabilityReport().Durable, "nothing was added")
			for i := range uint64(3) {
				require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, 1000)))
			}
			r := d.DurabilityReport()
			require.Equal(t, 3, r.Pending)
			require.Greater(t, r.PendingBytes, int64(3000))
			require.False(t, r.Durable)

			err = d.Flush(bg)
			require.ErrorIs(t, err, syscall.EIO)
			r = d.DurabilityReport()
			require.Equal(t, 3, r.Pending)
			require.False(t, r.Durable)
			require.Equal(t, err, r.LastError)
			require.True(t, r.LastFlush.IsZero())
			require.NotZero(t, asked)

			mu.Lock()
			broken, synced = false, 0
			mu.Unlock()
			require.NoError(t, d.Flush(bg))
			require.Equal(t, 3, synced, "the files are written anew")
			r = d.DurabilityReport()
			require.True(t, r.Durable)
			require.Zero(t, r.Pending)
			require.False(t, r.LastFlush.IsZero())
			m := d.Metrics()
			require.EqualValues(t, 2, m.Flushes)
			require.EqualValues(t, 1, m.FlushErrors)
			for i := range uint64(3) {
				requireHit(t, d, diskKey(i), diskCode(i, 1000))
			}
		})
	}
}

func TestDiskPendingForgetsWhatIsGone(t *testing.T) {
	d := openTrimmed(t, t.TempDir(), &modcache.DiskOptions{MaxBytes: 5000})
	for i := range uint64(20) {
		require.NoError(t, d.Add(bg, diskKey(i), diskArtifact(i, 1000)), fmt.Sprint(i))
	}
	require.EqualValues(t, d.Metrics().Entries, d.DurabilityReport().Pending)
	require.EqualValues(t, d.Metrics().Bytes, d.DurabilityReport().PendingBytes)
	require.NoError(t, d.Delete(bg, diskKey(19)))
	require.EqualValues(t, d.Metrics().Entries, d.DurabilityReport().Pending)
}

// renameHook calls a function before each renaming.
type renameHook struct {
	dirfs.FS
	before func()
}

func (h *renameHook) Rename(oldName, newName string) error {
	h.before()
	return h.FS.Rename(oldName, newName)
}

// TestDiskFlushDuringAdd flushes at the moment when an entry is noted and has
// no name yet.
func TestDiskFlushDuringAdd(t *testing.T) {
	hook := new(renameHook)
	d, err := modcache.OpenDiskOn(t.TempDir(), func(tree dirfs.FS) dirfs.FS {
		hook.FS = tree
		return hook
	}, nil)
	require.NoError(t, err)
	defer d.Close()
	flushes := 0
	hook.before = func() {
		flushes++
		require.False(t, d.DurabilityReport().Durable)
		require.NoError(t, d.Flush(bg))
		require.False(t, d.DurabilityReport().Durable)
	}
	require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
	require.NotZero(t, flushes)
	require.Equal(t, 1, d.DurabilityReport().Pending)
	require.NoError(t, d.Flush(bg))
	require.True(t, d.DurabilityReport().Durable)
}

// TestDiskFlushKnowsOfAdds flushes while an Add that everybody has given up still writes.
func TestDiskFlushKnowsOfAdds(t *testing.T) {
	d := openDisk(t, t.TempDir(), nil)
	reading, release, added := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	begin := sync.OnceFunc(func() { close(reading) })
	src := readerFunc(func(p []byte, off int64) (int, error) {
		begin()
		<-release
		return copy(p, diskCode(1, 100)[off:]), nil
	})
	go func() { added <- d.Add(bg, diskKey(1), modcache.NewArtifactFrom(src, 100, diskInfo)) }()
	<-reading
	require.NoError(t, d.Flush(bg))
	require.False(t, d.DurabilityReport().Durable)
	close(release)
	require.NoError(t, <-added)
	require.False(t, d.DurabilityReport().Durable)
	require.NoError(t, d.Flush(bg))
	require.True(t, d.DurabilityReport().Durable)
}

type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }
