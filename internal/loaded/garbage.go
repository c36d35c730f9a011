package loaded

import (
	"runtime"
	"sync"
)

// Garbage counts machine code that nobody can reach any more. Only the garbage collector
// unmaps it, and can't see how much it is.
type Garbage struct {
	mu    sync.Mutex
	bytes int64  // guarded by mu
	new   int64  // bytes that no collection of ours was for; guarded by mu
	cycle uint64 // how many there were; guarded by mu
}

// slack is how much machine code may await the garbage collector.
const slack = 64 << 20

// Add counts size bytes of machine code that only the collector can free from here on.
func (g *Garbage) Add(size int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bytes += size
	g.new += size
	runtime.AddCleanup(&tombstone{}, g.freed, grave{size, g.cycle})
}

// tombstone is garbage from the start: its cleanup tells that the collector has run.
type tombstone struct{ _ [16]byte }

// grave is what a tombstone is for.
type grave struct {
	size  int64
	cycle uint64
}

func (g *Garbage) freed(v grave) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bytes -= v.size
	if v.cycle == g.cycle {
		g.new -= v.size
	}
}

// Bytes returns how much waits.
func (g *Garbage) Bytes() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.bytes
}

// Collect runs the garbage collector if too much machine code has come to wait for it since it last did. What that
// collection has found is freed by cleanups, which may take long: this may be called by one of them, and to collect again
// would keep the others from running.
func (g *Garbage) Collect() {
	if g.begin() {
		runtime.GC()
	}
}

// begin reports whether there is to be a collection, and takes it for done.
func (g *Garbage) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.new <= slack {
		return false
	}
	g.new = 0
	g.cycle++
	return true
}
