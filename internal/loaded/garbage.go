package loaded

import (
	"runtime"
	"sync/atomic"
)

// Garbage counts machine code that nobody can reach any more. Only the garbage collector
// unmaps it, and can't see how much it is.
type Garbage struct {
	bytes      atomic.Int64
	collecting atomic.Bool
}

// slack is how much machine code may await the garbage collector.
const slack = 64 << 20

// Add counts size bytes of machine code that only the collector can free from here on.
func (g *Garbage) Add(size int64) {
	g.bytes.Add(size)
	runtime.AddCleanup(&tombstone{}, func(size int64) { g.bytes.Add(-size) }, size)
}

// tombstone is garbage from the start: its cleanup tells that the collector has run.
type tombstone struct{ _ [16]byte }

// Bytes returns how much waits.
func (g *Garbage) Bytes() int64 { return g.bytes.Load() }

// Collect runs the garbage collector if too much machine code waits for it.
func (g *Garbage) Collect() {
	if g.bytes.Load() > slack && g.collecting.CompareAndSwap(false, true) {
		defer g.collecting.Store(false)
		runtime.GC()
	}
}
