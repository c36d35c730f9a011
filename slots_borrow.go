package modcache

import "fmt"

// Borrow is Get for an object that must not be released while it is used. Until the
// matching Release, the slot can't be removed or replaced; if the table is closed, the
// handle misses as all others do but the object is released only by the Release. A slot with
// 2^30 borrows that were not released can't be borrowed again.
func (t *SlotTable[T]) Borrow(h Handle) (v T, ok bool) {
	e := t.in(t.slot(h), h)
	switch {
	case e == nil:
		return v, false
	case e.borrow():
		return e.value, true
	}
	return t.borrowAgain(h, e)
}

// borrowAgain is Borrow after that of e failed. If e is dead, the writer that killed it may not
// have taken it from its slot yet; what is there when it is done counts, else a Get that
// follows could still see what this call says is gone.
func (t *SlotTable[T]) borrowAgain(h Handle, e *slotEntry[T]) (v T, ok bool) {
	t.mu.Lock()
	over := t.unborrow(h, e)
	// Alive: entries die under mu, and leave their slots before it is unlocked.
	if e2 := t.find(h); e2 != nil {
		if ok = e2.borrow(); ok {
			v = e2.value
		} else {
			t.unborrow(h, e2)
		}
	}
	t.mu.Unlock()
	if over {
		e.drop(t.release)
	}
	return v, ok
}

// unborrow takes back one borrow of e under mu. If that was the last one, and Close left e
// to its borrowers, the caller drops it without mu.
func (t *SlotTable[T]) unborrow(h Handle, e *slotEntry[T]) (over bool) {
	if e.state.Add(^uint32(0)) != slotDead || t.lent[h] != e {
		return false
	}
	delete(t.lent, h)
	t.options.Quota.give(1)
	return true
}

// Release ends one Borrow of h. It fails with ErrSlotNoHandle if h isn't borrowed.
func (t *SlotTable[T]) Release(h Handle) error {
	if e := t.in(t.slot(h), h); e != nil && e.giveBack() {
		return nil
	}
	t.mu.Lock()
	e := t.lent[h]
	over := e != nil && t.unborrow(h, e)
	t.mu.Unlock()
	if e == nil {
		return &SlotError{"release", h, ErrSlotNoHandle}
	}
	if over {
		e.drop(t.release)
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
	gone := make([]*slotEntry[T], 0, t.live)
	for h, e := range t.entries(t.segments) {
		if e.state.Or(slotDead) == 0 {
			gone = append(gone, e)
			continue
		}
		if t.lent == nil {
			t.lent = make(map[Handle]*slotEntry[T])
		}
		t.lent[h] = e
	}
	t.options.Quota.give(t.live - len(t.lent))
	t.count.Removes += uint64(t.live)
	t.live = 0
	t.segments, t.free, t.interned = nil, nil, nil
	t.mu.Unlock()

	return t.dropAll(gone)
}

// dropAll gives up what dead entries hold, all of them even if an OnRelease ends the goroutine.
func (t *SlotTable[T]) dropAll(gone []*slotEntry[T]) error {
	var first error
	failed := 0
	defer func() {
		if len(gone) > 0 {
			_ = t.dropAll(gone)
		}
	}()
	for len(gone) > 0 {
		e := gone[0]
		gone = gone[1:]
		if err := e.drop(t.release); err != nil {
			if failed++; first == nil {
				first = err
			}
		}
	}
	if first != nil {
		return &SlotError{Op: "close", Err: fmt.Errorf("%d objects were not released cleanly, the first: %w", failed, first)}
	}
	return nil
}
