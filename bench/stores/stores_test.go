// Package stores measures modcache.Memory beside other in-memory caches and
// maps, on the same keys and artifacts.
//
//	go test -run xxx -bench . -cpu 1,2 ./stores
package stores

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/Yiling-J/theine-go"
	"github.com/dgraph-io/ristretto/v2"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/maypok86/otter/v2"
	"github.com/modcache/modcache"
	"github.com/puzpuzpuz/xsync/v4"
)

type (
	key      = modcache.Key
	artifact = modcache.Artifact
)

// store is a peer that holds budget bytes (or entries, where it can't weigh).
type store struct {
	get   func(*key) (*artifact, bool) // a pointer, so that the detour costs little
	add   func(key, *artifact)
	held  func() int64 // bytes that it holds; nil if it can't tell, or has no byte budget
	close func()
}

type peer struct {
	name string
	make func(budget int64) store
}

var peers = []peer{
	{"modcache.Memory", func(budget int64) store {
		ctx := context.Background()
		m := modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: budget})
		return store{
			get:   func(k *key) (*artifact, bool) { a, ok, _ := m.Get(ctx, *k); return a, ok },
			add:   func(k key, a *artifact) { _ = m.Add(ctx, k, a) },
			held:  func() int64 { return int64(m.Metrics().Bytes) },
			close: func() {},
		}
	}},
	{"modcache.Local", func(budget int64) store {
		ctx := context.Background()
		m := modcache.NewLocal(&modcache.MemoryOptions{MaxBytes: budget})
		return store{
			get:   func(k *key) (*artifact, bool) { a, ok, _ := m.Get(ctx, *k); return a, ok },
			add:   func(k key, a *artifact) { _ = m.Add(ctx, k, a) },
			close: func() {},
		}
	}},
	{"otter", func(budget int64) store {
		c := otter.Must(&otter.Options[key, *artifact]{
			MaximumWeight: uint64(budget),
			Weigher:       func(_ key, a *artifact) uint32 { return uint32(a.Size()) },
		})
		return store{
			get: func(k *key) (*artifact, bool) { return c.GetIfPresent(*k) },
			add: func(k key, a *artifact) { c.Set(k, a) },
			held: func() (sum int64) {
				for _, a := range c.All() {
					sum += a.Size()
				}
				return sum
			},
			close: func() { c.StopAllGoroutines() },
		}
	}},
	{"ristretto", func(budget int64) store {
		c, err := ristretto.NewCache(&ristretto.Config[[]byte, *artifact]{
			NumCounters: 1 << 16, MaxCost: budget, BufferItems: 64, IgnoreInternalCost: true,
		})
		if err != nil {
			panic(err)
		}
		return store{
			get:   func(k *key) (*artifact, bool) { return c.Get(k[:]) },
			add:   func(k key, a *artifact) { c.Set(k[:], a, a.Size()) },
			close: c.Close,
		}
	}},
	{"theine", func(budget int64) store {
		c, err := theine.NewBuilder[key, *artifact](budget).Build()
		if err != nil {
			panic(err)
		}
		return store{
			get: func(k *key) (*artifact, bool) { return c.Get(*k) },
			add: func(k key, a *artifact) { c.Set(k, a, a.Size()) },
			held: func() (sum int64) {
				c.Range(func(_ key, a *artifact) bool { sum += a.Size(); return true })
				return sum
			},
			close: c.Close,
		}
	}},
	{"hashicorp-lru", func(int64) store {
		c, err := lru.New[key, *artifact](1 << 14)
		if err != nil {
			panic(err)
		}
		return store{get: func(k *key) (*artifact, bool) { return c.Get(*k) }, add: func(k key, a *artifact) { c.Add(k, a) }, close: func() {}}
	}},
	{"xsync.Map", func(int64) store {
		m := xsync.NewMap[key, *artifact]()
		return store{get: func(k *key) (*artifact, bool) { return m.Load(*k) }, add: m.Store, close: func() {}}
	}},
	{"sync.Map", func(int64) store {
		var m sync.Map
		return store{
			get: func(k *key) (*artifact, bool) {
				v, ok := m.Load(*k)
				if !ok {
					return nil, false
				}
				return v.(*artifact), true
			},
			add:   func(k key, a *artifact) { m.Store(k, a) },
			close: func() {},
		}
	}},
}

func randomKeys(n int) []key {
	r := rand.New(rand.NewPCG(1, 2))
	keys := make([]key, n)
	for i := range keys {
		for j := 0; j < len(keys[i]); j += 8 {
			binary.LittleEndian.PutUint64(keys[i][j:], r.Uint64())
		}
	}
	return keys
}

var zeros = make([]byte, 1<<20)

// BenchmarkGet looks up keys that are present, each goroutine in an order of its
// own. Run it with -cpu 1,2 for one goroutine and two.
func BenchmarkGet(b *testing.B) {
	const n = 1024
	keys := randomKeys(n)
	for _, p := range peers {
		b.Run(p.name, func(b *testing.B) {
			s := p.make(1 << 30)
			defer s.close()
			for tries := 0; tries < 10; tries++ { // ristretto drops some
				for _, k := range keys {
					if _, ok := s.get(&k); !ok {
						s.add(k, modcache.NewArtifact(zeros[:1000:1000], modcache.Info{}))
					}
				}
			}
			var misses atomic.Int64
			b.ReportAllocs()
			if p.name == "modcache.Local" { // one goroutine only
				loop(s, keys, b.Loop)
				return
			}
			b.RunParallel(func(pb *testing.PB) { misses.Add(loop(s, keys, pb.Next)) })
			b.ReportMetric(100*float64(misses.Load())/float64(b.N), "%miss")
		})
	}
}

func loop(s store, keys []key, next func() bool) (misses int64) {
	i, step := rand.IntN(len(keys)), 2*rand.IntN(len(keys)/2)+1
	for next() {
		if _, ok := s.get(&keys[i&(len(keys)-1)]); !ok {
			misses++
		}
		i += step
	}
	return misses
}

// BenchmarkAddFull adds artifacts of up to a tenth of the budget to a full store,
// one after another. It reports how much the store held at most, in percent of
// its budget, and how much of what was added could be read back at once. What
// is held is counted between two additions: what a peer evicts in the
// background meanwhile is in its favour. A compile between two additions, which there
// is not here, would give them more time to do so.
func BenchmarkAddFull(b *testing.B) {
	const budget = 10 << 20
	keys := randomKeys(1 << 14)
	for _, p := range peers {
		b.Run(p.name, func(b *testing.B) {
			s := p.make(budget)
			defer s.close()
			b.ReportAllocs()
			r := rand.New(rand.NewPCG(1, 2))
			var peak int64
			i, readable := 0, 0
			for b.Loop() {
				size := 1 + r.IntN(budget/10)
				k := keys[i%len(keys)]
				s.add(k, modcache.NewArtifact(zeros[:size:size], modcache.Info{}))
				if _, ok := s.get(&k); ok {
					readable++
				}
				if i++; s.held != nil && i%16 == 0 {
					b.StopTimer()
					peak = max(peak, s.held())
					b.StartTimer()
				}
			}
			if s.held != nil {
				b.ReportMetric(100*float64(peak)/budget, "%peak")
			}
			b.ReportMetric(100*float64(readable)/float64(i), "%readable")
		})
	}
}
