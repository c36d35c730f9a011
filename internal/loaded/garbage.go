package loaded

import (
	"math"
	"runtime"
	"runtime/metrics"
	"sync"

	"github.com/modcache/modcache/internal/option"
)

// Garbage counts what is outside of Go's heap and nobody can reach any more. Only the garbage collector
// finds that out, and can't see how much it is.
type Garbage struct {
	// HeapShare is the part of the live heap, 1/HeapShare, up to which garbage waits where that is more than slack: what a collection
	// costs grows with the heap. 0 is none. It is set before use.
	HeapShare int64

	mu    sync.Mutex
	bytes int64  // guarded by mu
	new   int64  // bytes that no collection of ours was for; guarded by mu
	cycle uint64 // how many there were; guarded by mu

	collecting bool         // whether a collection of ours is under way; guarded by mu
	collection sync.RWMutex // held by it; a channel would be of one bubble of testing/synctest
}

// There is one collector for all registries.
var (
	code     = Garbage{HeapShare: 8} // nobody expects it to grow with the heap
	memories = Garbage{HeapShare: 2} // wazero's would be a part of that
)

// slack is how much may await the garbage collector, whatever the heap.
const slack = 64 << 20

// Add counts size bytes that only the collector can free from here on.
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

// Lags reports whether more than slack waits.
func (g *Garbage) Lags() bool { return g.Bytes() > slack }

// Collect starts the garbage collector if too much has come to wait for it since it last did, and doesn't wait: it looks
// at all of the program's heap. What it finds is freed by cleanups, which may take long: this may be called by one of them, and
// to collect again would keep the others from running.
func (g *Garbage) Collect() {
	if g.begin() {
		go func() {
			runtime.GC()
			g.end()
			g.Collect() // what has come meanwhile, should nobody else
		}()
	}
}

// Pace is Collect for those who are about to make garbage, and aren't cleanups. If so many times as much has come to wait during a
// collection as made it necessary, they wait for its end: the processor that it wants may be theirs.
func (g *Garbage) Pace(times int64) {
	g.Collect()
	if g.late(times) {
		g.collection.RLock()
		//lint:ignore SA2001 it has ended, which is all
		g.collection.RUnlock()
	}
}

// begin reports whether there is to be a collection, and takes it for done.
func (g *Garbage) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.collecting || !g.exceeds(1) {
		return false
	}
	g.new, g.collecting = 0, true
	g.cycle++
	g.collection.Lock()
	return true
}

// late reports whether a collection is to be waited for.
func (g *Garbage) late(times int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.collecting && g.exceeds(times)
}

// exceeds reports whether more waits than so many times what may, as the heap is now; mu is held.
func (g *Garbage) exceeds(times int64) bool {
	return g.new > times*slack && (g.HeapShare == 0 || g.new > times*option.OfMemory(alive()/g.HeapShare, 8))
}

func (g *Garbage) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.collecting = false
	g.collection.Unlock()
}

// worthReclaiming is a size of code that takes wazero most of a second to compile.
const worthReclaiming = 4 << 20

// Reclaim collects what a compile has left, a copy of the code among it, where the code isn't small and looking at the heap takes little beside that
// compile. Else all of that would be there still when the code is loaded, and more memory be needed than for compiling. Where the program has turned
// the collector off, it has reasons: a collection waits for guests that compute without an end in sight.
func Reclaim(code int64) {
	percent := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(percent)
	if off := percent[0].Value.Uint64() == math.MaxUint64; !off && code >= worthReclaiming && code > alive()/8 {
		runtime.GC()
	}
}

// alive returns how much of the heap the last collection has kept, which is what the next costs.
func alive() int64 {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	return int64(live[0].Value.Uint64())
}
