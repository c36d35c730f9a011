package modcache_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/modcache/modcache"
)

// dict is a store of one's own: a map.
type dict struct {
	mu      sync.Mutex
	entries map[modcache.Key]*modcache.Artifact
}

func newDict() *dict { return &dict{entries: map[modcache.Key]*modcache.Artifact{}} }

func (d *dict) Get(_ context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, ok := d.entries[key]
	return a, ok, nil // in memory, so everybody may have the same handle
}

func (d *dict) Add(_ context.Context, key modcache.Key, a *modcache.Artifact) error {
	b, err := a.Bytes()
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.entries[key] == nil {
		d.entries[key] = modcache.NewArtifact(bytes.Clone(b), a.Info())
	}
	return nil
}

func (d *dict) Delete(_ context.Context, key modcache.Key) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.entries, key)
	return nil
}

func (*dict) Flush(context.Context) error { return nil }

func (d *dict) Metrics() modcache.Metrics {
	d.mu.Lock()
	defer d.mu.Unlock()
	return modcache.Metrics{Entries: uint64(len(d.entries))}
}

func ExampleNewLayered() {
	ctx := context.Background()
	near, far := newDict(), newDict()
	store := modcache.NewLayered(nil,
		modcache.Layer{Store: near, Name: "near"},
		modcache.Layer{Store: far, Name: "far", Write: modcache.WriteBehind, Timeout: 2 * time.Second})
	defer store.Close()

	key := modcache.Key{1}
	// Somebody else left it in the far layer.
	_ = far.Add(ctx, key, modcache.NewArtifact([]byte("machine code"), modcache.Info{}))

	for range 2 {
		a, ok, err := store.Get(ctx, key)
		fmt.Println(ok, err, a.Size())
		_ = a.Close()
		_ = store.Flush(ctx) // waits for the promotion
	}
	for _, l := range store.Layers() {
		fmt.Println(l.Name, "answered", l.Hits)
	}
	// Output:
	// true <nil> 12
	// true <nil> 12
	// near answered 1
	// far answered 1
}

func ExampleLayered_PromotionReport() {
	ctx := context.Background()
	near, far := newDict(), newDict()
	store := modcache.NewLayered(nil, modcache.Layer{Store: near, Name: "near"}, modcache.Layer{Store: far, Name: "far"})
	defer store.Close()
	_ = far.Add(ctx, modcache.Key{1}, modcache.NewArtifact([]byte("machine code"), modcache.Info{}))
	a, _, _ := store.Get(ctx, modcache.Key{1})
	_ = a.Close()
	_ = store.Flush(ctx)

	r := store.PromotionReport()
	fmt.Println(r.Promoted, "promoted,", r.Bytes, "bytes; the last from", r.Last.From, "to", r.Last.To)
	// Output: 1 promoted, 12 bytes; the last from far to near
}

func ExampleMetrics_Sub() {
	before := modcache.Metrics{Lookups: 10, Hits: 5, Misses: 5, Entries: 9}
	after := modcache.Metrics{Lookups: 14, Hits: 8, Misses: 6, Entries: 7}
	d, err := after.Sub(before)
	fmt.Println(d.Lookups, d.HitRatePPM(), d.Entries, err)
	_, err = before.Sub(after)
	fmt.Println(err)
	// Output:
	// 4 750000 7 <nil>
	// modcache: metrics: Lookups went backwards, from 14 to 10: these are not two snapshots of one store in order
}

func ExampleLayeredOptions_onEvent() {
	store := modcache.NewLayered(&modcache.LayeredOptions{
		OnEvent: func(e modcache.Event) { fmt.Println(e.Kind, e.Layer, e.Reason) },
	}, modcache.Layer{Store: newDict(), Name: "near"})
	defer store.Close()
	_, _, _ = store.Get(context.Background(), modcache.Key{1})
	// Output: miss  absent
}
