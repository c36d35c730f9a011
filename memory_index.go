package modcache

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"
	"time"
)

// memoryEntry is one artifact in memory. It fits in a cache line, to which hits
// write only until they have left maxCredit marks.
type memoryEntry struct {
	key   keyWords
	art   *Artifact
	added time.Duration // since the store was made
	hits  atomic.Uint32 // since the policy last looked, up to maxCredit
	score float32       // guarded by the store's lock, like pos
	pos   int32         // in the heap
}

// memoryIndex finds entries by key. It is a hash table with open addressing:
// any number of goroutines may look up, without a lock, while one inserts and
// removes. A lookup that overlaps a change sees the table before or after it.
//
// That is true because no entry ever moves within a table: a removed
// entry leaves a tombstone, and a table that is too full is copied to a new one
// while readers finish with the old one.
//
// Only one goroutine may change the table at a time. That is enough, because whoever adds
// holds the budget's lock anyway, and it is why no general concurrent map is used here.
// xsync.Map takes 80 bytes for each key, beside the entry's 64, where this takes 11 to
// 32; and a Get through it would follow one more pointer.
type memoryIndex struct {
	slots atomic.Pointer[[]memorySlot] // its length is a power of two; nil when empty
	taken int                          // slots that aren't nil; the writer's
}

type memorySlot = atomic.Pointer[memoryEntry]

// vacated fills the slot of a removed entry, so that lookups go on past it.
var vacated = &memoryEntry{}

// keyWords is a Key in the form that is quickest to compare and to hash.
type keyWords [4]uint64

func wordsOf(key *Key) keyWords {
	return keyWords{
		binary.LittleEndian.Uint64(key[0:]), binary.LittleEndian.Uint64(key[8:]),
		binary.LittleEndian.Uint64(key[16:]), binary.LittleEndian.Uint64(key[24:]),
	}
}

func (w *keyWords) key() (key Key) {
	for i, v := range w {
		binary.LittleEndian.PutUint64(key[8*i:], v)
	}
	return key
}

// hash spreads keys over a table. Keys are hashes already, but nothing makes
// them so: all 32 bytes take part, and the product carries any difference into
// its upper half, which is folded into the bits that are used.
func (w *keyWords) hash() uint64 {
	h := w[0] ^ bits.RotateLeft64(w[1], 16) ^ bits.RotateLeft64(w[2], 32) ^ bits.RotateLeft64(w[3], 48)
	h *= 0x9e3779b97f4a7c15 // 2⁶⁴ divided by the golden ratio
	return h ^ h>>32
}

// lookup returns the entry under key, or nil.
func (x *memoryIndex) lookup(key *Key) *memoryEntry {
	p := x.slots.Load()
	if p == nil {
		return nil
	}
	slots := *p
	mask := uint(len(slots) - 1)
	w := wordsOf(key)
	for i := uint(w.hash()) & mask; ; i = (i + 1) & mask {
		e := slots[i].Load()
		if e == nil {
			return nil
		}
		// Word by word, because comparing arrays is a call.
		if e.key[0] == w[0] && e.key[1] == w[1] && e.key[2] == w[2] && e.key[3] == w[3] && e != vacated {
			return e
		}
	}
}

// insert adds e, whose key must be absent. live is the number of entries there
// are before it.
func (x *memoryIndex) insert(e *memoryEntry, live int) {
	p := x.slots.Load()
	if p == nil || 4*(x.taken+1) > 3*len(*p) {
		p = x.grow(live + 1)
	}
	if fillSlot(*p, e) {
		x.taken++
	}
}

// fillSlot puts e into the first slot that is free and reports whether it was
// empty before, rather than vacated.
func fillSlot(slots []memorySlot, e *memoryEntry) bool {
	mask := uint(len(slots) - 1)
	for i := uint(e.key.hash()) & mask; ; i = (i + 1) & mask {
		if old := slots[i].Load(); old == nil || old == vacated {
			slots[i].Store(e)
			return old == nil
		}
	}
}

// grow replaces the table by one without tombstones that is at most half full
// with n entries, and returns it.
func (x *memoryIndex) grow(n int) *[]memorySlot {
	slots := make([]memorySlot, max(8, 1<<bits.Len(uint(2*n-1))))
	x.taken = 0
	if old := x.slots.Load(); old != nil {
		for i := range *old {
			if e := (*old)[i].Load(); e != nil && e != vacated {
				fillSlot(slots, e)
				x.taken++
			}
		}
	}
	x.slots.Store(&slots)
	return &slots
}

// remove takes e, which must be present, out of the table.
func (x *memoryIndex) remove(e *memoryEntry) {
	slots := *x.slots.Load()
	mask := uint(len(slots) - 1)
	i := uint(e.key.hash()) & mask
	for slots[i].Load() != e {
		i = (i + 1) & mask
	}
	slots[i].Store(vacated)
}

// clear forgets everything, the table included.
func (x *memoryIndex) clear() {
	x.slots.Store(nil)
	x.taken = 0
}
