package modcache_test

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// TestSlotTableStress has readers guess handles around those in use while writers reuse the slots
// without pause. A hit must be the very object that was issued under that handle,
// and none may come after the Remove.
func TestSlotTableStress(t *testing.T) {
	type object struct {
		handle  atomic.Uint64 // 0 until its Insert returned
		removed atomic.Bool   // set after Remove returned
	}
	type issue struct {
		h modcache.Handle
		o *object
	}
	rounds := 20_000
	if testing.Short() {
		rounds = 3000
	}
	table := modcache.NewSlotTableBits(&modcache.SlotOptions[*object]{}, 6, 16)
	var recent [32]atomic.Pointer[issue]
	var writers, readers sync.WaitGroup
	var done atomic.Bool
	var hits atomic.Int64
	for range 2 {
		writers.Go(func() {
			for range rounds {
				o := &object{}
				h, err := table.Insert(o)
				if err != nil {
					t.Errorf("insert: %v", err)
					return
				}
				o.handle.Store(uint64(h))
				recent[rand.IntN(len(recent))].Store(&issue{h, o})
				runtime.Gosched()
				for errors.Is(table.Remove(h), modcache.ErrSlotInUse) {
					runtime.Gosched()
				}
				o.removed.Store(true)
			}
		})
	}
	for i := range 4 {
		readers.Go(func() {
			for n := 0; !done.Load(); n++ {
				if n%16 == 0 {
					runtime.Gosched() // the writers need a turn as well
				}
				is := recent[rand.IntN(len(recent))].Load()
				if is == nil {
					continue
				}
				gone := is.o.removed.Load()
				h := is.h
				if rand.IntN(2) == 0 { // another generation of the same slot
					h += modcache.Handle(rand.IntN(9)-4) << 6
				}
				var o *object
				var ok bool
				if i%2 == 0 {
					o, ok = table.Get(h)
				} else if o, ok = table.Borrow(h); ok {
					if o.removed.Load() {
						t.Errorf("borrowed %#x, which is removed", h)
					}
					if err := table.Release(h); err != nil {
						t.Error(err)
					}
				}
				if !ok {
					continue
				}
				hits.Add(1)
				if got := o.handle.Load(); got != 0 && got != uint64(h) {
					t.Errorf("handle %#x led to the object of %#x", h, got)
				}
				if h == is.h && gone {
					t.Errorf("handle %#x was found after it was removed", h)
				}
			}
		})
	}
	writers.Wait()
	done.Store(true)
	readers.Wait()
	require.Zero(t, table.Len())
	t.Log(hits.Load(), "hits")
}

// TestSlotTableCloseMeetsEveryone closes a table while others insert, share, borrow and remove: each
// object is released once, and nothing gets in afterwards.
func TestSlotTableCloseMeetsEveryone(t *testing.T) {
	rounds := 2000
	if testing.Short() {
		rounds = 300
	}
	for range rounds {
		var released [8]atomic.Int32
		o := &modcache.SlotOptions[int]{OnRelease: func(i int) { released[i].Add(1) }}
		table, other := modcache.NewSlotTable(o), modcache.NewSlotTable(o)
		h, err := table.Insert(0)
		require.NoError(t, err)
		var wg sync.WaitGroup
		for i := 1; i <= 3; i++ {
			wg.Go(func() {
				if h2, err := table.Insert(i); err != nil {
					released[i].Add(1)
				} else if i == 1 {
					_ = table.Remove(h2)
				} else if i == 2 {
					_, _ = table.Share(other, h2)
				}
			})
			wg.Go(func() {
				if _, ok := table.Borrow(h); ok {
					if n := released[0].Load(); n != 0 {
						t.Error("released while it is borrowed")
					}
					if err := table.Release(h); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Go(func() {
			_ = table.Close()
			if _, ok := table.Get(h); ok {
				t.Error("found after Close")
			}
			if _, err := table.Insert(7); !errors.Is(err, modcache.ErrClosed) {
				t.Error("inserted after Close")
			}
		})
		wg.Wait()
		require.NoError(t, other.Close())
		for i := range 4 {
			require.EqualValues(t, 1, released[i].Load(), "object %d", i)
		}
		if t.Failed() {
			return
		}
	}
}
