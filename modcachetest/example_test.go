package modcachetest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/modcachetest"
)

// nothing is a store that keeps nothing, which a cache is free to do.
type nothing struct{}

func (nothing) Get(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
	return nil, false, nil
}
func (nothing) Add(context.Context, modcache.Key, *modcache.Artifact) error { return nil }
func (nothing) Delete(context.Context, modcache.Key) error                  { return nil }
func (nothing) Flush(context.Context) error                                 { return nil }
func (nothing) Metrics() modcache.Metrics                                   { return modcache.Metrics{} }

func TestNothing(t *testing.T) {
	open := func(testing.TB) modcache.Store { return nothing{} }
	modcachetest.TestStore(t, open, nothingPromised)
}

var nothingPromised = &modcachetest.Options{
	MayEvict: true,
	Skip:     []string{"metrics-count-every-lookup-once", "metrics-count-accepted-adds"}, // it has no counters
}

func ExampleTestStore() {
	// In a test of your own store, which is a function like this one:
	testMyStore := func(t *testing.T) {
		open := func(tb testing.TB) modcache.Store {
			s := nothing{}
			tb.Cleanup(func() { /* close it here */ })
			return s
		}
		modcachetest.TestStore(t, open, nothingPromised)
	}
	_ = testMyStore
	fmt.Println("run it with go test -race")
	// Output: run it with go test -race
}

func ExampleNewFaulty() {
	store := modcachetest.NewFaulty(nothing{}, &modcachetest.Plan{
		Faults: []modcachetest.Fault{
			{Op: modcachetest.OpGet, Nth: 2, Err: errors.New("disk on fire")},
		},
	})
	for range 3 {
		_, ok, err := store.Get(context.Background(), modcache.Key{})
		fmt.Println(ok, err)
	}
	fmt.Println(store.Calls(modcachetest.OpGet), "lookups")
	// Output:
	// false <nil>
	// false disk on fire
	// false <nil>
	// 3 lookups
}
