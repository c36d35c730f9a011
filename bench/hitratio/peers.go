package main

import (
	"context"

	"github.com/Yiling-J/theine-go"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/maypok86/otter/v2"
	"github.com/modcache/modcache"
)

type memory struct{ s *modcache.Memory }

func newMemory(budget int64) cache {
	return memory{modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: budget})}
}

func (c memory) request(m *module) bool {
	ctx := context.Background()
	if _, ok, _ := c.s.Get(ctx, m.key); ok {
		return true
	}
	_ = c.s.Add(ctx, m.key, m.artifact)
	return false
}

func (c memory) close() {}

type otterCache struct {
	c *otter.Cache[modcache.Key, *modcache.Artifact]
}

func newOtter(budget int64) cache {
	return otterCache{otter.Must(&otter.Options[modcache.Key, *modcache.Artifact]{
		MaximumWeight: uint64(budget),
		Weigher:       func(_ modcache.Key, a *modcache.Artifact) uint32 { return uint32(a.Size()) },
		Executor:      func(f func()) { f() }, // maintain at once
	})}
}

func (c otterCache) request(m *module) bool {
	if _, ok := c.c.GetIfPresent(m.key); ok {
		return true
	}
	c.c.Set(m.key, m.artifact)
	c.c.CleanUp()
	return false
}

func (c otterCache) close() { c.c.StopAllGoroutines() }

type theineCache struct {
	c *theine.Cache[modcache.Key, *modcache.Artifact]
}

func newTheine(budget int64) cache {
	c, err := theine.NewBuilder[modcache.Key, *modcache.Artifact](budget).Build()
	if err != nil {
		panic(err)
	}
	return theineCache{c}
}

func (c theineCache) request(m *module) bool {
	if _, ok := c.c.Get(m.key); ok {
		return true
	}
	c.c.Set(m.key, m.artifact, m.size())
	c.c.Wait()
	return false
}

func (c theineCache) close() { c.c.Close() }

type ristrettoCache struct {
	c *ristretto.Cache[[]byte, *modcache.Artifact]
}

func newRistretto(budget int64) cache {
	c, err := ristretto.NewCache(&ristretto.Config[[]byte, *modcache.Artifact]{
		NumCounters: 10 * catalogue, MaxCost: budget, BufferItems: 64, IgnoreInternalCost: true,
	})
	if err != nil {
		panic(err)
	}
	return ristrettoCache{c}
}

func (c ristrettoCache) request(m *module) bool {
	if _, ok := c.c.Get(m.key[:]); ok {
		return true
	}
	c.c.Set(m.key[:], m.artifact, m.size())
	c.c.Wait()
	return false
}

func (c ristrettoCache) close() { c.c.Close() }
