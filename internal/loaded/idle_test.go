package loaded

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRegistryRetiresEngines that were unused for longest, once there are too many.
func TestRegistryRetiresEngines(t *testing.T) {
	r := New(1 << 20)
	retired := 0
	use := func(e *Engine) (owner *fixture, anchor *fake) {
		a := open(e)
		m, anchor := a.load(t, Key{1})
		m.Release()
		return a, anchor
	}
	first := r.NewEngine()
	first.OnRetire = func() { retired++ }
	a, anchor := use(first)
	require.NoError(t, closed(a))
	require.NoError(t, closed(a))
	for i := range 3 * maxIdle {
		b, _ := use(r.NewEngine())
		require.NoError(t, closed(b))
		require.LessOrEqual(t, r.Retained(), maxIdle)
		require.Equal(t, i+1 >= maxIdle, retired == 1)
	}
	require.Equal(t, 1, anchor.closed)

	// Somebody had it in hand.
	a, again := use(first)
	require.Equal(t, 1, again.closed, "nothing is retained in it")
	m, again := a.load(t, Key{2})
	require.Zero(t, again.closed)
	require.NoError(t, closed(a))
	require.Equal(t, 1, again.closed)
	m.Release()
	require.Equal(t, 1, retired)
	require.Equal(t, maxIdle, r.Retained())

	busy := r.NewEngine()
	c := open(busy)
	m, anchor = c.load(t, Key{1})
	for range 3 * maxIdle {
		b, _ := use(r.NewEngine())
		require.NoError(t, closed(b))
	}
	require.NoError(t, m.Hold())
	require.Zero(t, anchor.closed)
	require.False(t, busy.retired)
	r.Close()
	require.Zero(t, r.Retained())
}
