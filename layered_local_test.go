package modcache_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// TestLayeredWithLocal is the layering for a pool of workers: each has a Local of
// its own in front of what all share. The race detector tells if a Local is touched
// by another goroutine, above all while its own leaves a lookup early.
func TestLayeredWithLocal(t *testing.T) {
	ctx := context.Background()
	memory, disk := modcache.NewMemory(nil), openTestDisk(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			local := modcache.NewLocal(nil)
			l := modcache.NewLayered(nil, modcache.Layer{Store: local}, modcache.Layer{Store: memory}, modcache.Layer{Store: disk})
			defer l.Close()
			for i := range 300 {
				key := modcache.Key{byte(i % 7)}
				canceled, cancel := context.WithCancel(ctx)
				if i%3 == 0 {
					cancel()
				}
				a, ok, err := l.Get(canceled, key)
				cancel()
				if ok {
					b, err := a.Bytes()
					if err != nil || len(b) != 1 || b[0] != key[0] {
						t.Errorf("entry %v is %v, %v", key, b, err)
					}
					a.Close()
				} else if err == nil {
					if err := l.Add(ctx, key, modcache.NewArtifact([]byte{key[0]}, modcache.Info{})); err != nil {
						t.Error(err)
					}
				}
			}
			require.Equal(t, uint64(7), local.Metrics().Entries, "what is in memory is promoted into the Local")
		})
	}
	wg.Wait()
}
