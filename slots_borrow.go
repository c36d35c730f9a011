package modcache

import "fmt"

// Borrow is Get for an object that must not be released while it is used. Until the
// matching Release, the slot can't be removed or replaced; if the table is closed, the
// handle misses as all others do but the object is released only by the Release.
func (t *SlotTable[T]) Borrow(h Handle) (v T, ok bool) {
	if slot := t.slot(h); slot != nil {
		if e := slot.Load(); t.match(e, h) {
			if e.borrow() {
				return e.value, true
			}
			return t.borrowAgain(h, e)
		}
	}
	return v, false
}

// borrow counts one more borrow of e. If it fails, e is dead and the count is to be taken back.
func (e *slotEntry[T]) borrow() bool { return e.state.Add(1) < slotDead }

// giveBack counts one borrow of e less. It fails, and changes nothing, if e is dead or isn't borrowed.
func (e *slotEntry[T]) giveBack() bool {
	for {
		s := e.state.Load()
		if s == 0 || s >= slotDead {
			return false
		}
		if e.state.CompareAndSwap(s, s-1) {
			return true
		}
	}
}

// borrowAgain is Borrow after e turned out to be dead. The writer that killed e may not have
// taken it from its slot yet; what is there when it is done counts, else a Get that
// follows could still see what this call says is gone.
func (t *SlotTable[T]) borrowAgain(h Handle, e *slotEntry[T]) (v T, ok bool) {
	t.mu.Lock()
	over := t.unborrow(h, e)
	e2 := t.find(h) // alive: entries die under mu, and leave their slots before it is unlocked
	if e2 != nil {
		v, ok = e2.value, e2.borrow()
	}
	t.mu.Unlock()
	if over {
		t.discard(e)
	}
	return v, ok
}

// unborrow takes back one borrow of the dead entry e under mu. If that was the last
// one, and Close left e to its borrowers, the caller discards it without mu.
func (t *SlotTable[T]) unborrow(h Handle, e *slotEntry[T]) (over bool) {
	if e.state.Add(^uint32(0)) != slotDead || t.lent[h] != e {
		return false
	}
	delete(t.lent, h)
	t.quota.give(1)
	return true
}

// Release ends one Borrow of h. It fails with ErrNoHandle if h isn't borrowed.
func (t *SlotTable[T]) Release(h Handle) error {
	if slot := t.slot(h); slot != nil {
		if e := slot.Load(); t.match(e, h) && e.giveBack() {
			return nil
		}
	}
	t.mu.Lock()
	e := t.lent[h]
	over := e != nil && t.unborrow(h, e)
	t.mu.Unlock()
	if e == nil {
		return errNoHandle("ending a borrow of", h)
	}
	if over {
		t.discard(e)
	}
	return nil
}

// Close makes all handles invalid and releases each object once, children before
// their parents. Objects that are borrowed, and the parents of these, are released
// when the last borrow ends; shared ones when their last slot in other tables is gone. After
// Close, nothing can be added. The error is that of the first object whose Close
// failed or whose release panicked; all others are released all the same.
//
// A second Close does nothing; it doesn't wait for the first.
func (t *SlotTable[T]) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	t.dir.Store(nil)
	segments := t.segments
	for s, segment := range segments {
		for i := range segment.slots {
			e := segment.slots[i].Load()
			if e == nil || e.state.Or(slotDead) == 0 {
				continue
			}
			if t.lent == nil {
				t.lent = make(map[Handle]*slotEntry[T])
			}
			t.lent[t.handle(s, i, e)] = e
			segment.slots[i].Store(nil)
		}
	}
	t.quota.give(t.live - len(t.lent))
	t.count.Removes += uint64(t.live)
	t.live = 0
	t.segments, t.free, t.interned = nil, nil, nil
	t.mu.Unlock()

	var first error
	failed := 0
	for _, segment := range segments {
		for i := range segment.slots {
			e := segment.slots[i].Load()
			if e == nil {
				continue
			}
			if err := t.discard(e); err != nil {
				if failed++; first == nil {
					first = err
				}
			}
		}
	}
	if first != nil {
		return fmt.Errorf("modcache: closing a slot table: %d objects were not released cleanly, the first: %w", failed, first)
	}
	return nil
}
