package modcache

import (
	"encoding/binary"
	"sync/atomic"
)

// A hit takes less time than the smallest compile, so that every module is worth storing, if
// it ever comes back. But a program that makes up a module for each request fills memory and
// disk with what nobody asks for again, and pays two to four times the compile for that. So a
// Cache stores small modules at first sight until it has met many that it didn't have. From
// then on, those that it hasn't met before are compiled for one use.

// smallCode is up to how many bytes of code a module is small: storing one takes half of the
// compile's time there, and less above. BenchmarkRuntimeOneOff has the figures.
const smallCode = 16 << 10

// newcomers tells small modules that a Cache meets for the first time from others.
type newcomers struct {
	trust atomic.Int64 // how many more are stored at first sight

	// met has a part of the key that came last, at the place that another part names.
	met [4096]atomic.Uint32
}

// unmet reports whether the module may be for one use only, and notes that it was met.
func (n *newcomers) unmet(key Key) bool {
	tag := binary.LittleEndian.Uint32(key[:]) | 1
	again := n.met[binary.LittleEndian.Uint16(key[4:])%uint16(len(n.met))].Swap(tag) == tag
	return !again && n.trust.Load() <= 0
}

// stored notes that one was stored at first sight.
func (n *newcomers) stored() { n.trust.Add(-1) }
