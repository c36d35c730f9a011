package modcache

import (
	"testing"

	"github.com/stretchr/testify/require"
)

type instantStore struct{ Store }

func (instantStore) instant() {}

func TestStoresOfThisPackageInMemoryAreCalledDirectly(t *testing.T) {
	l := NewLayered(nil, Layer{Store: instantStore{}}, Layer{Store: struct{ Store }{}}, Layer{Store: instantStore{}, Timeout: 1})
	require.True(t, l.layers[0].direct())
	require.Same(t, l.layers[0], l.front)
	require.Equal(t, DefaultTimeout, l.layers[1].Timeout)
	require.False(t, l.layers[2].direct(), "unless they are given a limit")
}
