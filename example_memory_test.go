package modcache_test

import (
	"context"
	"errors"
	"expvar"
	"fmt"

	"github.com/modcache/modcache"
)

func ExampleNewMemory() {
	ctx := context.Background()
	store := modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: 64 << 20})

	key := modcache.Key(modcache.Sum([]byte("a module, its engine and its configuration")))
	err := store.Add(ctx, key, modcache.NewArtifact([]byte("machine code"), modcache.Info{}))
	if err != nil {
		fmt.Println(err)
	}

	artifact, ok, _ := store.Get(ctx, key)
	fmt.Println(ok, artifact.Size())

	err = store.Add(ctx, modcache.Key{}, modcache.NewArtifact(make([]byte, 65<<20), modcache.Info{}))
	fmt.Println(errors.Is(err, modcache.ErrTooLarge))
	// Output:
	// true 12
	// true
}

// A worker keeps a few artifacts to itself, in front of what all workers share.
func ExampleNewLocal() {
	ctx := context.Background()
	shared := modcache.NewMemory(nil)
	key := modcache.Key(modcache.Sum([]byte("module")))
	_ = shared.Add(ctx, key, modcache.NewArtifact([]byte("machine code"), modcache.Info{}))

	done := make(chan struct{})
	go func() {
		defer close(done)
		local := modcache.NewLocal(&modcache.MemoryOptions{MaxEntries: 8})
		for range 3 {
			if _, ok, _ := local.Get(ctx, key); ok {
				continue
			}
			if artifact, ok, _ := shared.Get(ctx, key); ok {
				_ = local.Add(ctx, key, artifact) // the same bytes, not a copy
			}
		}
		fmt.Println("local", local.Metrics().Hits)
	}()
	<-done
	fmt.Println("shared", shared.Metrics().Hits)
	// Output:
	// local 2
	// shared 1
}

func ExampleMemory_EvictionReports() {
	ctx := context.Background()
	store := modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: 100})
	for i := range 5 {
		_ = store.Add(ctx, modcache.Key{byte(i)}, modcache.NewArtifact(make([]byte, 40), modcache.Info{}))
	}
	for _, r := range store.EvictionReports() {
		fmt.Println(r.Reason == modcache.ReasonByteLimit, r.Entries, r.Bytes)
	}
	// Output:
	// true 3 120
}

func ExampleMemory_Resize() {
	ctx := context.Background()
	store := modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: 100})
	for i := range 5 {
		_ = store.Add(ctx, modcache.Key{byte(i)}, modcache.NewArtifact(make([]byte, 20), modcache.Info{}))
	}
	store.Resize(50)
	fmt.Println(store.Metrics().Entries, store.Metrics().Bytes)
	// Output:
	// 2 40
}

func ExampleMetrics_expvar() {
	store := modcache.NewMemory(nil)
	v := expvar.Func(func() any { return store.Metrics() }) // for expvar.Publish("modcache", v)
	fmt.Println(v.String()[:24])
	// Output: {"lookups":0,"hits":0,"m
}
