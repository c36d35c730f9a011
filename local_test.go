package modcache

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// The race detector would find real misuse, which is why it is staged here.
func TestLocalNoticesAnotherCall(t *testing.T) {
	ctx := context.Background()
	l := NewLocal(nil)
	a := NewArtifact([]byte("code"), Info{})
	require.NoError(t, l.Add(ctx, Key{1}, a))
	l.busy = true
	_, ok, err := l.Get(ctx, Key{1})
	require.False(t, ok)
	require.ErrorIs(t, err, errLocalShared)
	require.ErrorIs(t, l.Add(ctx, Key{2}, a), errLocalShared)
	require.ErrorIs(t, l.Delete(ctx, Key{1}), errLocalShared)
	require.ErrorIs(t, l.Flush(ctx), errLocalShared)
	l.Resize(0)
	require.Zero(t, l.Metrics())
	require.Nil(t, l.EvictionReports())
	l.busy = false
	_, ok, err = l.Get(ctx, Key{1})
	require.NoError(t, err)
	require.True(t, ok)
}
