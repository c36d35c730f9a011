package modcache_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// closer counts how often it was closed.
type slotCloser struct {
	closed atomic.Int32
	err    error
}

func (c *slotCloser) Close() error {
	c.closed.Add(1)
	return c.err
}

func TestSlotTableHandlesAreForOneTableOnly(t *testing.T) {
	a, b := modcache.NewSlotTable[string](nil), modcache.NewSlotTable[string](nil)
	ha, err := a.Insert("a's")
	require.NoError(t, err)
	_, err = b.Insert("b's")
	require.NoError(t, err)
	_, ok := b.Get(ha)
	require.False(t, ok)
	_, ok = a.Get(0)
	require.False(t, ok)

	hb, err := a.Share(b, ha)
	require.NoError(t, err)
	v, ok := b.Get(hb)
	require.True(t, ok)
	require.Equal(t, "a's", v)
}

func TestSlotTableAnyIntegerIsSafe(t *testing.T) {
	for name, table := range map[string]*modcache.SlotTable[int]{
		"wide":      modcache.NewSlotTable[int](nil),
		"narrow":    modcache.NewSlotTable(&modcache.SlotOptions[int]{Narrow: true}),
		"narrow 24": modcache.NewSlotTableBits(&modcache.SlotOptions[int]{}, 8, 24),
	} {
		t.Run(name, func(t *testing.T) {
			issued := map[modcache.Handle]bool{}
			for i := range 100 {
				h, err := table.Insert(i)
				require.NoError(t, err)
				issued[h] = true
			}
			try := func(h modcache.Handle) {
				if _, ok := table.Get(h); ok != issued[h] {
					t.Fatalf("handle %#x: %v", uint64(h), ok)
				}
				if issued[h] {
					return
				}
				require.ErrorIs(t, table.Remove(h), modcache.ErrSlotNoHandle)
				require.ErrorIs(t, table.Release(h), modcache.ErrSlotNoHandle)
				_, ok := table.Borrow(h)
				require.False(t, ok)
			}
			for h := range issued {
				try(h)
				for bit := range 64 {
					try(h ^ 1<<bit)
				}
			}
			for range 10_000 {
				try(modcache.Handle(rand.Uint64()))
				try(modcache.Handle(rand.Uint32()))
			}
			require.Equal(t, 100, table.Len())
		})
	}
}

func TestSlotTableNarrowHandlesFit(t *testing.T) {
	table := modcache.NewSlotTable(&modcache.SlotOptions[int]{Narrow: true})
	for i := range 100_000 {
		h, err := table.Insert(i)
		require.NoError(t, err)
		require.LessOrEqual(t, uint64(h), uint64(1<<32-1))
		require.Equal(t, h, table.Handle(0xdeadbeef<<32|uint64(h)))
		if i%2 == 0 {
			require.NoError(t, table.Remove(h))
		}
	}
	wide := modcache.NewSlotTable[int](nil)
	h, err := wide.Insert(1)
	require.NoError(t, err)
	require.Equal(t, h, wide.Handle(uint64(h)))
}

func TestSlotTableExhaustion(t *testing.T) {
	table := modcache.NewSlotTableBits(&modcache.SlotOptions[int]{}, 2, 3)
	seen := map[modcache.Handle]bool{}
	for range 4 * 7 {
		h, err := table.Insert(1)
		require.NoError(t, err)
		require.False(t, seen[h])
		seen[h] = true
		require.NoError(t, table.Remove(h))
	}
	_, err := table.Insert(1)
	require.ErrorIs(t, err, modcache.ErrSlotsExhausted)
	require.EqualValues(t, 4, table.Metrics().Retired)

	full := modcache.NewSlotTableBits(&modcache.SlotOptions[int]{MaxSlots: -1}, 2, 3)
	for range 4 {
		_, err := full.Insert(1)
		require.NoError(t, err)
	}
	_, err = full.Insert(1)
	require.ErrorIs(t, err, modcache.ErrSlotsFull)
	require.NoError(t, full.Close())
}

func TestSlotErrorNamesOperationAndHandle(t *testing.T) {
	table := modcache.NewSlotTable(&modcache.SlotOptions[int]{MaxSlots: 2})
	parent, err := table.Insert(1)
	require.NoError(t, err)
	_, err = table.InsertChild(parent, 2)
	require.NoError(t, err)
	hex := fmt.Sprintf("%#x", uint64(parent))
	_, full := table.Share(table, parent)
	_, uncomparable := table.Intern([]int{1}, nil)
	for want, err := range map[string]error{
		"modcache: remove " + hex + ": slot is in use: it has children (1)":  table.Remove(parent),
		"modcache: replace 0x7: no such handle":                              table.Replace(7, 1),
		"modcache: release " + hex + ": no such handle":                      table.Release(parent),
		"modcache: share: slot table is full: all of its 2 slots are in use": full,
		"modcache: intern: a key of type []int can't be compared":            uncomparable,
	} {
		require.EqualError(t, err, want)
		var e *modcache.SlotError
		require.ErrorAs(t, err, &e)
	}
	require.NoError(t, table.Close())
	_, err = table.Insert(1)
	require.EqualError(t, err, "modcache: insert: closed")
}

func TestSlotLeakAsJSON(t *testing.T) {
	b, err := json.Marshal(modcache.SlotLeak{Handle: 1<<63 + 1, Age: time.Second})
	require.NoError(t, err)
	require.JSONEq(t, `{"handle":"9223372036854775809","type":"","age_ns":1000000000,"site":"","borrows":0}`, string(b))
}

func TestSlotQuota(t *testing.T) {
	var unbounded *modcache.SlotQuota
	require.Equal(t, math.MaxInt, unbounded.Max())
	require.Zero(t, unbounded.Used())
	quota := modcache.NewSlotQuota(3)
	o := &modcache.SlotOptions[int]{Quota: quota, MaxSlots: 2}
	a, b := modcache.NewSlotTable(o), modcache.NewSlotTable(o)
	h, err := a.Insert(1)
	require.NoError(t, err)
	_, err = a.Insert(2)
	require.NoError(t, err)
	_, err = a.Insert(3)
	require.ErrorIs(t, err, modcache.ErrSlotsFull)
	_, err = b.Insert(4)
	require.NoError(t, err)
	_, err = a.Share(b, h)
	require.ErrorIs(t, err, modcache.ErrSlotsFull)
	require.Equal(t, 3, quota.Used())
	require.NoError(t, a.Close())
	require.Equal(t, 1, quota.Used())
	require.NoError(t, b.Close())
	require.Zero(t, quota.Used())
	require.EqualValues(t, 1, a.Metrics().Full)
	require.EqualValues(t, 1, b.Metrics().Full)
}

func TestSlotTableCloseClosesTheObjects(t *testing.T) {
	table := modcache.NewSlotTable[io.Closer](nil)
	good, bad := &slotCloser{}, &slotCloser{err: io.ErrUnexpectedEOF}
	for _, c := range []*slotCloser{bad, good} {
		_, err := table.Insert(c)
		require.NoError(t, err)
	}
	require.ErrorIs(t, table.Close(), io.ErrUnexpectedEOF)
	require.NoError(t, table.Close())
	require.EqualValues(t, 1, good.closed.Load())
	require.EqualValues(t, 1, bad.closed.Load())
	require.EqualValues(t, 1, table.Metrics().Faults)

	own := modcache.NewSlotTable(&modcache.SlotOptions[*slotCloser]{OnRelease: func(*slotCloser) {}})
	c := &slotCloser{}
	_, err := own.Insert(c)
	require.NoError(t, err)
	require.NoError(t, own.Close())
	require.Zero(t, c.closed.Load(), "OnRelease takes the place of Close")
}

func TestSlotTableReleaseMayPanicAndUseTheTable(t *testing.T) {
	var table *modcache.SlotTable[int]
	released := map[int]int{}
	table = modcache.NewSlotTable(&modcache.SlotOptions[int]{OnRelease: func(v int) {
		released[v]++
		require.NoError(t, table.Close())
		_, err := table.Insert(v)
		require.ErrorIs(t, err, modcache.ErrClosed)
		panic("no")
	}})
	for i := range 3 {
		_, err := table.Insert(i)
		require.NoError(t, err)
	}
	require.ErrorContains(t, table.Close(), "3 objects")
	require.Equal(t, map[int]int{0: 1, 1: 1, 2: 1}, released)
}

// TestSlotTableReleaseMayExit has OnRelease end the goroutine, as a failed check in a test does: what else
// was to be released is released all the same.
func TestSlotTableReleaseMayExit(t *testing.T) {
	released := map[int]int{}
	exiting := func(end func(*modcache.SlotTable[int], modcache.Handle)) {
		table := modcache.NewSlotTable(&modcache.SlotOptions[int]{OnRelease: func(v int) {
			released[v]++
			if v%2 == 0 {
				runtime.Goexit()
			}
		}})
		var child modcache.Handle
		for i := range 10 {
			h, err := table.Insert(i)
			require.NoError(t, err)
			if i == 2 {
				child, err = table.InsertChild(h, 100)
				require.NoError(t, err)
				require.ErrorIs(t, table.Remove(h), modcache.ErrSlotInUse)
			}
		}
		var ending sync.WaitGroup
		ending.Go(func() { end(table, child) })
		ending.Wait()
		require.NotZero(t, table.Metrics().Faults)
	}
	exiting(func(table *modcache.SlotTable[int], _ modcache.Handle) { _ = table.Close() })
	require.Equal(t, map[int]int{0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1, 8: 1, 9: 1, 100: 1}, released)

	clear(released)
	exiting(func(table *modcache.SlotTable[int], child modcache.Handle) {
		other := modcache.NewSlotTable[int](nil)
		_, err := table.Share(other, child)
		require.NoError(t, err)
		defer other.Close()
		defer func() { require.NotContains(t, released, 2, "its child is in another table") }()
		_ = table.Close()
	})
	require.Equal(t, 1, released[2])
	require.Equal(t, 1, released[100])
}

func TestSlotTableChildrenGoFirst(t *testing.T) {
	var order []string
	o := &modcache.SlotOptions[string]{OnRelease: func(s string) { order = append(order, s) }}
	table, other := modcache.NewSlotTable(o), modcache.NewSlotTable(o)
	conn, err := table.Insert("conn")
	require.NoError(t, err)
	stmt, err := table.InsertChild(conn, "stmt")
	require.NoError(t, err)
	rows, err := table.InsertChild(stmt, "rows")
	require.NoError(t, err)
	require.ErrorIs(t, table.Remove(conn), modcache.ErrSlotInUse)
	require.ErrorIs(t, table.Remove(stmt), modcache.ErrSlotInUse)
	_, err = table.InsertChild(0, "orphan")
	require.ErrorIs(t, err, modcache.ErrSlotNoHandle)

	// A child that lives on in another table keeps what it depends on.
	abroad, err := table.Share(other, rows)
	require.NoError(t, err)
	require.NoError(t, table.Close())
	require.Empty(t, order)
	_, err = table.InsertChild(conn, "late")
	require.ErrorIs(t, err, modcache.ErrClosed)
	require.NoError(t, other.Remove(abroad))
	require.Equal(t, []string{"rows", "stmt", "conn"}, order)
}

func TestSlotTableBorrowOutlivesClose(t *testing.T) {
	table := modcache.NewSlotTable[*slotCloser](nil)
	c, parent := &slotCloser{}, &slotCloser{}
	p, err := table.Insert(parent)
	require.NoError(t, err)
	h, err := table.InsertChild(p, c)
	require.NoError(t, err)
	for range 2 {
		v, ok := table.Borrow(h)
		require.True(t, ok)
		require.Same(t, c, v)
	}
	require.ErrorIs(t, table.Remove(h), modcache.ErrSlotInUse)
	require.NoError(t, table.Close())
	_, ok := table.Borrow(h)
	require.False(t, ok)
	_, ok = table.Get(h)
	require.False(t, ok)
	require.Len(t, table.Leaks(), 1)
	require.Equal(t, 2, table.Leaks()[0].Borrows)

	require.NoError(t, table.Release(h))
	require.Zero(t, c.closed.Load()+parent.closed.Load())
	require.NoError(t, table.Release(h))
	require.EqualValues(t, 1, c.closed.Load())
	require.EqualValues(t, 1, parent.closed.Load())
	require.ErrorIs(t, table.Release(h), modcache.ErrSlotNoHandle)
}

func TestSlotTableIntern(t *testing.T) {
	table := modcache.NewSlotTable[*slotCloser](nil)
	var made atomic.Int32
	var wg sync.WaitGroup
	handles := make([]modcache.Handle, 16)
	for i := range handles {
		wg.Go(func() {
			h, err := table.Intern("db", func() (*slotCloser, error) {
				made.Add(1)
				runtime.Gosched()
				return &slotCloser{}, nil
			})
			require.NoError(t, err)
			handles[i] = h
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, made.Load())
	c, ok := table.Get(handles[0])
	require.True(t, ok)
	for _, h := range handles {
		require.Equal(t, handles[0], h)
		require.Zero(t, c.closed.Load())
		require.NoError(t, table.Remove(h))
	}
	require.EqualValues(t, 1, c.closed.Load())
	require.ErrorIs(t, table.Remove(handles[0]), modcache.ErrSlotNoHandle)

	_, err := table.Intern([]int{1}, nil)
	require.Error(t, err)
	_, err = table.Intern("db", func() (*slotCloser, error) { return nil, io.EOF })
	require.ErrorIs(t, err, io.EOF)
	require.Panics(t, func() {
		_, _ = table.Intern("db", func() (*slotCloser, error) { panic("no") })
	})
	var late *slotCloser
	_, err = table.Intern("db", func() (*slotCloser, error) {
		late = &slotCloser{}
		return late, table.Close()
	})
	require.ErrorIs(t, err, modcache.ErrClosed)
	require.EqualValues(t, 1, late.closed.Load(), "what couldn't be inserted is released")
}

func TestSlotTableInternKeys(t *testing.T) {
	table := modcache.NewSlotTable[int](nil)
	calls := 0
	mk := func() (int, error) { calls++; return calls, nil }
	for _, key := range []any{math.NaN(), [1]float64{math.NaN()}, struct{ any }{math.NaN()}, func() {}, []int{}} {
		_, err := table.Intern(key, mk)
		require.ErrorContains(t, err, fmt.Sprintf("%T", key))
	}
	require.Zero(t, calls, "an object was made that no later call would find")
	for range 2 { // nil is a key like others
		h, err := table.Intern(nil, mk)
		require.NoError(t, err)
		defer func() { require.NoError(t, table.Remove(h)) }()
	}
	require.Equal(t, 1, calls)
	require.Equal(t, 1, table.Len())
}

func TestSlotTableBorrowsAreBounded(t *testing.T) {
	table := modcache.NewSlotTable[*slotCloser](nil)
	c := new(slotCloser)
	h, err := table.Insert(c)
	require.NoError(t, err)
	table.AlmostAllBorrows(h, 2)
	for i := range 4 {
		got, ok := table.Borrow(h)
		require.Equal(t, i < 2, ok)
		require.Equal(t, ok, got == c)
	}
	require.NoError(t, table.Release(h))
	_, ok := table.Borrow(h)
	require.True(t, ok, "a borrow that was refused is counted")
	_, ok = table.Borrow(h)
	require.False(t, ok)
	require.ErrorIs(t, table.Remove(h), modcache.ErrSlotInUse)
	require.NoError(t, table.Close())
	require.Zero(t, c.closed.Load())
}

func TestSlotTableInternWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := modcache.NewSlotTable[int](nil)
		first := make(chan error, 1)
		go func() {
			_, err := table.Intern("k", func() (int, error) {
				time.Sleep(time.Hour)
				return 0, io.EOF
			})
			first <- err
		}()
		synctest.Wait()
		h, err := table.Intern("k", func() (int, error) { return 7, nil })
		require.NoError(t, err)
		v, _ := table.Get(h)
		require.Equal(t, 7, v)
		require.ErrorIs(t, <-first, io.EOF)
	})
}

func TestSlotAs(t *testing.T) {
	table := modcache.NewSlotTable[any](nil)
	c := &slotCloser{}
	h, err := table.Insert(c)
	require.NoError(t, err)
	got, ok := modcache.SlotAs[*slotCloser](table, h)
	require.True(t, ok)
	require.Same(t, c, got)
	_, ok = modcache.SlotAs[io.Closer](table, h)
	require.True(t, ok)
	_, ok = modcache.SlotAs[string](table, h)
	require.False(t, ok)
	_, ok = modcache.SlotAs[*slotCloser](table, h+1)
	require.False(t, ok)
}

func TestSlotTableLeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := modcache.NewSlotTable(&modcache.SlotOptions[any]{Trace: true})
		parent, err := table.Insert("old")
		require.NoError(t, err)
		time.Sleep(time.Minute)
		_, err = table.Intern(1, func() (any, error) { return 1, nil })
		require.NoError(t, err)
		time.Sleep(time.Second)
		_, err = table.InsertChild(parent, 2.5)
		require.NoError(t, err)
		_, err = table.Share(table, parent)
		require.NoError(t, err)

		leaks := table.Leaks()
		require.Len(t, leaks, 4)
		for i, want := range []struct {
			typ string
			age time.Duration
		}{{"string", time.Minute + time.Second}, {"int", time.Second}, {"float64", 0}, {"string", 0}} {
			require.Equal(t, want.typ, leaks[i].Type)
			require.Equal(t, want.age, leaks[i].Age)
			require.Contains(t, leaks[i].Site, "TestSlotTableLeaks")
			require.Contains(t, leaks[i].Site, "slots_test.go")
		}
		require.Contains(t, leaks[0].String(), "1m1s old")
	})
	plain := modcache.NewSlotTable[int](nil)
	_, err := plain.Insert(1)
	require.NoError(t, err)
	require.Equal(t, "int", plain.Leaks()[0].Type)
	require.Empty(t, plain.Leaks()[0].Site)
	require.Contains(t, plain.Leaks()[0].String(), "SlotOptions.Trace")
}

func TestSlotTableObjectsAreCollectable(t *testing.T) {
	table := modcache.NewSlotTable[*[64]byte](nil)
	pinned, err := table.Insert(new([64]byte))
	require.NoError(t, err)
	insert := func() (modcache.Handle, weak.Pointer[[64]byte]) {
		o := new([64]byte)
		h, err := table.Insert(o)
		require.NoError(t, err)
		return h, weak.Make(o)
	}
	gone := func(w weak.Pointer[[64]byte]) bool {
		for range 10 {
			if runtime.GC(); w.Value() == nil {
				return true
			}
		}
		return false
	}
	h, removed := insert()
	require.NoError(t, table.Remove(h))
	require.True(t, gone(removed))

	h, replaced := insert()
	require.NoError(t, table.Replace(h, nil))
	require.True(t, gone(replaced))

	_, closed := insert()
	require.False(t, gone(closed))
	require.NoError(t, table.Close())
	require.True(t, gone(closed))
	_, ok := table.Get(pinned)
	require.False(t, ok)
	runtime.KeepAlive(table)
}

func TestSlotTableAllocations(t *testing.T) {
	table := modcache.NewSlotTable[any](nil)
	h, err := table.Insert(&slotCloser{})
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		table.Get(h)
		table.Get(h + 1)
		modcache.SlotAs[*slotCloser](table, h)
		table.Borrow(h)
		_ = table.Release(h)
	}))
	v := &slotCloser{}
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		h, _ := table.Insert(v)
		_ = table.Remove(h)
	}), 1.0)
}
