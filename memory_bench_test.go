package modcache_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/modcache/modcache"
)

// memKeys returns n keys as hashes are.
func memKeys(n int) []modcache.Key {
	r := rand.New(rand.NewPCG(1, 2))
	keys := make([]modcache.Key, n)
	for i := range keys {
		for j := 0; j < len(keys[i]); j += 8 {
			binary.LittleEndian.PutUint64(keys[i][j:], r.Uint64())
		}
	}
	return keys
}

func benchMemoryGet(b *testing.B, s modcache.Store) {
	ctx := context.Background()
	keys := memKeys(1024)
	for _, k := range keys {
		_ = s.Add(ctx, k, modcache.NewArtifact([]byte("native code"), modcache.Info{}))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok, _ := s.Get(ctx, keys[i&1023]); !ok {
			b.Fatal("miss")
		}
		i++
	}
}

func BenchmarkMemoryGet(b *testing.B) { benchMemoryGet(b, modcache.NewMemory(nil)) }
func BenchmarkLocalGet(b *testing.B)  { benchMemoryGet(b, modcache.NewLocal(nil)) }

func BenchmarkMemoryGetParallel(b *testing.B) {
	ctx := context.Background()
	keys := memKeys(1024)
	s := modcache.NewMemory(nil)
	for _, k := range keys {
		_ = s.Add(ctx, k, modcache.NewArtifact([]byte("native code"), modcache.Info{}))
	}
	b.RunParallel(func(pb *testing.PB) {
		i := rand.IntN(1024)
		for pb.Next() {
			if _, ok, _ := s.Get(ctx, keys[i&1023]); !ok {
				b.Fatal("miss")
			}
			i++
		}
	})
}

// BenchmarkMemoryAdd adds to a store that is full, so that each Add evicts.
func BenchmarkMemoryAdd(b *testing.B) {
	ctx := context.Background()
	keys := memKeys(1 << 14)
	a := modcache.NewArtifact(make([]byte, 1000), modcache.Info{})
	s := modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: 1000 << 10})
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		_ = s.Add(ctx, keys[i%len(keys)], a)
		i++
	}
}
