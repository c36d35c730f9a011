package modcache

import (
	"fmt"
	"io"
	"reflect"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache/internal/contain"
)

// slotEntry is what a slot holds under one handle. It is never used again for another
// handle or value: a reader that compared the generation has the right value.
type slotEntry[T any] struct {
	gen   uint32
	state atomic.Uint32 // number of borrows, and slotDead
	more  *slotMore[T]  // nil for a plain object; guarded by mu
	value T
}

// slotDead is the bit of slotEntry.state that is set, for good, when the entry leaves
// its slot. Nothing can be borrowed from then on.
const slotDead = 1 << 31

// maxBorrows is how many borrows of one slot there may be at once. The distance to slotDead is for
// calls that find out at the same time that there are as many.
const maxBorrows = 1 << 30

// borrow counts one more borrow of e. If it fails, e is dead or has too many, and the count is to be
// taken back.
func (e *slotEntry[T]) borrow() bool { return e.state.Add(1) <= maxBorrows }

// giveBack counts one borrow of e less. It fails, and changes nothing, if e is dead or isn't borrowed.
func (e *slotEntry[T]) giveBack() bool {
	for s := e.state.Load(); s != 0 && s < slotDead; s = e.state.Load() {
		if e.state.CompareAndSwap(s, s-1) {
			return true
		}
	}
	return false
}

// kill makes e dead, unless it is borrowed.
func (e *slotEntry[T]) kill() error {
	if e.state.CompareAndSwap(0, slotDead) {
		return nil
	}
	return fmt.Errorf("%w: it is borrowed", ErrSlotInUse)
}

// slotMore is what a slot knows beyond its value. Plain slots have none.
type slotMore[T any] struct {
	object   *slotObject[T] // nil while the slot is the value's only holder
	parent   *slotEntry[T]  // the slot that this one is a child of
	children int
	key      any   // the object was interned under it
	holds    int64 // how often; 0 if it wasn't
	born     time.Time
	site     []uintptr
}

// newSlotMore returns a slotMore that knows, if traced, when and by whom the slot is filled. depth
// is how many of the package's own functions there are between newSlotMore and that
// caller.
func newSlotMore[T any](traced bool, depth int) *slotMore[T] {
	more := &slotMore[T]{}
	if traced {
		pcs := make([]uintptr, 1)
		more.born, more.site = time.Now(), pcs[:runtime.Callers(depth+2, pcs)]
	}
	return more
}

// slotObject is an object with several holders: slots, of one table or of several,
// and child objects. A child holds its parent so that it is released first.
type slotObject[T any] struct {
	value   T
	refs    atomic.Int64
	parent  *slotObject[T]
	release *slotRelease[T]
}

func newSlotObject[T any](v T, release *slotRelease[T]) *slotObject[T] {
	o := &slotObject[T]{value: v, release: release}
	o.refs.Store(1)
	return o
}

// shared makes the value of e, which mu guards, an object that others can hold too.
func (e *slotEntry[T]) shared(release *slotRelease[T]) *slotObject[T] {
	if e.more == nil {
		e.more = &slotMore[T]{}
	}
	if e.more.object == nil {
		e.more.object = newSlotObject(e.value, release)
	}
	return e.more.object
}

// drop gives up one hold on o and returns the error of releasing what nobody holds now.
func (o *slotObject[T]) drop() (err error) {
	returned := false
	defer func() {
		if !returned { // OnRelease ended the goroutine
			_ = o.drop()
		}
	}()
	for o != nil && o.refs.Add(-1) == 0 {
		gone := o
		o = o.parent
		if e := gone.release.do(gone.value); err == nil {
			err = e
		}
	}
	returned = true
	return err
}

// drop gives up what the dead entry e holds. mu must not be held.
func (e *slotEntry[T]) drop(release *slotRelease[T]) error {
	if e.more != nil && e.more.object != nil {
		return e.more.object.drop()
	}
	return release.do(e.value)
}

// slotIntern is an interned object, or the promise of one.
type slotIntern struct {
	made chan struct{} // closed when h is valid, or the entry has left the map
	h    Handle        // 0 while it is being made
}

// slotRelease is how the objects end that were first inserted into one table. Shared
// objects refer to it, so that they don't keep that whole table alive.
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
func (r *slotRelease[T]) do(v T) error {
	if r.f == nil {
		return nil
	}
	err := contain.ErrExited // unless it returns
	defer func() {
		if err != nil {
			r.faults.Add(1)
		}
	}()
	err = contain.Call(func() error { return r.f(v) })
	return err
}
