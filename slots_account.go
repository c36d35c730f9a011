package modcache

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"time"
)

// SlotQuota bounds the slots of several tables together. A nil quota has no bound.
type SlotQuota struct {
	max  int64
	used atomic.Int64
}

// NewSlotQuota returns a quota of n slots; with n ≤ 0 there are none to have.
func NewSlotQuota(n int) *SlotQuota { return &SlotQuota{max: int64(n)} }

// Max returns how many slots there are in all.
func (q *SlotQuota) Max() int { return int(q.max) }

// Used returns how many slots are in use now, those included that were borrowed
// when their table was closed. It never exceeds Max.
func (q *SlotQuota) Used() int { return int(q.used.Load()) }

func (q *SlotQuota) take() bool {
	if q == nil {
		return true
	}
	for {
		used := q.used.Load()
		if used >= q.max {
			return false
		}
		if q.used.CompareAndSwap(used, used+1) {
			return true
		}
	}
}

func (q *SlotQuota) give(n int) {
	if q != nil && n > 0 {
		q.used.Add(-int64(n))
	}
}

// SlotMetrics counts what happened in one [SlotTable] since it was made.
type SlotMetrics struct {
	Live    int    // handles that are valid now
	Lent    int    // objects that Close left to the borrowers who still use them
	Inserts uint64 // slots filled, whether by Insert, InsertChild, Intern or Share
	Removes uint64 // slots emptied, by Remove or by Close
	Full    uint64 // insertions refused with ErrFull
	Retired uint64 // slots whose generations are used up
	Faults  uint64 // objects born here whose Close failed or whose release panicked
}

// Metrics returns a snapshot of the table's counters.
func (t *SlotTable[T]) Metrics() SlotMetrics {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.count
	m.Live, m.Lent, m.Faults = t.live, len(t.lent), t.release.faults.Load()
	return m
}

// SlotLeak describes a slot that is in use.
type SlotLeak struct {
	Handle  Handle
	Type    string        // of the object, as %T prints it
	Age     time.Duration // since the slot was filled; 0 without SlotOptions.Trace
	Site    string        // function, file and line that filled it; empty without SlotOptions.Trace
	Borrows int           // that were not released
}

// String is a line for a log.
func (l SlotLeak) String() string {
	return fmt.Sprintf("handle %#x: %s, %v old, borrowed %d times, from %s", uint64(l.Handle), l.Type, l.Age, l.Borrows, l.Site)
}

// Leaks describes all slots in use, oldest first, and those that outlive a Close because they
// are borrowed. Call it before Close to see what a guest left behind.
func (t *SlotTable[T]) Leaks() []SlotLeak {
	t.mu.Lock()
	defer t.mu.Unlock()
	var leaks []SlotLeak
	for s, segment := range t.segments {
		for i := range segment.slots {
			if e := segment.slots[i].Load(); e != nil {
				leaks = append(leaks, e.leak(t.handle(s, i, e)))
			}
		}
	}
	for h, e := range t.lent {
		leaks = append(leaks, e.leak(h))
	}
	slices.SortFunc(leaks, func(a, b SlotLeak) int {
		return cmp.Or(cmp.Compare(b.Age, a.Age), cmp.Compare(a.Handle, b.Handle))
	})
	return leaks
}

func (e *slotEntry[T]) leak(h Handle) SlotLeak {
	l := SlotLeak{Handle: h, Type: fmt.Sprintf("%T", e.value), Borrows: int(e.state.Load() &^ slotDead)}
	if e.more != nil && len(e.more.site) > 0 {
		l.Age = time.Since(e.more.born)
		frame, _ := runtime.CallersFrames(e.more.site).Next()
		l.Site = fmt.Sprintf("%s %s:%d", frame.Function, frame.File, frame.Line)
	}
	return l
}

// newMore returns what a slot that is being filled knows beyond its value: if the table traces, when and by
// whom it is filled. depth is how many of the package's own functions there are between newMore
// and that caller.
func (t *SlotTable[T]) newMore(depth int) *slotMore[T] {
	more := &slotMore[T]{}
	if t.trace {
		pcs := make([]uintptr, 1)
		more.born, more.site = time.Now(), pcs[:runtime.Callers(depth+2, pcs)]
	}
	return more
}
