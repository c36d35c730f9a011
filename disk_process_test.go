package modcache_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// Processes over one directory use few keys, each of which may hold one of a few
// values. A value says which one it is, so that any process can check it.
const (
	sharedKeys   = 16
	sharedValues = 4
	sharedLimit  = 600_000
)

func sharedArtifact(n, value uint64) *modcache.Artifact {
	info := diskInfo
	info.WasmSize = int64(value)
	return modcache.NewArtifact(sharedCode(n, value), info)
}

func sharedCode(n, value uint64) []byte {
	return diskCode(n*sharedValues+value, int(1000+n*n*400+value))
}

// checkShared returns an error unless the artifact is one that was added.
func checkShared(n uint64, a *modcache.Artifact) error {
	b, err := a.Bytes()
	if err != nil {
		return err
	}
	value := uint64(a.Info().WasmSize)
	if value >= sharedValues || !bytes.Equal(b, sharedCode(n, value)) {
		return fmt.Errorf("key %d: not a value that was added", n)
	}
	return nil
}

// diskWorker does random operations until they are used up.
func diskWorker(dir string, seed uint64, ops int) error {
	d, err := modcache.OpenDisk(dir, &modcache.DiskOptions{MaxBytes: sharedLimit})
	if err != nil {
		return err
	}
	defer d.Close()
	rng := rand.New(rand.NewPCG(seed, 7))
	for range ops {
		n := rng.Uint64N(sharedKeys)
		var err error
		switch rng.IntN(20) {
		case 0:
			_, err = d.Trim(bg)
		case 1:
			err = d.Delete(bg, diskKey(n))
		case 2:
			var r modcache.VerifyReport
			if rng.IntN(5) == 0 {
				if r, err = d.Verify(bg); len(r.Corrupt)+len(r.Failed) > 0 {
					err = fmt.Errorf("verify: %+v", r)
				}
			}
		case 3:
			var unlock func()
			if unlock, err = d.Lock(bg, diskKey(n)); err == nil {
				unlock()
			}
		case 4, 5, 6, 7, 8, 9:
			err = d.Add(bg, diskKey(n), sharedArtifact(n, rng.Uint64N(sharedValues)))
		default:
			a, ok, e := d.Get(bg, diskKey(n))
			if err = e; ok {
				err = checkShared(n, a)
				_ = a.Close()
			}
		}
		if err != nil {
			return err
		}
	}
	if m := d.Metrics(); m.Corrupt+m.Errors > 0 {
		return fmt.Errorf("metrics: %+v", m)
	}
	return nil
}

// TestDiskChild is not a test but a process that other tests start.
func TestDiskChild(t *testing.T) {
	args := strings.Split(os.Getenv("MODCACHE_DISK_CHILD"), " ")
	if len(args) != 4 {
		t.Skip("runs in processes that other tests start")
	}
	var seed uint64
	var ops int
	_, err := fmt.Sscan(args[2]+" "+args[3], &seed, &ops)
	require.NoError(t, err)
	fmt.Println("ready")
	switch args[0] {
	case "work":
		require.NoError(t, diskWorker(args[1], seed, ops))
	case "lock":
		d, err := modcache.OpenDisk(args[1], nil)
		require.NoError(t, err)
		unlock, err := d.Lock(bg, diskKey(seed))
		require.NoError(t, err)
		defer unlock()
		fmt.Println("locked")
		time.Sleep(time.Hour) // select{} would be a deadlock, in a build without cgo
	}
}

// startDiskChild starts a process and waits until it has said that it is ready.
func startDiskChild(t *testing.T, mode, dir string, seed uint64, ops int, until string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestDiskChild$", "-test.count=1")
	cmd.Env = append(os.Environ(), fmt.Sprintf("MODCACHE_DISK_CHILD=%s %s %d %d", mode, dir, seed, ops))
	out, in, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stdout = in
	cmd.Stderr = in
	require.NoError(t, cmd.Start())
	require.NoError(t, in.Close())
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		require.NoError(t, err, line)
		if strings.TrimSpace(line) == until {
			break
		}
	}
	rest := new(bytes.Buffer)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = rest.ReadFrom(lines)
		_ = out.Close()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		<-done
	})
	return cmd, rest
}

func TestDiskIsSharedByProcesses(t *testing.T) {
	const processes = 8
	ops := 150
	if slow {
		ops = 1000
	}
	dir := filepath.Join(t.TempDir(), "cache")
	var wg sync.WaitGroup
	for i := range uint64(processes) {
		cmd, out := startDiskChild(t, "work", dir, i, ops, "ready")
		wg.Go(func() {
			if err := cmd.Wait(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	requireSoundAfterCrashes(t, dir)
}

// TestDiskSurvivesKills kills processes at random moments.
func TestDiskSurvivesKills(t *testing.T) {
	kills := 40
	if slow {
		kills = 500
	}
	dir := filepath.Join(t.TempDir(), "cache")
	rng := rand.New(rand.NewPCG(3, 4))
	var group sync.WaitGroup
	next := make(chan time.Duration)
	for g := range uint64(3) {
		group.Go(func() {
			seed := g * 1000
			for life := range next {
				seed++
				cmd, out := startDiskChild(t, "work", dir, seed, 1<<30, "ready")
				timer := time.AfterFunc(life, func() { _ = cmd.Process.Kill() })
				err := cmd.Wait()
				timer.Stop()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.Exited() {
					t.Errorf("a process ended by itself: %v, %s", err, out)
				}
			}
		})
	}
	for range kills {
		next <- time.Duration(rng.IntN(60_000)) * time.Microsecond
	}
	close(next)
	group.Wait()
	requireSoundAfterCrashes(t, dir)
}

// requireSoundAfterCrashes checks what must hold once all processes are gone.
func requireSoundAfterCrashes(t *testing.T, dir string) {
	t.Helper()
	clock := newDiskClock()
	clock.Advance(2 * time.Hour) // the dead are dead for sure
	d := openDisk(t, dir, &modcache.DiskOptions{MaxBytes: sharedLimit, Now: clock.Now})
	r, err := d.Verify(bg)
	require.NoError(t, err)
	require.Empty(t, r.Corrupt)
	require.Empty(t, r.Failed)
	require.NotZero(t, r.Entries)
	_, err = d.Trim(bg)
	require.NoError(t, err)
	for _, sub := range []string{"tmp", "lock", "quarantine"} {
		left, err := os.ReadDir(filepath.Join(dir, sub))
		require.True(t, err == nil || os.IsNotExist(err))
		require.Empty(t, left, sub)
	}
	_, bytes := diskUsage(t, dir)
	require.LessOrEqual(t, bytes, int64(sharedLimit))
	for n := range uint64(sharedKeys) {
		a, ok, err := d.Get(bg, diskKey(n))
		require.NoError(t, err)
		if ok {
			require.NoError(t, checkShared(n, a))
			require.NoError(t, a.Close())
		}
	}
}
