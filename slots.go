package modcache

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache/internal/option"
)

// SlotOptions configures a [SlotTable]. The zero value, and nil, mean the defaults.
type SlotOptions[T any] struct {
	// OnRelease is called once for each object, when the last slot that holds it is gone. It
	// runs without any lock held, on the goroutine whose Remove, Replace, Release or Close
	// was the last one, or on one of its own if an instance has ended; it may use the table. A panic in
	// it is caught and counted as a fault; so is runtime.Goexit, after which that goroutine still
	// releases what else it was to. If OnRelease is nil, objects that implement io.Closer are closed; if it is
	// set, closing them is up to it.
	OnRelease func(T)

	// MaxSlots bounds how many slots may be in use at once. 0 means 1,048,576;
	// negative means as many as there are indexes.
	MaxSlots int

	// Quota, if not nil, bounds this table and all others that are given the same one.
	Quota *SlotQuota

	// Narrow makes handles of 32 bits, for guests that carry them in an i32: 20 bits of
	// index, 12 of generation. Such handles run out: each index can be used 4095 times.
	// A handle of another table is taken for one of this table with a chance of about 1
	// in 4096, instead of 1 in 2^32.
	Narrow bool

	// Trace records when and where each slot was filled, for Leaks. It costs a stack
	// walk for each insertion.
	Trace bool
}

const (
	defaultMaxSlots = 1 << 20
	slotSegmentSize = 32
)

// validate returns a copy with the defaults filled in.
func (o *SlotOptions[T]) validate() SlotOptions[T] {
	var v SlotOptions[T]
	if o != nil {
		v = *o
	}
	v.MaxSlots = option.Number(v.MaxSlots, defaultMaxSlots, math.MaxInt)
	return v
}

// SlotTable issues handles for host objects, so that a guest can name an object
// without ever holding a pointer. Give each tenant a table of its own (as a rule, one per
// module instance): a handle of one table misses in every other, unless
// [SlotTable.Share] put the object there too.
//
// Any uint64 is safe to look up. A table issues each handle once; after its removal it
// misses for good. Generations start at a random value in each table, so that handles of
// other tables miss as well.
//
// All methods may be called from several goroutines at once. Get takes no lock and
// allocates nothing. Memory grows with the largest number of slots that were in use
// at one time (and, in a narrow table, by 12 bytes for each slot whose generations are used
// up). Close gives it back.
type SlotTable[T any] struct {
	// What readers touch, on a cache line that writers leave alone.
	dir  atomic.Pointer[[]*slotSegment[T]] // nil before the first insertion and after Close
	bits handleBits
	_    [40]byte

	options SlotOptions[T]
	gens    generations
	release *slotRelease[T]

	mu        sync.Mutex
	closed    bool
	instances int // module instances that have the table; -1 after the last
	live      int
	issued    uint64            // indexes that were ever used; the next new one
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

// NewSlotTable returns an empty table. It holds no resources until the first insertion.
//
// A whole program: examples/slots.
func NewSlotTable[T any](o *SlotOptions[T]) *SlotTable[T] {
	if o != nil && o.Narrow {
		return newSlotTable(o, narrowIndexBits, narrowGenerationBits)
	}
	return newSlotTable(o, wideIndexBits, wideGenerationBits)
}

// newSlotTable returns a table whose handles have that many bits of each kind.
func newSlotTable[T any](o *SlotOptions[T], indexBits, generationBits int) *SlotTable[T] {
	t := &SlotTable[T]{
		bits:    handleBits{mask: 1<<indexBits - 1, shift: uint(indexBits)},
		options: o.validate(),
		gens:    newGenerations(generationBits),
	}
	t.release = newSlotRelease(t.options.OnRelease)
	return t
}

// Handle reads a handle from the stack word of a host function's parameter. The upper
// half of an i32's word is undefined, and ignored. Any word will do: one that is no handle of
// this table misses.
func (t *SlotTable[T]) Handle(word uint64) Handle {
	if t.bits.shift < 32 {
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
	if e := t.in(t.slot(h), h); e != nil {
		return e.value, true
	}
	return v, false
}

// find returns the entry of h, or nil. Get, Borrow and Release call its two halves
// themselves: together they are too large to be inlined, and a call costs 1 ns.
func (t *SlotTable[T]) find(h Handle) *slotEntry[T] { return t.in(t.slot(h), h) }

// in returns the entry in the slot of h if h was issued for it, or nil. One load decides.
func (t *SlotTable[T]) in(slot *atomic.Pointer[slotEntry[T]], h Handle) *slotEntry[T] {
	if slot != nil {
		if e := slot.Load(); e != nil && t.bits.match(h, e.gen) {
			return e
		}
	}
	return nil
}

// slot returns the slot that h points to, or nil if there is none.
func (t *SlotTable[T]) slot(h Handle) *atomic.Pointer[slotEntry[T]] {
	dir := t.dir.Load()
	i := t.bits.index(h)
	if dir == nil || i/slotSegmentSize >= uint64(len(*dir)) {
		return nil
	}
	return &(*dir)[i/slotSegmentSize].slots[i%slotSegmentSize]
}

// Insert puts v in a free slot and returns its handle. If it fails, v stays the
// caller's to release.
func (t *SlotTable[T]) Insert(v T) (Handle, error) {
	var more *slotMore[T]
	if t.options.Trace {
		more = newSlotMore[T](true, 1)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.insert("insert", v, more)
}

// insert is Insert under mu, as a part of op.
func (t *SlotTable[T]) insert(op string, v T, more *slotMore[T]) (Handle, error) {
	if t.closed {
		return 0, &SlotError{Op: op, Err: ErrClosed}
	}
	var err error
	i := t.issued
	switch reuse := len(t.free); {
	case t.live >= t.options.MaxSlots:
		err = fmt.Errorf("%w: all of its %d slots are in use", ErrSlotsFull, t.options.MaxSlots)
	case reuse > 0:
		i = uint64(t.free[reuse-1])
	case i > t.bits.mask && uint64(t.live) > t.bits.mask:
		err = fmt.Errorf("%w: all of its %d indexes are in use", ErrSlotsFull, t.live)
	case i > t.bits.mask:
		return 0, &SlotError{Op: op, Err: fmt.Errorf("%w: %d slots are used up", ErrSlotsExhausted, t.count.Retired)}
	}
	if err == nil && !t.options.Quota.take() {
		err = fmt.Errorf("%w: the quota of %d slots that it shares is used up", ErrSlotsFull, t.options.Quota.Max())
	}
	if err != nil {
		t.count.Full++
		return 0, &SlotError{Op: op, Err: err}
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
		gen = t.gens.first
	}
	segment.slots[at].Store(&slotEntry[T]{gen: gen, more: more, value: v})
	t.live++
	t.count.Inserts++
	return t.bits.compose(i, gen), nil
}

// Remove makes the handle h invalid, and releases the object if no other slot holds it. An
// interned object must be removed as often as it was interned; its handle stays valid
// until then. Remove fails with ErrSlotNoHandle if h misses, and with ErrSlotInUse if it
// is borrowed or has children; the table is unchanged then.
func (t *SlotTable[T]) Remove(h Handle) error {
	t.mu.Lock()
	e := t.find(h)
	gone, err := t.remove(h, e)
	t.mu.Unlock()
	if gone {
		e.drop(t.release)
	}
	if err != nil {
		return &SlotError{"remove", h, err}
	}
	return nil
}

// remove empties the slot of e, which h found, under mu. If e is gone, the caller drops
// it, without mu.
func (t *SlotTable[T]) remove(h Handle, e *slotEntry[T]) (gone bool, err error) {
	if e == nil {
		return false, ErrSlotNoHandle
	}
	if more := e.more; more != nil {
		if more.children > 0 {
			return false, fmt.Errorf("%w: it has children (%d)", ErrSlotInUse, more.children)
		}
		if more.holds > 1 {
			more.holds--
			return false, nil
		}
	}
	if err := e.kill(); err != nil {
		return false, err
	}
	if more := e.more; more != nil {
		if more.parent != nil {
			more.parent.more.children--
		}
		if more.holds > 0 {
			delete(t.interned, more.key)
		}
	}
	i := t.bits.index(h)
	segment, at := t.segments[i/slotSegmentSize], i%slotSegmentSize
	segment.slots[at].Store(nil)
	if next := t.gens.after(e.gen); next == 0 {
		t.count.Retired++
	} else {
		segment.next[at] = next
		t.free = append(t.free, uint32(i))
	}
	t.live--
	t.count.Removes++
	t.options.Quota.give(1)
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
	if dir := t.dir.Load(); dir != nil {
		for h, e := range t.entries(*dir) {
			if !f(h, e.value) {
				return
			}
		}
	}
}

// entries iterates over the entries in segments, with their handles.
func (t *SlotTable[T]) entries(segments []*slotSegment[T]) iter.Seq2[Handle, *slotEntry[T]] {
	return func(yield func(Handle, *slotEntry[T]) bool) {
		for s, segment := range segments {
			for i := range segment.slots {
				if e := segment.slots[i].Load(); e != nil && !yield(t.bits.compose(uint64(s*slotSegmentSize+i), e.gen), e) {
					return
				}
			}
		}
	}
}

// Metrics returns a snapshot of the table's counters.
func (t *SlotTable[T]) Metrics() SlotMetrics {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.count
	m.Live, m.Lent, m.Faults = t.live, len(t.lent), t.release.faults.Load()
	return m
}

// Leaks describes all slots in use, oldest first, and those that outlive a Close because they
// are borrowed. Call it before Close to see what a guest has not removed.
func (t *SlotTable[T]) Leaks() []SlotLeak {
	t.mu.Lock()
	defer t.mu.Unlock()
	var leaks []SlotLeak
	for h, e := range t.entries(t.segments) {
		leaks = append(leaks, e.leak(h))
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
