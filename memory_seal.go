package modcache

import (
	"fmt"
	"hash/maphash"
)

// memorySeals finds out, in tests, that somebody wrote to bytes that everybody
// shares. A nil one does nothing. The store's lock guards it.
type memorySeals struct {
	seed maphash.Seed
	sums map[*memoryEntry]uint64
}

func newMemorySeals() *memorySeals {
	return &memorySeals{seed: maphash.MakeSeed(), sums: make(map[*memoryEntry]uint64)}
}

func (s *memorySeals) sum(e *memoryEntry) uint64 {
	b, _ := e.art.Bytes() // in memory, so there is no error
	return maphash.Bytes(s.seed, b)
}

func (s *memorySeals) put(e *memoryEntry) {
	if s != nil {
		s.sums[e] = s.sum(e)
	}
}

func (s *memorySeals) check(e *memoryEntry) error {
	if s == nil || s.sums[e] == s.sum(e) {
		return nil
	}
	return fmt.Errorf("%v: somebody wrote to the bytes of an artifact in memory: %w", e.key.key(), ErrCorrupt)
}

func (s *memorySeals) drop(e *memoryEntry) {
	if s != nil {
		delete(s.sums, e)
	}
}
