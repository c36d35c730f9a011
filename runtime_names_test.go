package modcache_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestRuntimeInstancesAreClosedByOthers, who find them by name while they come to life.
// MODCACHE_ROUNDS sets how many rounds each goroutine does.
func TestRuntimeInstancesAreClosedByOthers(t *testing.T) {
	rounds := 100
	if s := os.Getenv("MODCACHE_ROUNDS"); s != "" {
		var err error
		rounds, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	const goroutines, names = 64, 8
	wasm := wasmtest.Sum(5, 0)
	c := warmCache(t, nil, &modcache.Options{Retain: -1}, wasm)
	r := newRuntime(t, c, nil)
	var all sync.WaitGroup
	var open [goroutines][]api.Module // wazero loses a name when an instance fails because it is taken
	for g := range goroutines {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			for range rounds {
				name := fmt.Sprint("m", rng.IntN(names))
				if mod := r.Module(name); mod != nil && rng.IntN(2) == 0 {
					_ = mod.Close(bg)
				}
				mod, err := r.InstantiateWithConfig(bg, wasm, wazero.NewModuleConfig().WithName(name))
				switch {
				case err != nil: // the name is taken
				case rng.IntN(4) == 0:
					_ = mod.Close(bg)
				default:
					if open[g] = append(open[g], mod); len(open[g]) > 10 {
						_ = open[g][0].Close(bg)
						open[g] = open[g][1:]
					}
				}
			}
		})
	}
	all.Wait()
	for _, mod := range slices.Concat(open[:]...) {
		require.NoError(t, mod.Close(bg))
	}
	require.Zero(t, c.Metrics().Retained)
	// A hold that was lost would keep the code in memory.
	before := c.Metrics().Lookups
	require.NoError(t, compile(t, r, wasm).Close(bg))
	require.Equal(t, before+1, c.Metrics().Lookups)
	require.Zero(t, c.Metrics().Compiles)
}
