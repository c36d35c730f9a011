package loaded

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPinsEndWithTheirInstances, however many there are, and whoever finds out.
func TestPinsEndWithTheirInstances(t *testing.T) {
	r := New(0)
	a := open(r.NewEngine())
	left := 0
	hold := func() (release func()) { left++; return func() { left-- } }
	const n = 100
	var closed [n]bool
	var gone [n]func()
	for i := range n {
		a.Pin(hold(), func(collected func()) func() bool {
			gone[i] = collected
			return func() bool { return closed[i] }
		})
	}
	require.Equal(t, n, left)
	require.Contains(t, r.pinned, a.ledger)

	gone[7]()
	gone[7]()
	require.Equal(t, n-1, left, "the collector found it")

	for i := range n / 2 {
		closed[i] = true
	}
	for range n/step + 1 {
		require.Nil(t, a.Find(Key{1}))
	}
	require.Equal(t, n/2, left, "uses of the books found them")
	gone[8]()
	require.Equal(t, n/2, left, "it was found before")

	closed[n-1] = true
	require.Zero(t, r.Retained())
	require.Equal(t, n/2-1, left, "to count what is unused, all are looked at")

	for i := range n {
		closed[i] = true
	}
	r.Retained()
	require.Zero(t, left)
	require.Empty(t, r.pinned, "a runtime without instances is nobody's but its owner's")

	a.Pin(hold(), func(collected func()) func() bool { gone[0] = collected; return func() bool { return false } })
	require.NoError(t, a.Close(func() error { return nil }))
	require.Empty(t, r.pinned)
	gone[0]()
	a.Pin(func() { t.Error("it ended with the runtime") }, func(func()) func() bool { return func() bool { return true } })
	require.Nil(t, a.Find(Key{1}))
}
