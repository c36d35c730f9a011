package loaded

import (
	"runtime"
	"runtime/metrics"
	"sync"

	"github.com/modcache/modcache/internal/option"
)

// Garbage counts machine code that nobody can reach any more. Only the garbage collector
// unmaps it, and can't see how much it is.
type Garbage struct {
	mu    sync.Mutex
	bytes int64  // guarded by mu
	new   int64  // bytes that no collection of ours was for; guarded by mu
	cycle uint64 // how many there were; guarded by mu

	running bool  // one of ours; guarded by mu
	share   int64 // of the heap, as it was when new exceeded slack; guarded by mu
}

// Machine code may await the garbage collector up to slack, or, where collecting costs more, up to a share of the heap that is alive,
// unless that is much of what the program may take.
const (
	slack     = 64 << 20
	heapShare = 2
)

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

// Collect starts the garbage collector if too much machine code has come to wait for it since it last did, and doesn't wait: it looks
// at all of the program's heap. What it finds is freed by cleanups, which may take long: this may be called by one of them, and
// to collect again would keep the others from running.
func (g *Garbage) Collect() {
	if g.begin() {
		go func() {
			runtime.GC()
			g.end()
		}()
	}
}

// begin reports whether there is to be a collection, and takes it for done.
func (g *Garbage) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running || g.new <= max(slack, g.share) {
		return false
	}
	if g.share = option.OfMemory(alive() / heapShare); g.new <= g.share {
		return false
	}
	g.new, g.share, g.running = 0, 0, true
	g.cycle++
	return true
}

func (g *Garbage) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running = false
}

// alive returns how much of the heap the last collection has kept, which is what the next costs.
func alive() int64 {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	return int64(live[0].Value.Uint64())
}
