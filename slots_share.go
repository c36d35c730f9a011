package modcache

import (
	"fmt"
	"reflect"
)

// Share puts the object of h in dst too and returns its handle there; dst may be t
// itself, which makes a second handle. The object is released when its last slot is gone,
// by the OnRelease of the table that it was first inserted into. Its parent, if it has one,
// is released after it.
//
// Share fails with ErrSlotNoHandle if h misses, and where Insert into dst would fail.
func (t *SlotTable[T]) Share(dst *SlotTable[T], h Handle) (Handle, error) {
	t.mu.Lock()
	e := t.find(h)
	if e == nil {
		t.mu.Unlock()
		return 0, &SlotError{"share", h, ErrSlotNoHandle}
	}
	o := e.shared(t.release)
	o.refs.Add(1)
	t.mu.Unlock()

	more := newSlotMore[T](dst.options.Trace, 1)
	more.object = o
	dst.mu.Lock()
	h, err := dst.insert("share", o.value, more)
	dst.mu.Unlock()
	if err != nil {
		o.drop()
	}
	return h, err
}

// InsertChild is Insert for an object that depends on that of parent, as a statement does on
// its connection. A parent can't be removed or replaced while it has children,
// and its object is released after theirs. It fails with ErrSlotNoHandle if parent misses.
func (t *SlotTable[T]) InsertChild(parent Handle, v T) (Handle, error) {
	more := newSlotMore[T](t.options.Trace, 1)
	more.object = newSlotObject(v, t.release)

	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.find(parent)
	if p == nil && !t.closed {
		return 0, &SlotError{"insert a child of", parent, ErrSlotNoHandle}
	}
	h, err := t.insert("insert a child", v, more)
	if err != nil {
		return 0, err
	}
	more.parent = p
	more.object.parent = p.shared(t.release)
	more.object.parent.refs.Add(1)
	p.more.children++
	return h, nil
}

// Intern returns the handle of the object that was interned under key. If there is none,
// it calls mk for the object and inserts it. Each successful call needs a Remove of its
// own; the last of them removes the object. A key is any comparable
// value that equals itself (which a NaN doesn't), often the object itself.
//
// Of several calls with one key at the same time, one calls mk, with no lock held, and
// the others wait for it. So mk must not intern the same key. If mk
// fails, its caller gets the error, and one of the waiting calls is next.
// If what mk made can't be inserted, it is released.
func (t *SlotTable[T]) Intern(key any, mk func() (T, error)) (Handle, error) {
	if key != nil && !reflect.ValueOf(key).Comparable() {
		return 0, &SlotError{Op: "intern", Err: fmt.Errorf("a key of type %T can't be compared", key)}
	}
	if same := key; same != key { // no later call would find it
		return 0, &SlotError{Op: "intern", Err: fmt.Errorf("a key of type %T is not equal to itself, as it is or has a NaN", key)}
	}
	for {
		t.mu.Lock()
		if t.closed {
			t.mu.Unlock()
			return 0, &SlotError{Op: "intern", Err: ErrClosed}
		}
		in := t.interned[key]
		if in == nil {
			in = &slotIntern{made: make(chan struct{})}
			if t.interned == nil {
				t.interned = make(map[any]*slotIntern)
			}
			t.interned[key] = in
			t.mu.Unlock()
			return t.intern(key, in, mk)
		}
		if in.h != 0 {
			t.find(in.h).more.holds++
			t.mu.Unlock()
			return in.h, nil
		}
		t.mu.Unlock()
		<-in.made
	}
}

// intern makes the object that in promises.
func (t *SlotTable[T]) intern(key any, in *slotIntern, mk func() (T, error)) (Handle, error) {
	var h Handle
	defer func() { // also if mk panics
		t.mu.Lock()
		if h == 0 && t.interned[key] == in {
			delete(t.interned, key)
		}
		t.mu.Unlock()
		close(in.made)
	}()
	v, err := mk()
	if err != nil {
		return 0, &SlotError{Op: "intern", Err: err}
	}
	more := newSlotMore[T](t.options.Trace, 2)
	more.key, more.holds = key, 1
	t.mu.Lock()
	h, err = t.insert("intern", v, more)
	in.h = h
	t.mu.Unlock()
	if err != nil {
		t.release.do(v)
	}
	return h, err
}

// Replace puts v in the slot of h, and releases the old object if no other slot holds it.
// The handle stays valid. It fails with ErrSlotNoHandle or ErrSlotInUse as Remove
// does; v stays the caller's then.
func (t *SlotTable[T]) Replace(h Handle, v T) error {
	t.mu.Lock()
	e := t.find(h)
	err := t.replace(h, e, v)
	t.mu.Unlock()
	if err != nil {
		return &SlotError{"replace", h, err}
	}
	e.drop(t.release)
	return nil
}

// replace puts v in the slot of e, which h found, under mu. Then e is dead.
func (t *SlotTable[T]) replace(h Handle, e *slotEntry[T], v T) error {
	if e == nil {
		return ErrSlotNoHandle
	}
	if e.more != nil && e.more.children > 0 {
		return fmt.Errorf("%w: it has children (%d)", ErrSlotInUse, e.more.children)
	}
	if err := e.kill(); err != nil {
		return err
	}
	next := &slotEntry[T]{gen: e.gen, value: v}
	if e.more != nil {
		more := *e.more
		more.object = nil
		if more.parent != nil {
			more.object = newSlotObject(v, t.release)
			more.object.parent = more.parent.shared(t.release)
			more.object.parent.refs.Add(1)
		}
		next.more = &more
	}
	t.slot(h).Store(next)
	return nil
}

// SlotAs is Get for a table of interfaces: the object of h, if it is an R.
func SlotAs[R, T any](t *SlotTable[T], h Handle) (r R, ok bool) {
	v, ok := t.Get(h)
	if !ok {
		return r, false
	}
	r, ok = any(v).(R)
	return r, ok
}
