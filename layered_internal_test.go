package modcache

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// embedding may block, unlike what it embeds.
type embedding struct{ *Memory }

func TestLayeredCallsStoresInMemoryDirectly(t *testing.T) {
	m := NewMemory(nil)
	l := NewLayered(nil, Layer{Store: m}, Layer{Store: struct{ Store }{m}}, Layer{Store: m, Timeout: 1},
		Layer{Store: m, Timeout: -1}, Layer{Store: struct{ Store }{m}, Direct: true}, Layer{Store: embedding{m}})
	require.True(t, l.layers[0].Direct)
	require.Same(t, l.layers[0], l.front)
	require.False(t, l.alone)
	require.Equal(t, DefaultLayerTimeout, l.layers[1].Timeout)
	require.False(t, l.layers[1].Direct)
	require.False(t, l.layers[2].Direct, "unless they are given a limit")
	require.False(t, l.layers[3].Direct, "or told to have none")
	require.Equal(t, noLimit, l.layers[3].Timeout)
	require.True(t, l.layers[4].Direct)
	require.False(t, l.layers[5].Direct, "what embeds one is another type")
	require.True(t, NewLayered(nil, Layer{Store: NewLocal(nil)}).alone)
}

// TestLayeredBehindASpotOfAnother asks all layers: a Cache may have looked in the store that stood in for this one.
func TestLayeredBehindASpotOfAnother(t *testing.T) {
	nested := NewLayered(nil, Layer{Store: NewMemory(nil)}, Layer{Store: NewMemory(nil)})
	former := NewLayered(nil, Layer{Store: NewMemory(nil)}, Layer{Store: nested})
	now := NewLayered(nil, Layer{Store: NewMemory(nil)}, Layer{Store: nested})
	for _, l := range []*Layered{nested, former, now} {
		defer l.Close()
	}
	require.NoError(t, nested.Add(t.Context(), Key{1}, NewArtifact([]byte("code"), Info{})))
	_, from, err := getFrom(t.Context(), former, Key{1}, spot{})
	require.NoError(t, err)
	a, _, err := getFrom(t.Context(), now, Key{1}, from)
	require.NoError(t, err)
	require.NotNil(t, a)
	require.NoError(t, deleteFrom(t.Context(), now, Key{1}, from))
	a, _, err = getFrom(t.Context(), now, Key{1}, spot{})
	require.NoError(t, err)
	require.NotNil(t, a, "what was found elsewhere isn't deleted here")
}
