package modcache

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

type instantStore struct{ Store }

func (instantStore) instant() {}

func TestStoresOfThisPackageInMemoryAreCalledDirectly(t *testing.T) {
	l := NewLayered(nil, Layer{Store: instantStore{}}, Layer{Store: struct{ Store }{}}, Layer{Store: instantStore{}, Timeout: 1})
	require.True(t, l.layers[0].direct())
	require.Same(t, l.layers[0], l.front)
	require.Equal(t, DefaultLayerTimeout, l.layers[1].Timeout)
	require.False(t, l.layers[2].direct(), "unless they are given a limit")
}

func TestLateFailuresDontProlongThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &breaker{limit: 2, cooldown: time.Second}
		require.False(t, b.failure())
		require.True(t, b.failure())
		time.Sleep(time.Second)
		require.True(t, b.allow(), "the probe")
		require.False(t, b.failure())
		time.Sleep(time.Second)
		require.False(t, b.failure(), "a call from before it opened")
		require.False(t, b.allow())
		time.Sleep(time.Second)
		require.True(t, b.allow())
	})
}

func TestAProbeThatNeverReportsBlocksNoOtherForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &breaker{limit: 1, cooldown: time.Second}
		require.True(t, b.failure())
		time.Sleep(time.Second)
		require.True(t, b.allow())
		time.Sleep(maxCooldown - time.Nanosecond)
		require.False(t, b.allow())
		time.Sleep(time.Nanosecond)
		require.True(t, b.allow())
		b.abstain()
		require.True(t, b.allow(), "an abstaining probe makes room for the next")
		b.success()
		require.False(t, b.isOpen())
	})
}
