package stripe

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCounterLosesNothing(t *testing.T) {
	var c Counter
	require.Zero(t, c.Load())
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 1000 {
				c.Add(byte(i * (g + 1)))
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 4000, c.Load())
	require.Zero(t, testing.AllocsPerRun(100, func() { c.Add(7) }))
}
