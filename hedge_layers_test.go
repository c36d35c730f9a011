package modcache_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// TestHedgeLayers asks a near layer and a far one.
func TestHedgeLayers(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		far := newFarStore(t, time.Hour)
		layers := modcache.NewLayered(nil,
			modcache.Layer{Store: modcache.NewMemory(nil)}, modcache.Layer{Store: far, Timeout: -1, Write: modcache.WriteNever})
		c := newCache(t, layers, &modcache.Options{Retain: forget})
		r := newRuntime(t, c, nil)
		requireIn(t, 100*ms, r, wasm)
		synctest.Wait()
		require.ErrorIs(t, far.endedBy, context.DeadlineExceeded)
		requireIn(t, 0, r, wasm)
		requireCounts(t, c, 1, 1, 1, 1)
		require.NoError(t, c.Close(bg))
		require.NoError(t, layers.Close())
	})
}

// lockedStore has a lock.
type lockedStore struct {
	mapStore
	lock chan struct{}
}

func (s *lockedStore) Lock(ctx context.Context, _ modcache.Key) (func(), error) {
	select {
	case s.lock <- struct{}{}:
		return sync.OnceFunc(func() { <-s.lock }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestHedgeOfTwoProcesses lets one of them compile, although neither hears from the far
// layer, and the other find the result in the near one.
func TestHedgeOfTwoProcesses(t *testing.T) {
	t.Run("layers", func(t *testing.T) { testTwoProcesses(t, false) })
	t.Run("layers in a layer", func(t *testing.T) { testTwoProcesses(t, true) })
}

func testTwoProcesses(t *testing.T, nested bool) {
	bubble(t, func(t *testing.T, wasm []byte) {
		near := &lockedStore{lock: make(chan struct{}, 1)}
		process := func(d *diary) (*modcache.Cache, <-chan compiled) {
			far := newFarStore(t, time.Hour)
			l := modcache.NewLayered(nil,
				modcache.Layer{Store: near}, modcache.Layer{Store: far, Timeout: -1, Write: modcache.WriteNever})
			t.Cleanup(func() { require.NoError(t, l.Close()) })
			if nested {
				l = modcache.NewLayered(nil, modcache.Layer{Store: modcache.NewMemory(nil)}, modcache.Layer{Store: l})
				t.Cleanup(func() { require.NoError(t, l.Close()) })
			}
			c := newCache(t, l, d.options(modcache.Options{}))
			return c, begin(bg, newRuntime(t, c, nil), wasm)
		}
		slow := diary{at: map[modcache.EventKind]func(){modcache.EventCompileStarted: func() { time.Sleep(time.Second) }}}
		var quick diary
		one, first := process(&slow)
		time.Sleep(ms)
		other, second := process(&quick)
		d := took(func() {
			require.NoError(t, (<-first).err)
			require.NoError(t, (<-second).err)
		})
		require.InDelta(t, float64(1099*ms), float64(d), float64(ms))
		requireCounts(t, one, 0, 1, 1, 1)
		requireCounts(t, other, 1, 0, 0, 1)
	})
}

// lockedFarStore has a lock that takes long to give back.
type lockedFarStore struct {
	*farStore
	unlock time.Duration
}

func (s lockedFarStore) Lock(context.Context, modcache.Key) (func(), error) {
	return func() { time.Sleep(s.unlock) }, nil
}

// TestHedgeWithLock asks a far store once more after locking it, but not for long.
func TestHedgeWithLock(t *testing.T) {
	bubble(t, func(t *testing.T, wasm []byte) {
		s := newFarStore(t, time.Hour)
		c := newCache(t, lockedFarStore{s, 0}, nil)
		requireIn(t, 200*ms, newRuntime(t, c, nil), wasm)
		requireCounts(t, c, 0, 1, 1, 1)
		require.Zero(t, c.Metrics().StoreErrors)

		// A lookup that fails a moment after the code was placed doesn't matter.
		s = newFarStore(t, 0)
		var asked atomic.Bool
		s.onGet = func(context.Context, modcache.Key) error {
			if !asked.Swap(true) {
				time.Sleep(150 * ms)
				runtime.Goexit()
			}
			return nil
		}
		c = newCache(t, lockedFarStore{s, 100 * ms}, nil)
		requireIn(t, 200*ms, newRuntime(t, c, nil), wasm)
		requireCounts(t, c, 0, 1, 1, 1)

		// An answer that comes a moment after the code was placed is not an error.
		s = newFarStore(t, 250*ms, wasm)
		c = newCache(t, lockedFarStore{s, 100 * ms}, nil)
		requireIn(t, 300*ms, newRuntime(t, c, nil), wasm)
		requireCounts(t, c, 0, 1, 1, 1)
	})
}

// TestLayeredPatience is that of the layers that may be asked.
func TestLayeredPatience(t *testing.T) {
	patient := func(d time.Duration) *farStore {
		return &farStore{patience: d, mapStore: mapStore{onGet: func(context.Context, modcache.Key) error { return errFault }}}
	}
	far := patient(3 * time.Second)
	l := modcache.NewLayered(&modcache.LayeredOptions{BreakAfter: 1},
		modcache.Layer{Store: modcache.NewMemory(nil)},
		modcache.Layer{Store: patient(-1)}, modcache.Layer{Store: rude{far}},
		modcache.Layer{Store: modcache.NewLayered(nil, modcache.Layer{Store: far})}, modcache.Layer{Store: patient(time.Second)})
	defer l.Close()
	require.Equal(t, 3*time.Second, l.Patience(time.Minute))
	_, _, err := l.Get(bg, modcache.Key{})
	require.Error(t, err)
	require.Zero(t, l.Patience(time.Minute), "layers that are skipped take no time")

	local := modcache.NewLayered(nil, modcache.Layer{Store: modcache.NewLocal(nil)}, modcache.Layer{Store: far})
	defer local.Close()
	require.Zero(t, local.Patience(time.Minute), "it is for one goroutine")
}

// rude is a store that doesn't say how patient it is.
type rude struct{ *farStore }

func (rude) Patience(time.Duration) time.Duration { panic(errors.New("rude")) }
