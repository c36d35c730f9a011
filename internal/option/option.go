// Package option reads the numbers of option structs: zero is the default, negative is
// off.
package option

import (
	"math"
	"runtime/debug"
	"time"
)

// Number returns v, or byDefault for 0, or off for what is negative.
func Number[T int | int64 | time.Duration](v, byDefault, off T) T {
	switch {
	case v == 0:
		return byDefault
	case v < 0:
		return off
	}
	return v
}

// Queue returns how many bytes may wait to be written: v as Number has it. What doesn't fit may be lost, so that the default is no less
// than 64 MiB in a program that may take little.
func Queue(v int64) int64 { return Number(v, max(64<<20, OfMemory(256<<20, 8)), math.MaxInt64) }

// OfMemory returns so many bytes, or a share, 1/share, of what the program may take (GOMEMLIMIT) if that is less. Of the heap that is an
// eighth at most: it grows by as much again before it is collected, and near the limit the collector does little else. It is never 0,
// which stands for a default elsewhere.
func OfMemory(most, share int64) int64 { return max(1, min(most, debug.SetMemoryLimit(-1)/share)) }
