package loaded

import (
	"runtime"
	"testing"

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
	for i := 0; g.Bytes() > slack; i++ {
		require.Less(t, i, 1000, "the collector ran and nothing was taken off the count")
		g.Collect()
		runtime.Gosched()
	}
}
