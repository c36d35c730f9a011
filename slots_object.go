package modcache

import (
	"fmt"
	"io"
	"reflect"
	"sync/atomic"
	"time"
)

// slotMore is what a slot knows beyond its value. Plain slots have none.
type slotMore[T any] struct {
	object   *slotObject[T] // nil while the slot is the value's only holder
	parent   *slotEntry[T]  // the slot that this one is a child of
	children int
	key      any // the object was interned under it
	holds    int // how often; 0 if it wasn't
	born     time.Time
	site     []uintptr
}

// slotObject is an object with several holders: slots, of one table or of several,
// and child objects. A child holds its parent so that it is released first.
type slotObject[T any] struct {
	value   T // changes only while refs is 1, under the mu of that holder's table
	refs    atomic.Int64
	parent  *slotObject[T]
	release *slotRelease[T]
}

// drop gives up one hold on o and returns the error of releasing what nobody holds now.
func (o *slotObject[T]) drop() (err error) {
	for ; o != nil && o.refs.Add(-1) == 0; o = o.parent {
		if e := o.release.do(o.value); err == nil {
			err = e
		}
	}
	return err
}

// object makes the value of e, which mu guards, an object that others can hold too.
func (t *SlotTable[T]) object(e *slotEntry[T]) *slotObject[T] {
	if e.more == nil {
		e.more = &slotMore[T]{}
	}
	if e.more.object == nil {
		e.more.object = t.newObject(e.value)
	}
	return e.more.object
}

func (t *SlotTable[T]) newObject(v T) *slotObject[T] {
	o := &slotObject[T]{value: v, release: t.release}
	o.refs.Store(1)
	return o
}

// discard gives up what the dead entry e holds. mu must not be held.
func (t *SlotTable[T]) discard(e *slotEntry[T]) error {
	if e.more != nil && e.more.object != nil {
		return e.more.object.drop()
	}
	return t.release.do(e.value)
}

// slotRelease is how the objects that were born in one table end. Shared objects refer to it, so
// that they don't keep that whole table alive.
type slotRelease[T any] struct {
	f      func(T) error // nil: there is nothing to do
	faults atomic.Uint64
}

func newSlotRelease[T any](onRelease func(T)) *slotRelease[T] {
	r := &slotRelease[T]{}
	_, closes := any(*new(T)).(io.Closer)
	switch {
	case onRelease != nil:
		r.f = func(v T) error { onRelease(v); return nil }
	case closes || reflect.TypeFor[T]().Kind() == reflect.Interface:
		r.f = func(v T) error {
			if c, ok := any(v).(io.Closer); ok {
				return c.Close()
			}
			return nil
		}
	}
	return r
}

// do releases v. Its error is an io.Closer's, or a panic's.
func (r *slotRelease[T]) do(v T) (err error) {
	if r.f == nil {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("modcache: releasing a %T panicked: %v", v, p)
		}
		if err != nil {
			r.faults.Add(1)
		}
	}()
	return r.f(v)
}
