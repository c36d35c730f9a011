package loaded

import (
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestGarbageIsCollected counts what only the collector can free, in a
// program that makes no garbage else.
func TestGarbageIsCollected(t *testing.T) {
	var g Garbage
	for range 10 {
		g.Add(slack / 4)
	}
	require.Greater(t, g.Bytes(), int64(slack))
	g.Collect()
	for g.Bytes() > 0 { // for ever, if the collector hasn't run
		time.Sleep(time.Millisecond)
	}
}

// TestReclaim collects for code that is large, and for none in a heap beside which it is small.
func TestReclaim(t *testing.T) {
	collections := func(code int64) uint32 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		Reclaim(code)
		runtime.ReadMemStats(&after)
		return after.NumForcedGC - before.NumForcedGC
	}
	defer debug.SetGCPercent(debug.SetGCPercent(100)) // whatever the environment says
	runtime.GC()
	require.EqualValues(t, 1, collections(alive()/8+worthReclaiming))
	require.Zero(t, collections(worthReclaiming-1))
	heap := make([]byte, 9*worthReclaiming)
	runtime.GC()
	require.Zero(t, collections(worthReclaiming))
	runtime.KeepAlive(heap)

	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	require.Zero(t, collections(alive()/8+worthReclaiming))
}

// TestGarbageCollectsOnceForWhatWaits is called by cleanups, before those that tell what is freed.
func TestGarbageCollectsOnceForWhatWaits(t *testing.T) {
	var g Garbage
	g.Add(slack)
	require.False(t, g.begin())
	g.Add(1)
	require.True(t, g.begin())
	g.Add(2 * slack)
	require.False(t, g.begin(), "one at a time")
	g.new -= 2 * slack
	g.end()
	for range 3 {
		require.False(t, g.begin(), "it was collected, whenever its cleanups run")
	}
	g.Add(slack)
	require.False(t, g.begin())
	g.freed(grave{slack + 1, 0})
	g.Add(1)
	require.True(t, g.begin())
	g.end()
	g.Add(slack)
	g.freed(grave{slack, 2}) // by a collection of Go's own
	g.Add(slack)
	require.False(t, g.begin())
}

// TestGarbageWaitsLongerWhereTheHeapIsLarge, since a collection costs more there.
func TestGarbageWaitsLongerWhereTheHeapIsLarge(t *testing.T) {
	defer runtime.GC() // which says how much is alive
	heap := make([]*[1 << 20]byte, 2*2*slack>>20)
	for i := range heap {
		heap[i] = new([1 << 20]byte)
	}
	runtime.GC()
	g := Garbage{HeapShare: 2}
	g.Add(2 * slack)
	require.False(t, g.begin())
	g.Add(slack)
	require.True(t, g.begin())
	g.end()
	g.Add(2 * slack)
	require.False(t, g.begin())
	runtime.KeepAlive(heap)
	heap = nil
	for g.Bytes() > 0 {
		runtime.GC()
	}
	g.Add(slack + 1)
	require.True(t, g.begin(), "the heap is small by now")
}

// TestGarbagePaces those who make more during a collection.
func TestGarbagePaces(t *testing.T) {
	var g Garbage
	g.Pace(1)
	g.Add(slack + 1)
	require.True(t, g.begin())
	g.Pace(1)
	g.Add(2 * slack)
	g.Pace(3)
	paced := make(chan struct{})
	go func() {
		g.Pace(1)
		close(paced)
	}()
	select {
	case <-paced:
		require.Fail(t, "not paced")
	case <-time.After(10 * time.Millisecond):
	}
	g.end()
	<-paced
	g.Pace(1) // starts the next
	for g.Bytes() > 0 {
		time.Sleep(time.Millisecond)
	}
}

// TestGarbageOfBubbles: a collection that began in a bubble of testing/synctest may be waited for outside of it.
func TestGarbageOfBubbles(t *testing.T) {
	var g Garbage
	g.Add(4 * slack)
	paced := make(chan struct{})
	began := make(chan struct{})
	go func() {
		<-began
		g.Pace(1)
		close(paced)
	}()
	synctest.Test(t, func(*testing.T) {
		require.True(t, g.begin())
		g.Add(4 * slack)
		close(began)
		runtime.GC()
		g.end()
	})
	<-paced
}
