package modcache

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
)

// Handle is the integer that stands for a host object in a [SlotTable]: the
// slot's index in the low bits, the slot's generation above it. In an ordinary
// table each half has 32 bits; in a table with SlotOptions.Narrow, the index has 20 and
// the generation 12.
//
// A handle is valid only in the table that issued it. Zero is never issued.
type Handle uint64

// Errors of slot tables, to test for with [errors.Is]. They come in a [*SlotError]. What
// would add to a closed table fails with [ErrClosed].
var (
	// ErrSlotNoHandle means that a handle is not valid in this table: it was removed,
	// made up, or issued by another table.
	ErrSlotNoHandle = errors.New("no such handle")
	// ErrSlotInUse means that a slot is borrowed or has children, so that it can't be
	// removed or replaced now.
	ErrSlotInUse = errors.New("slot is in use")
	// ErrSlotsFull means that the table, or its quota, holds as many objects as it may.
	// Removing one makes room.
	ErrSlotsFull = errors.New("slot table is full")
	// ErrSlotsExhausted means that a table can issue no more handles: every slot that is
	// free has used up its generations. Other tables are not affected.
	ErrSlotsExhausted = errors.New("slot table has no handles left")
)

// SlotError says what failed in a slot table, and for which handle. Test for the cause
// with [errors.Is].
type SlotError struct {
	Op     string // what was attempted: "insert", "remove", …
	Handle Handle // 0 if it isn't about one handle
	Err    error  // why it failed; never nil
}

func (e *SlotError) Error() string {
	op := e.Op
	if e.Handle != 0 {
		op = fmt.Sprintf("%s %#x", op, uint64(e.Handle))
	}
	return fmt.Sprintf("modcache: %s: %v", op, e.Err)
}

// Unwrap returns the cause.
func (e *SlotError) Unwrap() error { return e.Err }

const (
	wideIndexBits, wideGenerationBits     = 32, 32
	narrowIndexBits, narrowGenerationBits = 20, 12
)

// handleBits says which bits of a handle are the index, and which the generation.
type handleBits struct {
	mask  uint64 // of the index
	shift uint   // of the generation
}

func (b *handleBits) index(h Handle) uint64 { return uint64(h) & b.mask }

// compose returns the handle of slot i in generation gen.
func (b *handleBits) compose(i uint64, gen uint32) Handle { return Handle(uint64(gen)<<b.shift | i) }

// match reports whether h was issued in the generation gen of its slot.
func (b *handleBits) match(h Handle, gen uint32) bool { return uint64(gen) == uint64(h)>>(b.shift&63) }

// generations is the order in which each slot of a table goes through its generations:
// from first to last, then from 1 to the one before first. The first one is random, so
// that handles of other tables miss.
type generations struct{ first, last uint32 }

func newGenerations(bits int) generations {
	g := generations{last: uint32(1<<bits - 1)}
	var b [8]byte
	rand.Read(b[:])
	g.first = uint32(binary.LittleEndian.Uint64(b[:])%uint64(g.last)) + 1
	return g
}

// after returns the generation that follows gen, or 0 if they are used up.
func (g generations) after(gen uint32) uint32 {
	next := gen + 1
	if gen == g.last {
		next = 1
	}
	if next == g.first {
		return 0
	}
	return next
}
