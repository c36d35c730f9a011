package option

import (
	"math"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNumber(t *testing.T) {
	require.Equal(t, 7, Number(7, 1, 2))
	require.Equal(t, 1, Number(0, 1, 2))
	require.Equal(t, 2, Number(-7, 1, 2))
}

func TestQueue(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	require.EqualValues(t, 256<<20, Queue(0))
	require.EqualValues(t, 7, Queue(7))
	require.Equal(t, int64(math.MaxInt64), Queue(-1))
	debug.SetMemoryLimit(200 << 20)
	require.EqualValues(t, 64<<20, Queue(0))
}

func TestOfMemory(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	require.EqualValues(t, 1<<20, OfMemory(1<<20, 8))
	debug.SetMemoryLimit(4 << 20)
	require.EqualValues(t, 1<<19, OfMemory(1<<20, 8))
	require.EqualValues(t, 1<<20, OfMemory(1<<20, 4))
	debug.SetMemoryLimit(0)
	require.EqualValues(t, 1, OfMemory(1<<20, 8))
}
