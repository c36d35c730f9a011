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

func TestOfMemory(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	require.EqualValues(t, 1<<20, OfMemory(1<<20))
	debug.SetMemoryLimit(4 << 20)
	require.EqualValues(t, 1<<19, OfMemory(1<<20))
}
