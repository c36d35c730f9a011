// Package stripe counts what many goroutines do at the same time.
package stripe

import "sync/atomic"

// Counter is a count that is spread over several cache lines: goroutines that pass
// different bytes to Add rarely write to the same line. The zero value counts from 0.
type Counter struct {
	lines [32]struct {
		n atomic.Uint64
		_ [120]byte // processors fetch lines of 64 bytes in pairs
	}
}

// Add counts one more. by should be spread evenly, as the first byte of a hash is.
func (c *Counter) Add(by byte) { c.lines[by%byte(len(c.lines))].n.Add(1) }

// Load returns the count. What is counted meanwhile may be missing.
func (c *Counter) Load() (n uint64) {
	for i := range c.lines {
		n += c.lines[i].n.Load()
	}
	return n
}
