package storetest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/modcachetest"
)

func TestFake(t *testing.T) {
	modcachetest.TestStore(t, func(testing.TB) modcache.Store { return &storetest.Fake{} }, nil)
	modcachetest.TestStore(t, func(testing.TB) modcache.Store { return &storetest.Locking{} }, &modcachetest.Options{ExclusiveLocks: true})
}

func TestFakeHooks(t *testing.T) {
	ctx, key := context.Background(), modcache.Key{1}
	want := errors.New("no")
	f := &storetest.Fake{}
	f.OnGet = func(ctx context.Context, k modcache.Key) (*modcache.Artifact, bool, error) {
		require.Equal(t, key, k)
		return f.Below().Get(ctx, k)
	}
	f.OnDelete = func(context.Context, modcache.Key) error { return want }
	require.NoError(t, f.Add(ctx, key, modcache.NewArtifact([]byte("code"), modcache.Info{})))
	require.ErrorIs(t, f.Delete(ctx, key), want)
	a, ok, err := f.Get(ctx, key)
	require.NoError(t, err)
	require.True(t, ok)
	require.EqualValues(t, 4, a.Size())
	f.Heal()
	require.NoError(t, f.Delete(ctx, key))
	require.Zero(t, f.Len())
	require.Equal(t, storetest.Calls{Get: 1, Add: 1, Delete: 2}, f.Calls())

	over := &storetest.Fake{Under: f}
	require.NoError(t, over.Add(ctx, key, modcache.NewArtifact([]byte("code"), modcache.Info{})))
	require.Equal(t, []modcache.Key{key}, f.Keys())
	require.Zero(t, over.Len())
}
