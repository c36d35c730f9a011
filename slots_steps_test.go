package modcache

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

type stepObject struct {
	h        Handle // that it was issued for; 0 if that isn't known
	released int
}

func newStepTable() *SlotTable[*stepObject] {
	return newSlotTable(&SlotOptions[*stepObject]{OnRelease: func(o *stepObject) { o.released++ }}, 4, 4)
}

func (o *stepObject) put(t *testing.T, table *SlotTable[*stepObject]) Handle {
	h, err := table.Insert(o)
	require.NoError(t, err)
	o.h = h
	return h
}

// slotEvents are what other goroutines may do between two steps of a lookup of h. gone
// tells whether h must miss after it.
var slotEvents = []struct {
	name string
	gone bool
	do   func(t *testing.T, table *SlotTable[*stepObject], h Handle)
}{
	{"nothing", false, func(*testing.T, *SlotTable[*stepObject], Handle) {}},
	{"remove", true, func(_ *testing.T, table *SlotTable[*stepObject], h Handle) { _ = table.Remove(h) }},
	{"reuse", true, func(t *testing.T, table *SlotTable[*stepObject], h Handle) {
		_ = table.Remove(h)
		(&stepObject{}).put(t, table)
	}},
	{"reuse until the slot is used up", true, func(t *testing.T, table *SlotTable[*stepObject], h Handle) {
		_ = table.Remove(h)
		for range 20 {
			_ = table.Remove((&stepObject{}).put(t, table))
		}
		(&stepObject{}).put(t, table)
	}},
	{"replace", false, func(_ *testing.T, table *SlotTable[*stepObject], h Handle) {
		_ = table.Replace(h, &stepObject{h: h})
	}},
	{"grow", false, func(t *testing.T, table *SlotTable[*stepObject], h Handle) {
		for range 5 {
			(&stepObject{}).put(t, table)
		}
	}},
	{"close", true, func(_ *testing.T, table *SlotTable[*stepObject], _ Handle) { _ = table.Close() }},
}

// TestSlotTableGetSteps takes Get apart and lets everything happen between its steps: finding the
// slot, loading it, comparing the handle.
func TestSlotTableGetSteps(t *testing.T) {
	for _, first := range slotEvents {
		for _, second := range slotEvents {
			t.Run(fmt.Sprintf("%s, %s", first.name, second.name), func(t *testing.T) {
				table := newStepTable()
				h := (&stepObject{}).put(t, table)

				slot := table.slot(h)
				if first.do(t, table, h); table.closed {
					return // the entry may still be seen: this Get began before Close did
				}
				e := slot.Load()
				if second.name != "grow" || !table.closed {
					second.do(t, table, h)
				}
				if e != nil && table.bits.match(h, e.gen) {
					require.False(t, first.gone, "found after it was removed")
					require.Equal(t, h, e.value.h, "found what was never issued under this handle")
				} else {
					require.True(t, first.gone, "missed while it was there")
				}

				_, ok := table.Get(h)
				require.Equal(t, !first.gone && !second.gone, ok)
			})
		}
	}
}

// TestSlotTableBorrowSteps lets everything happen between the moment that Borrow loads the slot and
// the one that it counts itself.
func TestSlotTableBorrowSteps(t *testing.T) {
	for _, event := range slotEvents {
		t.Run(event.name, func(t *testing.T) {
			table := newStepTable()
			o := &stepObject{}
			h := o.put(t, table)

			e := table.find(h)
			event.do(t, table, h)
			got, ok := e.value, e.borrow()
			if !ok {
				got, ok = table.borrowAgain(h, e)
			}
			require.Equal(t, !event.gone, ok)
			if !ok {
				require.ErrorIs(t, table.Release(h), ErrSlotNoHandle)
				require.Equal(t, 1, o.released)
				return
			}
			require.Equal(t, h, got.h)
			require.ErrorIs(t, table.Remove(h), ErrSlotInUse)
			require.ErrorIs(t, table.Replace(h, &stepObject{}), ErrSlotInUse)
			require.NoError(t, table.Close())
			require.Zero(t, got.released)
			require.NoError(t, table.Release(h))
			require.Equal(t, 1, got.released)
		})
	}
}

// TestSlotTableBorrowMeetsLastRelease has a Borrow that comes too late count itself just
// while the last borrower of a closed table leaves: one of them has to release the object.
func TestSlotTableBorrowMeetsLastRelease(t *testing.T) {
	table := newStepTable()
	o := &stepObject{}
	h := o.put(t, table)
	_, ok := table.Borrow(h)
	require.True(t, ok)

	late := table.find(h)
	require.NoError(t, table.Close())
	require.False(t, late.giveBack(), "what was borrowed is the table's to take back now")
	require.False(t, late.borrow())
	require.NoError(t, table.Release(h))
	require.Zero(t, o.released)
	_, ok = table.borrowAgain(h, late)
	require.False(t, ok)
	require.Equal(t, 1, o.released)
	require.ErrorIs(t, table.Release(h), ErrSlotNoHandle)

	// A late borrower of something that was removed long ago releases nothing.
	table = newStepTable()
	first, second := &stepObject{}, &stepObject{}
	h = first.put(t, table)
	late = table.find(h)
	require.NoError(t, table.Remove(h))
	second.put(t, table)
	require.False(t, late.borrow())
	_, ok = table.borrowAgain(h, late)
	require.False(t, ok)
	require.Equal(t, 1, first.released)
	require.Zero(t, second.released)
}

// TestSlotTableBetweenInstances has an instance come when the last one has gone but the table isn't
// closed yet.
func TestSlotTableBetweenInstances(t *testing.T) {
	table := newStepTable()
	require.True(t, table.attach())
	require.True(t, table.attach())
	require.False(t, table.detach())
	require.True(t, table.detach())
	require.False(t, table.attach())
	require.NoError(t, table.Close())
	require.False(t, table.attach())
}
