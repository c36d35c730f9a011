package loaded

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
)

// TestRegistryTidies what nobody uses any more, once for all runtimes, and now and then what nobody has used for longer.
func TestRegistryTidies(t *testing.T) {
	r := New(1 << 20)
	e := r.NewEngine()
	tidied := map[any]int{}
	e.Tidy = func(cm wazero.CompiledModule, native any) {
		if cm != nil {
			tidied[cm]++
		}
		tidied[native]++
	}
	a, b := open(e), open(e)
	traced := func(key Key) (*Module, *fake) {
		return a.loadAs(t, key, Loaded{Native: key, CodeLen: 100, Traced: true})
	}
	first, own := traced(Key{1})
	other := b.Find(Key{1})
	_, err := b.compiled(other)
	require.NoError(t, err)
	first.Release()
	require.Empty(t, tidied, "it is in use")
	other.Release()
	for _, of := range []any{Key{1}, own} {
		require.Equal(t, 1, tidied[of])
	}
	plain, untraced := a.load(t, Key{2})
	plain.Release()
	require.Zero(t, tidied[untraced])
	require.Equal(t, 1, tidied[own])
	for i := range byte(2 * step) {
		m, _ := traced(Key{3, i})
		m.Release()
		require.Equal(t, 1, tidied[Key{3, i}])
	}
	require.Greater(t, tidied[own], 1, "a call may have ended late")

	again := a.Find(Key{1})
	before := tidied[own]
	for i := range byte(4 * step) {
		m, _ := traced(Key{4, i})
		m.Release()
	}
	require.Equal(t, before, tidied[own], "it is in use")
	again.Release()
	require.Equal(t, before+1, tidied[own])
	require.NoError(t, closed(a))
	require.NoError(t, closed(b))
	r.Close()
	require.Zero(t, r.traced.Len())
}
