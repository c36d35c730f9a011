package modcache

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Handle is the integer that stands for a host object in a [SlotTable]: the
// slot's index in the low bits, the slot's generation above it. In an ordinary
// table each half has 32 bits; see SlotOptions.Narrow for the short form.
//
// A handle means something to the table that issued it only. Zero is never issued.
type Handle uint64

// Errors of slot tables, to test for with [errors.Is]. A closed table answers
// with [ErrClosed] to what would add to it.
var (
	// ErrNoHandle means that a handle names nothing in this table: it was removed,
	// made up, issued by another table, or stands for an object of another type.
	ErrNoHandle = errors.New("modcache: no such handle")
	// ErrInUse means that a slot is borrowed, has children, or holds a shared object, so
	// that it must stay as it is for now.
	ErrInUse = errors.New("modcache: handle is in use")
	// ErrFull means that the table, or the quota it draws on, holds as many
	// objects as it may. Removing one makes room.
	ErrFull = errors.New("modcache: slot table is full")
	// ErrExhausted means that a table has no handle left to issue: the generations of every
	// slot that isn't in use are used up. Other tables are not affected.
	ErrExhausted = errors.New("modcache: slot table has no handles left")
)

func errNoHandle(doing string, h Handle) error {
	return fmt.Errorf("modcache: %s handle %#x: %w", doing, uint64(h), ErrNoHandle)
}

const (
	defaultMaxSlots       = 1 << 20
	defaultGenerationBits = 12 // of a narrow handle; the other 20 are the index
	slotSegmentSize       = 32
)

// SlotOptions configures a [SlotTable]. The zero value, and nil, ask for the defaults.
type SlotOptions[T any] struct {
	// OnRelease takes leave of an object when the last slot that holds it is gone.
	// It is called once per object, without any lock held, on the goroutine whose Remove,
	// Replace, Release or Close was the last to give it up; it may use the table. A panic in it
	// is caught and counted as a fault. If OnRelease is nil, objects that
	// implement io.Closer are closed; if it is set, closing them is its business.
	OnRelease func(T)

	// MaxSlots bounds how many slots may be in use at once. 0 means 1,048,576;
	// negative means as many as there are indexes.
	MaxSlots int

	// Quota, if not nil, bounds this table and all others that are given the same one.
	Quota *SlotQuota

	// Narrow makes handles that fit in 32 bits, for guests that carry them in an i32: the
	// index in the low bits, GenerationBits of generation above it. Handles then
	// come to an end: each index serves 2^GenerationBits-1 times, and a handle of
	// another table is mistaken for one's own with a chance of about 1 in
	// 2^GenerationBits instead of 1 in 2^32.
	Narrow bool

	// GenerationBits divides a narrow handle: 8 to 24, 0 means 12. Values beyond are moved
	// to the nearest of these. It has no meaning without Narrow.
	GenerationBits int

	// Trace notes when and where each slot was filled, for Leaks. It costs a stack
	// walk per insertion; off, it costs nothing.
	Trace bool
}

// SlotTable gives out handles for host objects, so that a guest can name an object
// without ever holding a pointer. One table per tenant (as a rule, per module
// instance) is what keeps tenants apart: a handle of one table means nothing in
// another, unless [SlotTable.Share] put the object there too.
//
// Any uint64 is safe to look up. A handle is issued once in the life of a table; after
// its removal it misses for good. Generations start at a random value per
// table, so that a handle that strayed in from another table misses as well.
//
// All methods may be called from several goroutines at once. Get takes no lock and
// allocates nothing. Memory grows with the largest number of slots that were in use
// at one time (and, in a narrow table, by 12 bytes for each slot whose generations are used
// up) and is given back by Close.
type SlotTable[T any] struct {
	// What readers touch, on a cache line that writers leave alone.
	dir   atomic.Pointer[[]*slotSegment[T]] // nil before the first insertion and after Close
	mask  uint64                            // of the index bits
	shift uint                              // of the generation
	_     [40]byte

	max     int
	quota   *SlotQuota
	base    uint32 // each slot's first generation
	lastGen uint32 // the highest generation; 1 follows
	trace   bool
	release *slotRelease[T]

	mu        sync.Mutex
	closed    bool
	instances int // module instances that have the table; -1 after the last
	live      int
	issued    uint64            // indexes that were ever used; the next fresh one
	free      []uint32          // indexes to use again, most recent last
	segments  []*slotSegment[T] // what dir points to, with room to grow
	interned  map[any]*slotIntern
	lent      map[Handle]*slotEntry[T] // borrowed when the table was closed
	count     SlotMetrics
}

// slotSegment is a run of slots. Segments never move and are never reused.
type slotSegment[T any] struct {
	slots [slotSegmentSize]atomic.Pointer[slotEntry[T]] // written under mu
	next  [slotSegmentSize]uint32                       // generation to issue next, 0 if none was yet; guarded by mu
}

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

// NewSlotTable returns an empty table. It holds no resources until the first insertion.
func NewSlotTable[T any](o *SlotOptions[T]) *SlotTable[T] {
	if o == nil {
		o = &SlotOptions[T]{}
	}
	if !o.Narrow {
		return newSlotTable(o, 32, 32)
	}
	generation := defaultGenerationBits
	if o.GenerationBits != 0 {
		generation = min(max(o.GenerationBits, 8), 24)
	}
	return newSlotTable(o, 32-generation, generation)
}

// newSlotTable returns a table whose handles have that many bits of each kind.
func newSlotTable[T any](o *SlotOptions[T], indexBits, generationBits int) *SlotTable[T] {
	t := &SlotTable[T]{
		mask:    1<<indexBits - 1,
		shift:   uint(indexBits),
		max:     o.MaxSlots,
		quota:   o.Quota,
		lastGen: uint32(1<<generationBits - 1),
		trace:   o.Trace,
		release: newSlotRelease(o.OnRelease),
	}
	switch {
	case t.max == 0:
		t.max = defaultMaxSlots
	case t.max < 0:
		t.max = int(^uint(0) >> 1)
	}
	var b [8]byte
	rand.Read(b[:])
	t.base = uint32(binary.LittleEndian.Uint64(b[:])%uint64(t.lastGen)) + 1
	return t
}

// Handle reads a handle from the stack word of a host function's parameter, which for an
// i32 has nothing to say in its upper half. Any word will do; what is no
// handle of this table misses.
func (t *SlotTable[T]) Handle(word uint64) Handle {
	if t.shift < 32 {
		word = uint64(uint32(word))
	}
	return Handle(word)
}

// Get returns the object that h was issued for. ok is false if h isn't, or is no
// longer, a handle of this table.
//
// The object may be released while the caller uses it, if another goroutine removes it or
// closes the table. Where that matters, use [SlotTable.Borrow].
func (t *SlotTable[T]) Get(h Handle) (v T, ok bool) {
	if slot := t.slot(h); slot != nil {
		if e := slot.Load(); t.match(e, h) {
			return e.value, true
		}
	}
	return v, false
}

// find returns the entry of h, or nil. Its one load of the slot decides.
func (t *SlotTable[T]) find(h Handle) *slotEntry[T] {
	if slot := t.slot(h); slot != nil {
		if e := slot.Load(); t.match(e, h) {
			return e
		}
	}
	return nil
}

// slot returns the place where h would be, or nil if there is none.
func (t *SlotTable[T]) slot(h Handle) *atomic.Pointer[slotEntry[T]] {
	dir := t.dir.Load()
	i := uint64(h) & t.mask
	if dir == nil || i/slotSegmentSize >= uint64(len(*dir)) {
		return nil
	}
	return &(*dir)[i/slotSegmentSize].slots[i%slotSegmentSize]
}

// match tells whether e, which may be nil, is the entry of h.
func (t *SlotTable[T]) match(e *slotEntry[T], h Handle) bool {
	return e != nil && uint64(e.gen) == uint64(h)>>(t.shift&63)
}

// Insert puts v in a free slot and returns its handle. If it fails, v stays the
// caller's to release.
func (t *SlotTable[T]) Insert(v T) (Handle, error) {
	var more *slotMore[T]
	if t.trace {
		more = t.newMore(1)
	}
	t.mu.Lock()
	h, err := t.insert(v, more)
	t.mu.Unlock()
	return h, err
}

// insert is Insert under mu.
func (t *SlotTable[T]) insert(v T, more *slotMore[T]) (Handle, error) {
	if t.closed {
		return 0, fmt.Errorf("modcache: inserting into a slot table: %w", ErrClosed)
	}
	i := t.issued
	switch reuse := len(t.free); {
	case t.live >= t.max:
		t.count.Full++
		return 0, fmt.Errorf("%w: all of its %d slots are in use", ErrFull, t.max)
	case reuse > 0:
		i = uint64(t.free[reuse-1])
	case i > t.mask && uint64(t.live) > t.mask:
		t.count.Full++
		return 0, fmt.Errorf("%w: all of its %d indexes are in use", ErrFull, t.live)
	case i > t.mask:
		return 0, fmt.Errorf("%w: %d slots are used up", ErrExhausted, t.count.Retired)
	}
	if !t.quota.take() {
		t.count.Full++
		return 0, fmt.Errorf("%w: the quota of %d slots that it shares is used up", ErrFull, t.quota.Max())
	}

	if i == t.issued {
		if i/slotSegmentSize == uint64(len(t.segments)) {
			t.segments = append(t.segments, new(slotSegment[T]))
			dir := t.segments
			t.dir.Store(&dir)
		}
		t.issued++
	} else {
		t.free = t.free[:len(t.free)-1]
	}
	segment, at := t.segments[i/slotSegmentSize], i%slotSegmentSize
	gen := segment.next[at]
	if gen == 0 {
		gen = t.base
	}
	segment.slots[at].Store(&slotEntry[T]{gen: gen, more: more, value: v})
	t.live++
	t.count.Inserts++
	return Handle(uint64(gen)<<t.shift | i), nil
}

// Remove gives up the handle h, which misses from now on, and releases the object if no other
// slot holds it. An interned object has to be removed as often as it was
// interned; its handle stays valid until then. Remove fails with ErrNoHandle if h
// misses and with ErrInUse if it is borrowed or has children; the
// table is unchanged then.
func (t *SlotTable[T]) Remove(h Handle) error { return t.removeIf(h, nil) }

// removeIf is Remove for objects that pass check.
func (t *SlotTable[T]) removeIf(h Handle, check func(T) bool) error {
	t.mu.Lock()
	e := t.find(h)
	if e == nil || check != nil && !check(e.value) {
		t.mu.Unlock()
		return errNoHandle("removing", h)
	}
	gone, err := t.remove(h, e)
	t.mu.Unlock()
	if gone {
		t.discard(e)
	}
	return err
}

// remove empties the slot of e under mu. The caller discards e, without mu, if it is gone.
func (t *SlotTable[T]) remove(h Handle, e *slotEntry[T]) (gone bool, err error) {
	if more := e.more; more != nil {
		if more.children > 0 {
			return false, fmt.Errorf("modcache: removing handle %#x, which has %d children: %w", uint64(h), more.children, ErrInUse)
		}
		if more.holds > 1 {
			more.holds--
			return false, nil
		}
	}
	if !e.state.CompareAndSwap(0, slotDead) {
		return false, fmt.Errorf("modcache: removing handle %#x, which is borrowed: %w", uint64(h), ErrInUse)
	}
	if more := e.more; more != nil {
		if more.parent != nil {
			more.parent.more.children--
		}
		if more.holds > 0 {
			delete(t.interned, more.key)
		}
	}
	i := uint64(h) & t.mask
	segment, at := t.segments[i/slotSegmentSize], i%slotSegmentSize
	segment.slots[at].Store(nil)
	next := e.gen + 1
	if e.gen == t.lastGen {
		next = 1
	}
	if next == t.base {
		t.count.Retired++
	} else {
		segment.next[at] = next
		t.free = append(t.free, uint32(i))
	}
	t.live--
	t.count.Removes++
	t.quota.give(1)
	return true, nil
}

// Len returns how many handles are valid now.
func (t *SlotTable[T]) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live
}

// Range calls f for each handle and its object, in no particular order, until f
// returns false. It takes no lock: f may use the table. What is inserted, replaced or removed
// meanwhile may be seen or not; so may all that a Close meanwhile releases.
func (t *SlotTable[T]) Range(f func(Handle, T) bool) {
	dir := t.dir.Load()
	if dir == nil {
		return
	}
	for s, segment := range *dir {
		for i := range segment.slots {
			e := segment.slots[i].Load()
			if e != nil && !f(t.handle(s, i, e), e.value) {
				return
			}
		}
	}
}

// handle returns the handle of e, which is slot i of segment s.
func (t *SlotTable[T]) handle(s, i int, e *slotEntry[T]) Handle {
	return Handle(uint64(e.gen)<<t.shift | uint64(s)*slotSegmentSize + uint64(i))
}
