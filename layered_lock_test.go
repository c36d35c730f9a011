package modcache_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/modcachetest"
)

func TestLayeredLock(t *testing.T) {
	a, b, c := newShelf(), newShelf(), newShelf()
	broken := modcachetest.NewFaulty(newShelf(), &modcachetest.Plan{Faults: []modcachetest.Fault{{Op: modcachetest.OpLock, Panic: "boom"}}})
	l := layered(t, nil, modcache.Layer{Store: a, Direct: true}, modcache.Layer{Store: broken}, modcache.Layer{Store: b}, modcache.Layer{Store: readOnly{c}})
	unlock, err := l.Lock(t.Context(), keyNo(1))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	for _, s := range []*shelf{a, b} {
		_, err := s.Lock(ctx, keyNo(1))
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	unlock()
	unlock()
	for _, s := range []*shelf{a, b} {
		free, err := s.Lock(t.Context(), keyNo(1))
		require.NoError(t, err)
		free()
	}
	t.Run("what was taken is given back when the context ends", func(t *testing.T) {
		held, err := b.Lock(t.Context(), keyNo(2))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err = l.Lock(ctx, keyNo(2))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		free, err := a.Lock(t.Context(), keyNo(2))
		require.NoError(t, err)
		free()
		held()
	})
	t.Run("an unlock that panics is contained", func(t *testing.T) {
		l := layered(t, nil, modcache.Layer{Store: badUnlock{a}}, modcache.Layer{Store: b})
		unlock, err := l.Lock(t.Context(), keyNo(3))
		require.NoError(t, err)
		unlock()
		require.EqualValues(t, 1, l.Metrics().Errors)
		free, err := b.Lock(t.Context(), keyNo(3))
		require.NoError(t, err)
		free()
	})
	t.Run("only if none locks is it an error", func(t *testing.T) {
		_, err := layered(t, nil, modcache.Layer{Store: broken}).Lock(t.Context(), keyNo(1))
		require.ErrorContains(t, err, "boom")
		unlock, err := layered(t, nil, modcache.Layer{Store: readOnly{c}}).Lock(t.Context(), keyNo(1))
		require.NoError(t, err)
		unlock()
	})
	t.Run("given to a caller who left, it is given back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newShelf()
			late := modcachetest.NewFaulty(s, &modcachetest.Plan{Faults: []modcachetest.Fault{{Op: modcachetest.OpLock, Hang: true}}})
			l := layered(t, nil, modcache.Layer{Store: late})
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			_, err := l.Lock(ctx, keyNo(1))
			require.True(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
			late.Release()
			synctest.Wait()
			unlock, err := s.Lock(t.Context(), keyNo(1))
			require.NoError(t, err)
			unlock()
		})
	})
}

// A layer whose locks hang is waited for once a minute, however its caller's context ends, as is one that hangs when they are
// given back.
func TestLayeredLockThatHangs(t *testing.T) {
	for _, in := range []string{"lock", "lock of who leaves", "unlock"} {
		t.Run(in, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ever := make(chan struct{})
				hang := func() { <-ever }
				s := &storetest.Locking{OnLock: func(context.Context, modcache.Key) (func(), error) {
					if in != "unlock" {
						hang()
					}
					return hang, nil
				}}
				behind := newShelf()
				l := layered(t, nil, modcache.Layer{Store: s}, modcache.Layer{Store: behind})
				took := func() time.Duration {
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
					if in == "lock of who leaves" {
						ctx, cancel = context.WithCancel(t.Context())
						time.AfterFunc(3*time.Second, cancel)
					}
					defer cancel()
					start := time.Now()
					if unlock, err := l.Lock(ctx, keyNo(1)); err == nil {
						_, err := behind.Lock(ctx, keyNo(1))
						require.ErrorIs(t, err, ctx.Err(), "the others lock")
						start = start.Add(3 * time.Second)
						unlock()
					}
					return time.Since(start)
				}
				for n := range uint64(80) {
					first := took()
					if n < 64 {
						require.NotZero(t, first)
						require.LessOrEqual(t, first, modcache.DefaultLayerTimeout)
					}
					time.Sleep(time.Second)
					for range 5 {
						require.Zero(t, took())
					}
					require.Equal(t, min(n+1, 64), l.Layers()[0].Hung, "what hangs is left alone")
					time.Sleep(time.Minute)
				}
				close(ever)
				synctest.Wait()
				require.Zero(t, l.Layers()[0].Hung)
				require.Zero(t, took())
			})
		})
	}
}

type badUnlock struct{ modcache.Store }

func (badUnlock) Lock(context.Context, modcache.Key) (func(), error) {
	return func() { panic("boom") }, nil
}

// TestLayeredLockOfWhatIsOnlyRead is for nobody to hold.
func TestLayeredLockOfWhatIsOnlyRead(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, openDisk(t, dir, nil).Add(bg, diskKey(1), diskArtifact(1, 100)))
	l := modcache.NewLayered(nil, modcache.Layer{Store: openDisk(t, dir, &modcache.DiskOptions{ReadOnly: true})}, modcache.Layer{Store: modcache.NewMemory(nil)})
	defer l.Close()
	unlock, err := l.Lock(bg, diskKey(1))
	require.NoError(t, err)
	unlock()
	require.Zero(t, l.Metrics().Errors)
}

// TestLayeredLockOfOneDirectory doesn't wait for itself where layers share a directory, as they do while its key is changed.
func TestLayeredLockOfOneDirectory(t *testing.T) {
	dir := t.TempDir()
	first, second := openDisk(t, dir, nil), openDisk(t, dir, &modcache.DiskOptions{Key: []byte("the key that was used before")})
	other := openDisk(t, dir, nil)
	for name, l := range map[string]*modcache.Layered{
		"two Disks":    layered(t, nil, modcache.Layer{Store: first}, modcache.Layer{Store: second, Write: modcache.WriteNever, Name: "old"}),
		"a Layered":    layered(t, nil, modcache.Layer{Store: layered(t, nil, modcache.Layer{Store: first})}, modcache.Layer{Store: second}),
		"one Disk":     layered(t, nil, modcache.Layer{Store: first, Name: "a"}, modcache.Layer{Store: first, Name: "b"}),
		"and one more": layered(t, nil, modcache.Layer{Store: openDisk(t, t.TempDir(), nil), Name: "a"}, modcache.Layer{Store: first}, modcache.Layer{Store: second, Name: "c"}),
	} {
		ctx, cancel := context.WithTimeout(bg, time.Minute)
		unlock, err := l.Lock(ctx, diskKey(1))
		require.NoError(t, err, name)
		soon, ended := context.WithTimeout(bg, 20*time.Millisecond)
		_, err = other.Lock(soon, diskKey(1))
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
		unlock()
		unlock, err = other.Lock(ctx, diskKey(1))
		require.NoError(t, err, name)
		unlock()
		ended()
		cancel()
	}
}
