//go:build linux || darwin

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/modcachetest"
	"github.com/modcache/modcache/remote"
)

const (
	chaosVariable = "MODCACHE_CHAOS_CHILD"
	chaosModules  = 12
	chaosBudget   = 400_000
	chaosToken    = "chaos"
)

// chaosSecret authenticates what the processes upload.
var chaosSecret = []byte("the secret of all children")

// chaosModule returns a module of some kilobytes of code and what it returns.
func chaosModule(n int) (wasm []byte, result uint64) {
	size := 40 + 60*n
	return wasmtest.Sum(size, int32(n)), uint64(size*(size+1)/2 + n)
}

// chaosLife is how one child lives.
type chaosLife struct {
	Dir, URL string
	Seed     uint64
	Ops      int           // of each of its two goroutines
	Clock    time.Duration // how much it is wrong
	FileSize uint64        // no file may be larger, as on a full disk; 0 = any
	Layers   bool          // over a slow and failing Disk, and the remote
}

// disk returns the options of the child's Disk.
func (l chaosLife) disk() modcache.DiskOptions {
	return modcache.DiskOptions{
		MaxBytes: chaosBudget, MinFree: -1,
		Now: func() time.Time { return time.Now().Add(l.Clock) },
	}
}

// open opens the Cache of the child.
func (l chaosLife) open(rng *rand.Rand) (c *modcache.Cache, end func() error, err error) {
	o := &modcache.Options{
		Disk: l.disk(), LockWait: 200 * time.Millisecond,
		Retain: []int64{-1, 20_000, 0}[rng.IntN(3)], FullDecode: rng.IntN(4) == 0, Workers: rng.IntN(3),
	}
	if !l.Layers {
		c, err = modcache.Open(l.Dir, o)
		return c, func() error { return c.Close(bg) }, err
	}
	d, err := modcache.OpenDisk(l.Dir, &o.Disk)
	if err != nil {
		return nil, nil, err
	}
	r, err := remote.New(l.URL, &remote.Options{
		Secret: chaosSecret, Header: http.Header{"Authorization": {"Bearer " + chaosToken}}, Pause: 10 * time.Millisecond,
	})
	if err != nil {
		return nil, nil, errors.Join(err, d.Close())
	}
	faulty := modcachetest.NewFaulty(d, &modcachetest.Plan{Seed: l.Seed, Faults: []modcachetest.Fault{
		{Rate: 0.1, Delay: 20 * time.Millisecond},
		{Rate: 0.05, Err: errors.New("injected")},
		{Rate: 0.02, Panic: "injected"},
		{Rate: 0.03, Op: modcachetest.OpGet, Corrupt: true},
		{Rate: 0.03, Op: modcachetest.OpAdd, Truncate: true},
	}})
	layers := modcache.NewLayered(nil, modcache.Layer{Store: faulty, Timeout: 50 * time.Millisecond}, modcache.Layer{Store: r, Write: modcache.WriteBehind})
	if c, err = modcache.New(layers, o); err != nil {
		return nil, nil, errors.Join(err, layers.Close(), r.Close(), d.Close())
	}
	return c, func() error { return errors.Join(c.Close(bg), layers.Close(), r.Close(), d.Close()) }, nil
}

// TestChaosChild is no test: it is what TestChaos starts. It compiles and
// runs modules, prints a line after each, and fails if one comes out wrong.
func TestChaosChild(t *testing.T) {
	text := os.Getenv(chaosVariable)
	if text == "" {
		t.Skip("only in child processes")
	}
	var l chaosLife
	require.NoError(t, json.Unmarshal([]byte(text), &l))
	if l.FileSize > 0 {
		signal.Ignore(syscall.SIGXFSZ)
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: l.FileSize, Max: l.FileSize}))
	}
	rng := rand.New(rand.NewPCG(l.Seed, 1))
	c, end, err := l.open(rng)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 2 {
		own := rand.New(rand.NewPCG(l.Seed, rng.Uint64()))
		wg.Go(func() {
			for range l.Ops {
				n := own.IntN(chaosModules)
				wasm, want := chaosModule(n)
				w := ways[own.IntN(len(ways))]
				if got, err := w.Run(c, wasm); err != nil || got != want {
					t.Errorf("module %d, %s: %d, %v; want %d", n, w.Name, got, err, want)
					return
				}
				fmt.Println("ran", n)
			}
		})
	}
	wg.Wait()
	m := c.Metrics()
	require.Zero(t, m.CompileErrors)
	require.NoError(t, end())
	fmt.Println("end", m)
}
