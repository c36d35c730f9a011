package modcache

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// SlotQuota bounds the slots of several tables together. A nil quota has no bound.
type SlotQuota struct {
	max  int64
	used atomic.Int64
}

// NewSlotQuota returns a quota of n slots. If n is 0 or less, it has none.
func NewSlotQuota(n int) *SlotQuota { return &SlotQuota{max: int64(n)} }

// Max returns how many slots there are in all; [math.MaxInt] if nothing bounds them.
func (q *SlotQuota) Max() int {
	if q == nil {
		return math.MaxInt
	}
	return int(q.max)
}

// Used returns how many slots are in use now, those included that were borrowed
// when their table was closed. It never exceeds Max. A nil quota doesn't count, and returns 0.
func (q *SlotQuota) Used() int {
	if q == nil {
		return 0
	}
	return int(q.used.Load())
}

func (q *SlotQuota) take() bool {
	if q == nil {
		return true
	}
	for used := q.used.Load(); used < q.max; used = q.used.Load() {
		if q.used.CompareAndSwap(used, used+1) {
			return true
		}
	}
	return false
}

func (q *SlotQuota) give(n int) {
	if q != nil {
		q.used.Add(-int64(n))
	}
}

// SlotMetrics counts what happened in one [SlotTable] since it was made.
type SlotMetrics struct {
	Live    int    `json:"live"`    // handles that are valid now
	Lent    int    `json:"lent"`    // objects that were borrowed when the table was closed, and still are
	Inserts uint64 `json:"inserts"` // slots filled, whether by Insert, InsertChild, Intern or Share
	Removes uint64 `json:"removes"` // slots emptied, by Remove or by Close
	Full    uint64 `json:"full"`    // insertions refused with ErrSlotsFull
	Retired uint64 `json:"retired"` // slots whose generations are used up
	Faults  uint64 `json:"faults"`  // objects first inserted here whose Close failed or whose release panicked
}

// String sums the snapshot up in one line for people; its form may change.
func (m SlotMetrics) String() string {
	return fmt.Sprintf("%d live, %d lent; %d inserts, %d removes; %d refused as full, %d slots retired, %d faults",
		m.Live, m.Lent, m.Inserts, m.Removes, m.Full, m.Retired, m.Faults)
}

// SlotLeak describes a slot that is in use.
type SlotLeak struct {
	Handle  Handle        `json:"handle,string"` // a JSON number would lose digits
	Type    string        `json:"type"`          // of the object, as %T prints it
	Age     time.Duration `json:"age_ns"`        // since the slot was filled; 0 without SlotOptions.Trace
	Site    string        `json:"site"`          // function, file and line that filled it; empty without SlotOptions.Trace
	Borrows int           `json:"borrows"`       // that were not released
}

// String is a line for a log.
func (l SlotLeak) String() string {
	since := "SlotOptions.Trace says since when, and from where"
	if l.Site != "" {
		since = fmt.Sprintf("%v old, from %s", l.Age, l.Site)
	}
	return fmt.Sprintf("handle %#x: %s, borrowed %d times; %s", uint64(l.Handle), l.Type, l.Borrows, since)
}
