package modcache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"weak"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/stretchr/testify/require"
)

// TestMemoryConcurrent runs histories on a small key space. A lookup finds
// nothing, or what was added under that very key; the budgets hold whenever
// they are looked at; in the end the books are exact.
func TestMemoryConcurrent(t *testing.T) {
	for name, key := range map[string]func(int) modcache.Key{"spread": memKey, "colliding": memCollidingKey} {
		t.Run(name, func(t *testing.T) {
			const keys, workers, ops, maxBytes, maxEntries = 32, 8, 4000, 1000, 12
			ctx := context.Background()
			var events [modcache.ReasonExpired + 1]atomic.Uint64
			s := modcache.NewMemory(&modcache.MemoryOptions{
				MaxBytes: maxBytes, MaxEntries: maxEntries,
				OnEvent: func(e modcache.Event) { events[e.Reason].Add(1) },
			})
			var hits, misses atomic.Uint64
			var work, sampler sync.WaitGroup
			done := make(chan struct{})
			sampler.Go(func() {
				for {
					m := s.Metrics()
					if m.Bytes > maxBytes || m.Entries > maxEntries {
						t.Errorf("over budget: %d bytes, %d entries", m.Bytes, m.Entries)
					}
					// No torn report: every artifact of n bytes has the key n.
					for _, r := range s.EvictionReports() {
						if r.Bytes > r.Entries*keys*10 || r.MinAge > r.MeanAge || r.MeanAge > r.MaxAge {
							t.Errorf("torn report: %+v", r)
						}
					}
					select {
					case <-done:
						return
					default:
						runtime.Gosched()
					}
				}
			})
			for w := range workers {
				work.Go(func() {
					r := rand.New(rand.NewPCG(uint64(w), 3))
					for range ops {
						n := r.IntN(keys)
						switch r.IntN(8) {
						case 0, 1:
							_ = s.Add(ctx, key(n), memArtifact(n*10))
						case 2:
							_ = s.Delete(ctx, key(n))
						case 3:
							if r.IntN(20) == 0 {
								s.Resize(maxBytes / 2)
								s.Resize(maxBytes)
							}
						default:
							a, ok, err := s.Get(ctx, key(n))
							if err != nil || ok && a.Size() != int64(n*10) {
								t.Errorf("key %d: got %v, %v", n, a, err)
							}
							if ok {
								hits.Add(1)
							} else {
								misses.Add(1)
							}
						}
					}
				})
			}
			work.Wait()
			close(done)
			sampler.Wait()

			m := s.Metrics()
			require.Equal(t, [3]uint64{hits.Load() + misses.Load(), hits.Load(), misses.Load()}, [3]uint64{m.Lookups, m.Hits, m.Misses})
			gone := uint64(0)
			for _, r := range s.EvictionReports() {
				require.Equal(t, events[r.Reason].Load(), r.Entries)
				if r.Reason != modcache.ReasonRejected {
					gone += r.Entries
				}
			}
			require.Equal(t, m.Adds-gone, m.Entries)
			var entries, bytes uint64
			for n := range keys {
				if memHas(t, s, key(n)) {
					entries++
					bytes += uint64(n * 10)
				}
			}
			require.Equal(t, [2]uint64{entries, bytes}, [2]uint64{m.Entries, m.Bytes})
		})
	}
}

// TestMemoryReadableWhileOthersChange has readers that must never miss what
// stays, while its neighbours in the index come, go and make the table grow.
func TestMemoryReadableWhileOthersChange(t *testing.T) {
	ctx := context.Background()
	s := modcache.NewMemory(nil)
	for n := range 4 {
		memAdd(t, s, memCollidingKey(n), memArtifact(1))
	}
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				if _, ok, _ := s.Get(ctx, memCollidingKey(n%4)); !ok {
					t.Errorf("key %d vanished", n%4)
					return
				}
			}
		})
	}
	for range 50 {
		for n := 4; n < 60; n++ {
			memAdd(t, s, memCollidingKey(n), memArtifact(1))
		}
		for n := 4; n < 60; n++ {
			require.NoError(t, s.Delete(ctx, memCollidingKey(n)))
		}
	}
	close(done)
	readers.Wait()
}

func TestMemoryFreesWhatLeaves(t *testing.T) {
	eachMemory(t, func(t *testing.T, make_ func(*modcache.MemoryOptions) memoryStore) {
		testMemoryFrees(t, make_(&modcache.MemoryOptions{MaxBytes: 64 << 10}))
		testMemoryFrees(t, make_(&modcache.MemoryOptions{MaxBytes: 64 << 10, DetectWrites: true}))
	})
}

func testMemoryFrees(t *testing.T, s memoryStore) {
	var bytes []weak.Pointer[byte]
	for n := range 40 {
		b := make([]byte, 16<<10)
		bytes = append(bytes, weak.Make(&b[0]))
		memAdd(t, s, memKey(n), modcache.NewArtifact(b, modcache.Info{}))
	}
	require.NoError(t, s.Delete(context.Background(), memKey(39)))
	alive := func() (n uint64) {
		for _, p := range bytes {
			if p.Value() != nil {
				n++
			}
		}
		return n
	}
	cachetest.GivesBack(t, func() bool { return alive() <= s.Metrics().Entries })
	require.Equal(t, s.Metrics().Entries, alive())
	s.Resize(0)
	cachetest.GivesBack(t, func() bool { return alive() == 0 })
	runtime.KeepAlive(s)
}

// TestMemoryBookkeeping holds the documented bound on the bytes that an entry
// takes beside its artifact, while the store fills and after it has evicted.
func TestMemoryBookkeeping(t *testing.T) {
	if cachetest.RaceEnabled {
		t.Skip("SKIPPED: the race detector has books of its own")
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC() // what the first one left to finalizers and sweeping
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	eachMemory(t, func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore) {
		for _, n := range []int{1000, 9000, 33000} {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				a := memArtifact(1)
				keys := memKeys(3 * n)
				before := heap()
				s := make(&modcache.MemoryOptions{MaxEntries: n})
				for i, k := range keys {
					memAdd(t, s, k, a)
					if i == n-1 || i == len(keys)-1 {
						var perEntry float64
						cachetest.GivesBack(t, func() bool {
							perEntry = float64(int64(heap())-int64(before)) / float64(n)
							return perEntry <= 140
						}, "more than 140 bytes per entry")
						t.Logf("after %d of %d: %.0f bytes per entry", i+1, n, perEntry)
					}
				}
				runtime.KeepAlive(keys)
				runtime.KeepAlive(s)
			})
		}
	})
}
