package modcache_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

func TestDiskLock(t *testing.T) {
	dir := t.TempDir()
	one, two := openDisk(t, dir, nil), openDisk(t, dir, nil)
	var wg sync.WaitGroup
	var inside, entered atomic.Int64
	for i := range 8 {
		d := []*modcache.Disk{one, two}[i%2]
		wg.Go(func() {
			for range 20 {
				unlock, err := d.Lock(bg, diskKey(1))
				if err != nil {
					t.Error(err)
					return
				}
				entered.Add(1)
				if inside.Add(1) != 1 {
					t.Error("two hold the lock")
				}
				for range 20 { // long enough for another one to come in by mistake
					_, _ = os.Stat(dir)
					runtime.Gosched()
				}
				inside.Add(-1)
				unlock()
				unlock()
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 160, entered.Load())
	left, err := os.ReadDir(filepath.Join(dir, "lock"))
	require.NoError(t, err)
	require.Empty(t, left)

	unlock, err := one.Lock(bg, diskKey(1))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(bg)
	_, err = two.Lock(bg, diskKey(2))
	require.NoError(t, err, "another key")
	time.AfterFunc(5*time.Millisecond, cancel)
	_, err = two.Lock(ctx, diskKey(1))
	require.ErrorIs(t, err, context.Canceled)
	_, err = two.Lock(ctx, diskKey(1))
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, two.Metrics().Errors)
	unlock()
	unlock, err = two.Lock(bg, diskKey(1))
	require.NoError(t, err)
	unlock()
}

func TestDiskLockDiesWithItsProcess(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, nil)
	cmd, _ := startDiskChild(t, "lock", dir, 1, 0, "locked")
	ctx, cancel := context.WithTimeout(bg, 20*time.Millisecond)
	defer cancel()
	_, err := d.Lock(ctx, diskKey(1))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, cmd.Process.Kill())
	unlock, err := d.Lock(bg, diskKey(1))
	require.NoError(t, err)
	unlock()
}
