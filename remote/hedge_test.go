package remote_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/remote"
)

func TestPatience(t *testing.T) {
	signer := generate(t)
	for _, c := range []struct {
		o                      remote.Options
		compile, want, atLeast time.Duration
	}{
		{remote.Options{}, 10 * time.Second, time.Second, 0},
		{remote.Options{}, ms, 312500 * time.Microsecond, 250 * ms},
		{remote.Options{FirstByte: 100 * ms}, ms, 125 * ms, 100 * ms},
		{remote.Options{FirstByte: time.Minute}, ms, 312500 * time.Microsecond, 0},
		{remote.Options{FirstByte: -1}, ms, 312500 * time.Microsecond, 0},
		{remote.Options{Hedge: 7 * ms}, time.Hour, 7 * ms, 0},
		{remote.Options{Hedge: -1}, time.Hour, 0, 0},
	} {
		c.o.Signer = signer
		s := over(t, newFake(), c.o)
		got := s.Patience(c.compile)
		require.Equal(t, c.want, got)
		require.GreaterOrEqual(t, got, c.atLeast, "a server that doesn't answer is to be found out")
		require.NoError(t, s.Close())
	}
}

// TestBudgetBeforeTheHead limits a Get by what its caller expects of a compile.
func TestBudgetBeforeTheHead(t *testing.T) {
	signer := generate(t)
	for name, c := range map[string]struct {
		o              remote.Options
		estimate, want time.Duration
		soft           bool
	}{
		"half of it":                 {remote.Options{FirstByte: 2 * time.Second}, time.Second, 500 * ms, true},
		"no less than a round trip":  {remote.Options{FirstByte: 2 * time.Second}, ms, 250 * ms, true},
		"not more than other limits": {remote.Options{}, time.Hour, 250 * ms, false},
		"dead is dead":               {remote.Options{}, ms, 250 * ms, false},
		"without a limit":            {remote.Options{FirstByte: -1}, 3 * time.Second, 1500 * ms, true},
		"unknown":                    {remote.Options{FirstByte: 2 * time.Second}, 0, 2 * time.Second, false},
		"as told":                    {remote.Options{FirstByte: 2 * time.Second, Budget: time.Minute}, time.Second, 2 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.get = func(ctx context.Context, _ modcache.Key) (io.ReadCloser, error) { return nil, hang(ctx) }
				c.o.Signer = signer
				s := over(t, f, c.o)
				defer s.Close()
				ctx := modcache.WithCompileEstimate(t.Context(), c.estimate)
				require.Equal(t, c.want, took(func() {
					_, _, err := s.Get(ctx, key(1))
					require.ErrorIs(t, err, context.DeadlineExceeded)
				}))
				require.Equal(t, c.soft, !s.Report().Paused)
				for range 2 {
					_, _, _ = s.Get(ctx, key(1))
				}
				require.True(t, s.Report().Paused)
			})
		})
	}
}

// TestHeadOutdoesTheEstimate: an entry knows better how long compiling took.
func TestHeadOutdoesTheEstimate(t *testing.T) {
	signer := generate(t)
	o := remote.Options{Signer: signer}
	b := entryOf(t, o, key(1), code(1<<20), modcache.Info{Engine: "e", CompileTime: 8 * time.Second})
	for name, c := range map[string]struct {
		head time.Duration
		ok   bool
	}{"in time": {249 * ms, true}, "too late": {251 * ms, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.get = func(ctx context.Context, _ modcache.Key) (io.ReadCloser, error) {
					return struct {
						io.Reader
						io.Closer
					}{io.MultiReader(&trickle{ctx, b[:1], 1, 100 * ms}, &trickle{ctx, b[1:2], 1, c.head - 100*ms},
						bytes.NewReader(b[2:len(b)/2]), &trickle{ctx, b[len(b)/2 : len(b)/2+1], 1, 300 * ms}, bytes.NewReader(b[len(b)/2+1:])), io.NopCloser(nil)}, nil
				}
				s := over(t, f, o)
				defer s.Close()
				a, ok, err := s.Get(modcache.WithCompileEstimate(t.Context(), ms), key(1))
				require.Equal(t, c.ok, ok, err)
				if ok {
					require.EqualValues(t, 1<<20, a.Size())
				} else {
					require.ErrorContains(t, err, "head")
				}
				require.False(t, s.Report().Paused)
			})
		})
	}
}

// TestHeadThatTrickles is too slow whatever the estimate.
func TestHeadThatTrickles(t *testing.T) {
	o := remote.Options{Signer: generate(t)}
	b := entry(t, o, key(1), 100)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.get = func(ctx context.Context, _ modcache.Key) (io.ReadCloser, error) {
			return &trickle{ctx, b, 1, 200 * ms}, nil
		}
		s := over(t, f, o)
		defer s.Close()
		require.Equal(t, 500*ms, took(func() {
			_, _, err := s.Get(modcache.WithCompileEstimate(t.Context(), time.Hour), key(1))
			require.ErrorContains(t, err, "head")
		}))
		require.True(t, s.Report().Paused)
	})
}

// TestOvertaken has compiles that are faster than a server that sends and sends.
func TestOvertaken(t *testing.T) {
	signer := generate(t)
	o := remote.Options{Signer: signer, Hedge: 100 * ms}
	slow := entryOf(t, o, key(1), code(1<<20), modcache.Info{Engine: "e", CompileTime: time.Hour})
	o.ReadOnly = true
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.get = func(ctx context.Context, _ modcache.Key) (io.ReadCloser, error) {
			return &trickle{ctx, slow, 1, 30 * ms}, nil
		}
		s := over(t, f, o)
		layers := modcache.NewLayered(nil, modcache.Layer{Store: modcache.NewMemory(nil)}, modcache.Layer{Store: s, Timeout: -1})
		c, err := modcache.New(layers, nil)
		require.NoError(t, err)
		rt, err := c.NewRuntime(t.Context(), wazero.NewRuntimeConfig())
		require.NoError(t, err)
		if rt.Key(modcache.NewModule(nil)) == (modcache.Key{}) {
			t.Skip("wazero has no compiler for this platform")
		}
		for i := range 4 {
			want := 100 * ms
			if i == 3 {
				want = 0 // the server is left alone
			}
			require.Equal(t, want, took(func() {
				_, err := rt.CompileModule(t.Context(), wasmtest.Const(int32(i)))
				require.NoError(t, err)
			}))
			synctest.Wait()
		}
		require.EqualValues(t, 3, s.Report().Timeouts)
		require.True(t, s.Report().Paused)
		require.Zero(t, s.Patience(time.Hour))
		m := c.Metrics()
		require.Equal(t, [4]uint64{0, 4, 4, 3}, [4]uint64{m.Hits, m.Misses, m.Compiles, m.Hedged})
		require.NoError(t, rt.Close(t.Context()))
		require.NoError(t, c.Close(t.Context()))
		require.NoError(t, layers.Close())
		require.NoError(t, s.Close())
	})
}
