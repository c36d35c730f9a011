package modcache

import (
	"testing"

	"github.com/stretchr/testify/require"
)

type instantStore struct{ Store }

func (instantStore) instant() {}

func TestLayeredCallsStoresInMemoryDirectly(t *testing.T) {
	l := NewLayered(nil, Layer{Store: instantStore{}}, Layer{Store: struct{ Store }{}}, Layer{Store: instantStore{}, Timeout: 1},
		Layer{Store: instantStore{}, Timeout: -1}, Layer{Store: struct{ Store }{}, Direct: true})
	require.True(t, l.layers[0].Direct)
	require.Same(t, l.layers[0], l.front)
	require.Equal(t, DefaultLayerTimeout, l.layers[1].Timeout)
	require.False(t, l.layers[1].Direct)
	require.False(t, l.layers[2].Direct, "unless they are given a limit")
	require.False(t, l.layers[3].Direct, "or told to have none")
	require.Equal(t, noLimit, l.layers[3].Timeout)
	require.True(t, l.layers[4].Direct)
}
