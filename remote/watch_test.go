package remote_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/remote"
)

// TestStoreBudgetBeforeTheHead limits a Get by what its caller expects of a compile.
func TestStoreBudgetBeforeTheHead(t *testing.T) {
	signer := generate(t)
	for name, c := range map[string]struct {
		o              remote.Options
		estimate, want time.Duration
		soft           bool
	}{
		"what was raised":            {remote.Options{FirstByte: 2 * time.Second}, 2 * time.Second, 2 * time.Second, false},
		"also for small ones":        {remote.Options{FirstByte: 2 * time.Second}, ms, 2 * time.Second, false},
		"of one that was lowered":    {remote.Options{FirstByte: 100 * ms}, ms, 100 * ms, false},
		"no less than a round trip":  {remote.Options{FirstByte: -1}, ms, 250 * ms, true},
		"not more than other limits": {remote.Options{}, time.Hour, 250 * ms, false},
		"dead is dead":               {remote.Options{}, ms, 250 * ms, false},
		"without a limit":            {remote.Options{FirstByte: -1}, 3 * time.Second, 750 * ms, true},
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
				for i := range byte(2) {
					_, _, _ = s.Get(ctx, key(2+i))
				}
				require.True(t, s.Report().Paused)
			})
		})
	}
}

// TestStoreHeadOutdoesTheEstimate: an entry knows better how long compiling took.
func TestStoreHeadOutdoesTheEstimate(t *testing.T) {
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

// TestStoreHeadThatSaysNoTime leaves the estimate as it was: entries out of a bundle say 0.
func TestStoreHeadThatSaysNoTime(t *testing.T) {
	signer := generate(t)
	o := remote.Options{Signer: signer}
	b := entryOf(t, o, key(1), code(1<<20), modcache.Info{Engine: "e"})
	for name, c := range map[string]struct {
		estimate time.Duration
		ok       bool
	}{"estimated": {16 * time.Second, true}, "unknown": {0, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.get = func(ctx context.Context, _ modcache.Key) (io.ReadCloser, error) {
					return &trickle{ctx, b, len(b) / 10, 200 * ms}, nil
				}
				s := over(t, f, o)
				defer s.Close()
				_, ok, err := s.Get(modcache.WithCompileEstimate(t.Context(), c.estimate), key(1))
				require.Equal(t, c.ok, ok, err)
			})
		})
	}
}

// TestStoreHeadThatTrickles is too slow whatever the estimate.
func TestStoreHeadThatTrickles(t *testing.T) {
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

// TestStoreWithoutACompile gives up what comes to a halt, and nothing for being slow.
func TestStoreWithoutACompile(t *testing.T) {
	signer := generate(t)
	for name, c := range map[string]struct {
		compile time.Duration // as the head says
		budget  time.Duration
		halts   bool
		want    string
	}{
		"slow":                       {compile: 2 * time.Second},
		"slow, and says no time":     {},
		"slow, and says a long time": {compile: time.Hour},
		"halts":                      {compile: 2 * time.Second, halts: true, want: "stalled"},
		"has a limit":                {compile: 2 * time.Second, budget: time.Second, want: "would take"},
	} {
		t.Run(name, func(t *testing.T) {
			o := remote.Options{Signer: signer, Budget: c.budget}
			b := entryOf(t, o, key(1), code(1<<20), modcache.Info{Engine: "e", CompileTime: c.compile})
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.get = func(ctx context.Context, _ modcache.Key) (io.ReadCloser, error) {
					body := io.Reader(&trickle{ctx, b, len(b) / 100, 200 * ms})
					if c.halts {
						body = io.MultiReader(io.LimitReader(body, int64(len(b)/2)), &trickle{ctx, b, 1, time.Hour})
					}
					return io.NopCloser(body), nil
				}
				s := over(t, f, o)
				defer s.Close()
				var err error
				d := took(func() {
					var ok bool
					_, ok, err = s.Get(modcache.WithCompileEstimate(t.Context(), -1), key(1))
					require.Equal(t, c.want == "", ok, err)
				})
				if c.want != "" {
					require.ErrorContains(t, err, c.want)
					return
				}
				require.InDelta(t, 20, d.Seconds(), 1)
			})
		})
	}
}

// TestStoreRemembersWhatIsTooSlow, as a compile looks twice: when it has got its lock, too.
func TestStoreRemembersWhatIsTooSlow(t *testing.T) {
	signer := generate(t)
	for name, late := range map[string]time.Duration{"the head": time.Hour, "the rest": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := remote.Options{Signer: signer, AbsentFor: time.Hour}
				b := entryOf(t, o, key(1), code(1<<20), modcache.Info{Engine: "e", CompileTime: time.Second})
				f := newFake()
				f.get = func(ctx context.Context, _ modcache.Key) (io.ReadCloser, error) {
					if late > 0 {
						return nil, hang(ctx)
					}
					return &trickle{ctx, b, len(b) / 100, 100 * ms}, nil
				}
				s := over(t, f, o)
				defer s.Close()
				lookup := func(estimate time.Duration) error {
					_, ok, err := s.Get(modcache.WithCompileEstimate(t.Context(), estimate), key(1))
					require.False(t, ok)
					require.Error(t, err)
					return err
				}
				require.ErrorIs(t, lookup(time.Second), context.DeadlineExceeded)
				require.Len(t, f.took(), 1)
				require.Zero(t, took(func() { require.ErrorIs(t, lookup(time.Second), modcache.ErrUnavailable) }))
				require.Empty(t, f.took())
				if late == 0 {
					require.False(t, s.Report().Paused)
					require.EqualValues(t, 1, s.Report().Remembered)
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					_, _, err := s.Get(modcache.WithCompileEstimate(ctx, -1), key(1))
					cancel()
					require.ErrorIs(t, err, context.DeadlineExceeded)
					require.Len(t, f.took(), 1, "who has nothing else waits")
				}
				time.Sleep(time.Minute)
				_ = lookup(time.Second)
				synctest.Wait()
				require.NotEmpty(t, f.took())
			})
		})
	}
}
