package wasmbin

import (
	"encoding/binary"
	"errors"
	"slices"
)

// snapshotMagic begins what Marshal returns.
const snapshotMagic = "modcache snapshot 1\x00"

// Marshal returns the snapshot as bytes. Zeros take no room.
func (s *Snapshot) Marshal() []byte {
	spans := nonZero(s.Memory)
	n := len(snapshotMagic) + 24 + 16*len(s.Globals)
	for _, p := range spans {
		n += 16 + len(p.b)
	}
	b := append(make([]byte, 0, n), snapshotMagic...)
	word := func(v uint64) { b = binary.LittleEndian.AppendUint64(b, v) }
	word(s.MemorySize)
	word(uint64(len(s.Globals)))
	for _, v := range s.Globals {
		word(v.Low)
		word(v.High)
	}
	word(uint64(len(spans)))
	for _, p := range spans {
		word(p.at)
		word(uint64(len(p.b)))
		b = append(b, p.b...)
	}
	return b
}

// ErrSnapshot means that bytes are not a snapshot of the module.
var ErrSnapshot = errors.New("not a snapshot of this module")

// Unmarshal returns the snapshot that b holds, if it is one of this module.
func (s *State) Unmarshal(b []byte) (*Snapshot, error) {
	if len(b) < len(snapshotMagic) || string(b[:len(snapshotMagic)]) != snapshotMagic {
		return nil, ErrSnapshot
	}
	b = b[len(snapshotMagic):]
	short := false
	word := func() (v uint64) {
		if short = short || len(b) < 8; short {
			return 0
		}
		v, b = binary.LittleEndian.Uint64(b), b[8:]
		return v
	}
	snap := &Snapshot{MemorySize: word()}
	if snap.MemorySize%page != 0 || snap.MemorySize < s.Memory.Min || snap.MemorySize > s.Memory.Max {
		return nil, ErrSnapshot
	}
	mutable := uint64(0)
	for _, g := range s.Globals {
		if g.Mutable {
			mutable++
		}
	}
	if word() != mutable || uint64(len(b)) < 16*mutable {
		return nil, ErrSnapshot
	}
	for range mutable {
		snap.Globals = append(snap.Globals, Value{Low: word(), High: word()})
	}
	count := word()
	if count > uint64(len(b))/16 {
		return nil, ErrSnapshot
	}
	var spans []span
	end := uint64(0)
	for range count {
		at, n := word(), word()
		if short || at < end || n > uint64(len(b)) || at > snap.MemorySize || n > snap.MemorySize-at {
			return nil, ErrSnapshot
		}
		spans = append(spans, span{at, b[:n]})
		b, end = b[n:], at+n
	}
	if short || len(b) > 0 {
		return nil, ErrSnapshot
	}
	snap.Memory = slices.Grow(snap.Memory, int(end))[:end]
	for _, p := range spans {
		copy(snap.Memory[p.at:], p.b)
	}
	return snap, nil
}
