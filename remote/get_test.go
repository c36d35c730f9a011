package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/remote"
)

// These tests run in bubbles, in which time is exact.

const ms = time.Millisecond

// TestStoreDeadServer says what a server that doesn't answer costs: the limit once,
// and nothing until it is back.
func TestStoreDeadServer(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		alive := false
		f.get = func(ctx context.Context, k modcache.Key) (io.ReadCloser, error) {
			if alive {
				return nil, fs.ErrNotExist
			}
			return nil, hang(ctx)
		}
		f.has = func(ctx context.Context, k modcache.Key) (bool, error) {
			if alive {
				return false, nil
			}
			return false, hang(ctx)
		}
		s := over(t, f, remote.Options{Signer: signer})
		defer s.Close()
		ask := func(k modcache.Key) (err error) {
			_, ok, err := s.Get(t.Context(), k)
			require.False(t, ok)
			return err
		}
		require.Equal(t, 250*ms, took(func() { require.ErrorIs(t, ask(key(1)), context.DeadlineExceeded) }))
		for i := range 1000 {
			d := took(func() { require.ErrorIs(t, ask(key(byte(i))), modcache.ErrUnavailable) })
			require.Zero(t, d)
			time.Sleep(100 * ms)
		}
		r := s.Report()
		require.True(t, r.Paused)
		require.EqualValues(t, 1, r.Pauses)
		require.Equal(t, []string{"get"}, f.took()[:1])
		require.InDelta(t, 7, r.Probes, 3, "1+2+4+8+16+32+… s of pauses in 100 s, each ±50 %%")

		alive = true
		require.Eventually(t, func() bool { return ask(key(2)) == nil }, 3*time.Minute, 100*ms)
		require.False(t, s.Report().Paused)
	})
}

// TestFleetIsBackWithItsServer has each lookup get to the store, which says why it leaves the server alone.
func TestFleetIsBackWithItsServer(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		down := errors.New("503 for a while" + strings.Repeat(".", 1<<20))
		f.get = func(context.Context, modcache.Key) (io.ReadCloser, error) { return nil, down }
		f.has = func(context.Context, modcache.Key) (bool, error) { return false, down }
		s := over(t, f, remote.Options{Signer: signer, AbsentFor: -1})
		defer s.Close()
		l := modcache.NewLayered(nil, modcache.Layer{Store: modcache.NewMemory(nil)}, modcache.Layer{Store: s, Timeout: -1})
		defer l.Close()
		ask := func(i int) error {
			time.Sleep(50 * ms)
			_, _, err := l.Get(t.Context(), key(byte(i)))
			require.EqualValues(t, i+1, s.Metrics().Lookups)
			return err
		}
		asked := 0
		for ; asked < 200; asked++ {
			err := ask(asked)
			require.ErrorContains(t, err, "503 for a while")
			require.True(t, len(err.Error()) < 1000 || !errors.Is(err, modcache.ErrUnavailable))
		}
		f.get, f.has = nil, nil
		for err := down; err != nil; asked++ {
			if err = ask(asked); err != nil {
				require.ErrorIs(t, err, modcache.ErrUnavailable)
				require.True(t, asked < 3000, "a minute and a half is the longest pause")
			}
		}
		require.False(t, s.Report().Paused)
	})
}

// TestStoreProbeRefused takes a server that refuses a probe for one that is there.
func TestStoreProbeRefused(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.get = func(ctx context.Context, _ modcache.Key) (io.ReadCloser, error) { return nil, hang(ctx) }
		f.has = func(context.Context, modcache.Key) (bool, error) { return false, fs.ErrPermission }
		s := over(t, f, remote.Options{Signer: signer, Pause: 1 << 62})
		defer s.Close()
		require.Nil(t, first(s.Get(t.Context(), key(1))))
		require.True(t, s.Report().Paused)
		time.Sleep(90 * time.Second) // a pause has a minute at most, and half of it more
		require.Nil(t, first(s.Get(t.Context(), key(1))))
		synctest.Wait()
		require.False(t, s.Report().Paused)
	})
}

// TestStorePausesDiffer keeps a fleet from coming back all at once.
func TestStorePausesDiffer(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		pauses := map[time.Duration]bool{}
		for range 10 {
			f.has = func(context.Context, modcache.Key) (bool, error) { return false, nil }
			f.get = func(ctx context.Context, _ modcache.Key) (io.ReadCloser, error) { return nil, hang(ctx) }
			s := over(t, f, remote.Options{Signer: signer, Pause: 10 * time.Second})
			require.Nil(t, first(s.Get(t.Context(), key(1))))
			start := time.Now()
			for s.Report().Probes == 0 {
				time.Sleep(10 * ms)
				require.Nil(t, first(s.Get(t.Context(), key(1))))
				synctest.Wait()
			}
			pauses[time.Since(start)] = true
			require.InDelta(t, 10, time.Since(start).Seconds(), 5.02)
			require.NoError(t, s.Close())
		}
		require.Greater(t, len(pauses), 5)
	})
}

func TestStoreRefusedConnection(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.get = func(context.Context, modcache.Key) (io.ReadCloser, error) {
			return nil, fmt.Errorf("Get: %w", &net.OpError{Op: "dial", Err: errors.New("connection refused")})
		}
		s := over(t, f, remote.Options{Signer: signer})
		defer s.Close()
		_, _, err := s.Get(t.Context(), key(1))
		require.ErrorContains(t, err, "connection refused")
		_, _, err = s.Get(t.Context(), key(1))
		require.ErrorIs(t, err, modcache.ErrUnavailable)
	})
}

// TestStoreSlowTransfers gives up when waiting for the rest makes no sense.
func TestStoreSlowTransfers(t *testing.T) {
	signer := generate(t)
	o := remote.Options{Signer: signer}
	const compile = 8 * time.Second
	long := modcache.Info{Engine: "e", CompileTime: compile}
	b := entryOf(t, o, key(1), code(1<<20), long)
	for name, c := range map[string]struct {
		body       trickle
		err        string
		least, max time.Duration
	}{
		"fast enough":       {body: trickle{n: len(b)/15 + 1, pause: 100 * ms}, least: 1500 * ms, max: 1950 * ms},
		"stalls at once":    {body: trickle{n: len(b), pause: time.Hour}, err: "stalled", least: 250 * ms, max: 250 * ms},
		"a byte at a time":  {body: trickle{n: 1, pause: 200 * ms}, err: "head of the entry", least: 500 * ms, max: 500 * ms},
		"stalls later":      {body: trickle{n: len(b) / 2, pause: 399 * ms}, least: 1100 * ms, max: 2 * time.Second},
		"stalls too long":   {body: trickle{n: len(b) - 1000, pause: 401 * ms}, err: "stalled", least: 250 * ms, max: 900 * ms},
		"far too slow":      {body: trickle{n: len(b) / 100, pause: 100 * ms}, err: "would take", least: 400 * ms, max: 600 * ms},
		"a little too slow": {body: trickle{n: len(b) / 22, pause: 100 * ms}, err: "budget", least: 2 * time.Second, max: 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.get = func(ctx context.Context, _ modcache.Key) (io.ReadCloser, error) {
					body := c.body
					body.ctx, body.b = ctx, b
					if name == "stalls later" || name == "stalls too long" {
						// The head of the entry comes at once.
						return struct {
							io.Reader
							io.Closer
						}{io.MultiReader(bytes.NewReader(b[:400]), &trickle{ctx, b[400:], c.body.n, c.body.pause}), &body}, nil
					}
					return &body, nil
				}
				s := over(t, f, o)
				defer s.Close()
				d := took(func() {
					a, ok, err := s.Get(t.Context(), key(1))
					if c.err == "" {
						require.NoError(t, err)
						require.True(t, ok)
						require.EqualValues(t, 1<<20, a.Size())
						return
					}
					require.ErrorContains(t, err, c.err)
					require.ErrorIs(t, err, context.DeadlineExceeded)
					r := s.Report()
					require.EqualValues(t, 1, r.Timeouts)
					slow := c.err == "budget" || c.err == "would take"
					require.Equal(t, slow, !r.Paused, "smaller entries may still be worth asking for")
				})
				require.GreaterOrEqual(t, d, c.least)
				require.LessOrEqual(t, d, c.max)
			})
		})
	}
}

// TestStoreCallersContext ends a Get and isn't held against the server.
func TestStoreCallersContext(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.get = func(ctx context.Context, _ modcache.Key) (io.ReadCloser, error) { return nil, hang(ctx) }
		s := over(t, f, remote.Options{Signer: signer})
		defer s.Close()
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(10*ms, cancel)
			d := took(func() {
				_, _, err := s.Get(ctx, key(1))
				require.ErrorIs(t, err, context.Canceled)
			})
			require.Equal(t, 10*ms, d)
		}
		require.False(t, s.Report().Paused)
		require.Zero(t, s.Metrics().Errors)

		// A deadline shorter than our own is a slow server's fault all the same.
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*ms)
			_, _, err := s.Get(ctx, key(1))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
		}
		require.True(t, s.Report().Paused)
	})
}

type busy struct{ after time.Duration }

func (busy) Error() string               { return "busy" }
func (b busy) RetryAfter() time.Duration { return b.after }

func TestStoreServerAsksForTime(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var err error = busy{20 * time.Second}
		f.get = func(context.Context, modcache.Key) (io.ReadCloser, error) { return nil, err }
		s := over(t, f, remote.Options{Signer: signer})
		defer s.Close()
		_, _, got := s.Get(t.Context(), key(1))
		require.ErrorIs(t, got, err)
		f.took()
		err = fs.ErrNotExist
		for took(func() { synctest.Wait() }); s.Report().Probes == 0; time.Sleep(100 * ms) {
			_, _, got := s.Get(t.Context(), key(1))
			require.ErrorIs(t, got, modcache.ErrUnavailable)
			synctest.Wait()
		}
		waited := time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))
		require.GreaterOrEqual(t, waited, 20*time.Second)
		require.LessOrEqual(t, waited, 25*time.Second+200*ms) // jitter, and the steps of this test
	})
}

// TestStoreFailuresInARow has a server that fails fast asked three times.
func TestStoreFailuresInARow(t *testing.T) {
	signer := generate(t)
	o := remote.Options{Signer: signer, AbsentFor: -1}
	good := entry(t, o, key(1), 100)
	bad := bytes.Clone(good)
	bad[len(bad)-1] ^= 1
	for name, fail := range map[string]func() (io.ReadCloser, error){
		"errors":  func() (io.ReadCloser, error) { return nil, errors.New("status 500") },
		"resets":  func() (io.ReadCloser, error) { return io.NopCloser(iotest.ErrReader(errors.New("reset"))), nil },
		"cuts":    func() (io.ReadCloser, error) { return io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF)), nil },
		"damage":  func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(bad)), nil },
		"refuses": func() (io.ReadCloser, error) { return nil, fs.ErrPermission },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.entries[key(1)] = good
				s := over(t, f, o)
				defer s.Close()
				failing := func(context.Context, modcache.Key) (io.ReadCloser, error) { return fail() }
				for range 5 {
					f.get = failing
					for range 2 {
						require.Nil(t, first(s.Get(t.Context(), key(1))))
					}
					f.get = nil
					require.NotNil(t, get(t, s, key(1)), "a success starts the count again")
				}
				f.get = failing
				for range 3 {
					require.Nil(t, first(s.Get(t.Context(), key(1))))
				}
				require.True(t, s.Report().Paused)
				m := s.Metrics()
				require.EqualValues(t, 13, m.Corrupt+m.Errors)
				require.Equal(t, name == "damage", m.Corrupt > 0)
			})
		})
	}
}

func first(a *modcache.Artifact, _ bool, _ error) *modcache.Artifact { return a }

func TestStoreAbsenceIsRemembered(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s := over(t, f, remote.Options{Signer: signer})
		defer s.Close()
		for range 10 {
			require.Nil(t, get(t, s, key(1)))
			time.Sleep(199 * ms)
		}
		require.Equal(t, []string{"get"}, f.took())
		time.Sleep(20 * ms)
		require.Nil(t, get(t, s, key(1)))
		require.Equal(t, []string{"get"}, f.took())
		require.EqualValues(t, 9, s.Report().Remembered)

		require.NoError(t, s.Add(t.Context(), key(1), modcache.NewArtifact(code(10), info)))
		require.NoError(t, s.Flush(t.Context()))
		require.NotNil(t, get(t, s, key(1)), "an upload is known at once")
	})
}

// TestStoreCloseWaits returns when nothing runs any more.
func TestStoreCloseWaits(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.put = func(ctx context.Context, _ modcache.Key, _ []byte, _ bool) error {
			err := hang(ctx)
			time.Sleep(time.Second) // a backend that is slow to stop
			return err
		}
		s := over(t, f, remote.Options{Signer: signer})
		require.NoError(t, s.Add(t.Context(), key(1), modcache.NewArtifact(code(10), info)))
		synctest.Wait()
		require.Equal(t, time.Second, took(func() { require.NoError(t, s.Close()) }))
	})
}

// idle is a body that brings nothing, and doesn't end before an hour is over.
type idle struct{ since time.Time }

func (b idle) Read([]byte) (int, error) {
	time.Sleep(time.Millisecond)
	if time.Since(b.since) > time.Hour {
		return 0, errors.New("read for an hour")
	}
	return 0, nil
}

// TestStoreBodyThatBringsNothing has a backend whose bodies outlive their requests.
func TestStoreBodyThatBringsNothing(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.get = func(context.Context, modcache.Key) (io.ReadCloser, error) { return io.NopCloser(idle{time.Now()}), nil }
		s := over(t, f, remote.Options{Signer: signer})
		require.Less(t, took(func() {
			_, _, err := s.Get(t.Context(), key(1))
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}), time.Minute)
		require.EqualValues(t, 1, s.Metrics().Errors)

		f.has = func(context.Context, modcache.Key) (bool, error) { return true, nil }
		s = over(t, f, remote.Options{Signer: signer, Retries: -1})
		require.NoError(t, add(t, s, key(1), 100))
		require.Less(t, took(func() { require.ErrorIs(t, s.Flush(t.Context()), context.DeadlineExceeded) }), time.Minute)
		require.NoError(t, s.Close())
	})
}

// TestStoreClose ends what is under way.
func TestStoreClose(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.get = func(ctx context.Context, _ modcache.Key) (io.ReadCloser, error) { return nil, hang(ctx) }
		f.put = func(ctx context.Context, _ modcache.Key, _ []byte, _ bool) error { return hang(ctx) }
		s := over(t, f, remote.Options{Signer: signer, FirstByte: time.Hour})
		for i := range 5 {
			require.NoError(t, s.Add(t.Context(), key(byte(i)), modcache.NewArtifact(code(10), info)))
		}
		done := make(chan error)
		go func() {
			_, _, err := s.Get(context.Background(), key(9))
			done <- err
		}()
		synctest.Wait()
		require.Zero(t, took(func() { require.NoError(t, s.Close()) }))
		require.ErrorIs(t, <-done, modcache.ErrClosed)
		require.NoError(t, s.Close())
		err := s.Flush(t.Context())
		require.ErrorContains(t, err, "5 uploads failed")
		require.ErrorIs(t, err, modcache.ErrClosed)
		_, _, err = s.Get(t.Context(), key(1))
		require.ErrorIs(t, err, modcache.ErrClosed)
		require.ErrorIs(t, s.Add(t.Context(), key(1), modcache.NewArtifact(nil, info)), modcache.ErrClosed)
		require.ErrorIs(t, s.Delete(t.Context(), key(1)), modcache.ErrClosed)
		require.Zero(t, s.Report().Queued)
	})
}
