package remote_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/remote"
)

func add(t testing.TB, s *remote.Store, k modcache.Key, size int) error {
	t.Helper()
	return s.Add(context.Background(), k, modcache.NewArtifact(code(size), info))
}

func TestStoreUploadOnce(t *testing.T) {
	signer := generate(t)
	f := newFake()
	s := over(t, f, remote.Options{Signer: signer})
	defer s.Close()
	for range 3 {
		require.NoError(t, add(t, s, key(1), 1000))
		require.NoError(t, s.Flush(t.Context()))
	}
	require.Equal(t, []string{"has", "put", "has", "get", "has", "get"}, f.took())

	f.has = func(context.Context, modcache.Key) (bool, error) { return false, nil }
	f.put = func(context.Context, modcache.Key, []byte, bool) error { return fmt.Errorf("412: %w", fs.ErrExist) }
	require.NoError(t, add(t, s, key(1), 1000))
	require.NoError(t, s.Flush(t.Context()), "somebody was faster")
	r := s.Report()
	require.Equal(t, [4]uint64{1, 3, 0, 0}, [4]uint64{r.Uploads, r.Present, r.Lost, r.Retries})
	require.Zero(t, r.Queued)
}

// TestStoreUploadWithoutLooking uploads where HEAD isn't allowed.
func TestStoreUploadWithoutLooking(t *testing.T) {
	f := newFake()
	f.has = func(context.Context, modcache.Key) (bool, error) {
		return false, fmt.Errorf("403: %w", fs.ErrPermission)
	}
	s := over(t, f, remote.Options{Signer: generate(t)})
	defer s.Close()
	require.NoError(t, add(t, s, key(1), 1000))
	require.NoError(t, s.Flush(t.Context()))
	require.NotNil(t, f.entry(key(1)))
}

// TestStoreDamageIsReplaced has an entry that can't be used overwritten by the next Add.
func TestStoreDamageIsReplaced(t *testing.T) {
	mine, theirs := generate(t), generate(t)
	for name, b := range map[string][]byte{
		"html":        []byte("<html>Welcome to the hotel network</html>"),
		"empty":       {},
		"truncated":   entry(t, remote.Options{Signer: mine}, key(1), 5000)[:1500],
		"swapped":     entry(t, remote.Options{Signer: mine}, key(2), 5000),
		"not trusted": entry(t, remote.Options{Signer: theirs}, key(1), 5000),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.entries[key(1)] = b
			var events []modcache.Event
			s := over(t, f, remote.Options{Signer: mine, Name: "fleet", OnEvent: func(e modcache.Event) { events = append(events, e) }})
			defer s.Close()
			require.Nil(t, get(t, s, key(1)), "damage is a miss")
			require.EqualValues(t, 1, s.Metrics().Corrupt)
			require.Len(t, events, 2)
			require.Equal(t, modcache.EventCorrupt, events[0].Kind)
			want, reason := modcache.ErrCorrupt, modcache.ReasonCorrupt
			if name == "not trusted" {
				want, reason = modcache.ErrAuth, modcache.ReasonAuth
				require.ErrorContains(t, events[0].Err, theirs.Public().ID().String(), "the id that is missing in the keyring, or revoked")
				require.EqualValues(t, 1, s.Report().Untrusted)
				for range 5 {
					require.Nil(t, get(t, s, key(1)))
				}
				require.False(t, s.Report().Paused, "a revoked key isn't the server's fault")
				require.Equal(t, slices.Repeat([]string{"get"}, 5), f.took()[1:])
				f.called("get")
			}
			require.ErrorIs(t, events[0].Err, want)
			require.Equal(t, reason, events[1].Reason)
			require.Equal(t, "fleet", events[1].Layer)

			require.NoError(t, add(t, s, key(1), 5000))
			require.NoError(t, s.Flush(t.Context()))
			require.NotNil(t, get(t, s, key(1)))
			require.Equal(t, []string{"get", "replace", "get"}, f.took())
		})
	}
}

// TestStoreUploadReplaces what nobody can use, though no lookup has found it: a fleet whose key was rotated would stay cold.
func TestStoreUploadReplaces(t *testing.T) {
	mine, theirs := generate(t), generate(t)
	good := entry(t, remote.Options{Signer: mine}, key(1), 5000)
	cut := func(ctx context.Context, _ modcache.Key) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(good[:50]), iotest.ErrReader(io.ErrUnexpectedEOF))), nil
	}
	answer := func(err error) func(context.Context, modcache.Key) (io.ReadCloser, error) {
		return func(context.Context, modcache.Key) (io.ReadCloser, error) { return nil, err }
	}
	for name, c := range map[string]struct {
		there []byte
		get   func(context.Context, modcache.Key) (io.ReadCloser, error)
		want  []string
		fails bool
	}{
		"revoked":      {there: entry(t, remote.Options{Signer: theirs}, key(1), 5000), want: []string{"has", "get", "replace"}},
		"html":         {there: []byte("<html>Welcome to the hotel network</html>"), want: []string{"has", "get", "replace"}},
		"empty":        {there: []byte{}, want: []string{"has", "get", "replace"}},
		"swapped":      {there: entry(t, remote.Options{Signer: mine}, key(2), 5000), want: []string{"has", "get", "replace"}},
		"intact":       {there: good, want: []string{"has", "get"}},
		"cut":          {there: good, get: cut, want: []string{"has", "get"}, fails: true},
		"gone":         {there: good, get: answer(fs.ErrNotExist), want: []string{"has", "get", "put"}},
		"not for us":   {there: good, get: answer(fs.ErrPermission), want: []string{"has", "get"}},
		"too large":    {there: good, get: answer(modcache.ErrTooLarge), want: []string{"has", "get"}},
		"out of order": {there: good, get: answer(errors.New("status 500")), want: []string{"has", "get"}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			f.entries[key(1)], f.get = c.there, c.get
			s := over(t, f, remote.Options{Signer: mine, Retries: -1})
			defer s.Close()
			require.NoError(t, add(t, s, key(1), 5000))
			err := s.Flush(t.Context())
			require.Equal(t, c.fails, err != nil, err)
			require.Equal(t, c.want, f.took())
			r := s.Report()
			require.Equal(t, !c.fails && len(c.want) == 2, r.Present == 1)
			require.EqualValues(t, len(c.want)-2, r.Uploads)
			if f.get = nil; len(c.want) == 3 {
				require.NotNil(t, get(t, s, key(1)))
			}
		})
	}
}

// TestStoreRetries has a server fail for a while.
func TestStoreRetries(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		failures := 3
		f.put = func(context.Context, modcache.Key, []byte, bool) error {
			if failures--; failures >= 0 {
				return errors.New("status 502")
			}
			return nil
		}
		s := over(t, f, remote.Options{Signer: signer})
		defer s.Close()
		require.NoError(t, add(t, s, key(1), 1000))
		d := took(func() { require.NoError(t, s.Flush(t.Context())) })
		require.GreaterOrEqual(t, d, (500+1000+2000)/2*ms)
		require.LessOrEqual(t, d, (500+1000+2000)*3/2*ms)
		require.EqualValues(t, 3, s.Report().Retries)

		failures = 1000
		require.NoError(t, add(t, s, key(2), 1000))
		ctx, cancel := context.WithTimeout(t.Context(), 10*ms)
		require.ErrorIs(t, s.Flush(ctx), context.DeadlineExceeded)
		cancel()
		err := s.Flush(t.Context())
		require.ErrorContains(t, err, "given up after 5 attempts: status 502")
		require.NoError(t, s.Flush(t.Context()), "reported once")
		m, r := s.Metrics(), s.Report()
		require.Equal(t, [3]uint64{1, 1, 2}, [3]uint64{r.Lost, m.Errors, m.FlushErrors})
		require.False(t, r.Paused, "a server that takes nothing may still be read")
	})
}

// TestStoreUploadsToNobody has one upload after the other find out that nothing arrives: together, they wait about as
// long as one of them would.
func TestStoreUploadsToNobody(t *testing.T) {
	signer := generate(t)
	never := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, c := range map[string]struct {
		has func(context.Context, modcache.Key) (bool, error)
		put func(context.Context, modcache.Key, []byte, bool) error
		get error
		max time.Duration
	}{
		"hangs":      {has: func(ctx context.Context, _ modcache.Key) (bool, error) { return false, never(ctx) }, max: 10 * time.Minute},
		"only reads": {put: func(ctx context.Context, _ modcache.Key, _ []byte, _ bool) error { return never(ctx) }, max: 10 * time.Minute},
		"fails":      {put: func(context.Context, modcache.Key, []byte, bool) error { return errors.New("status 502") }, max: 2 * time.Minute},
		"nobody listens": {has: func(context.Context, modcache.Key) (bool, error) {
			return false, &net.OpError{Op: "dial", Err: errors.New("refused")}
		}, max: 2 * time.Minute},
		"asks for seconds":    {put: func(context.Context, modcache.Key, []byte, bool) error { return busy{20 * time.Second} }, max: 2 * time.Minute},
		"asks for a minute":   {has: func(context.Context, modcache.Key) (bool, error) { return false, busy{time.Minute} }, max: 2 * time.Minute},
		"asks for 10 minutes": {put: func(context.Context, modcache.Key, []byte, bool) error { return busy{10 * time.Minute} }, max: time.Second},
		"asks who reads":      {put: func(context.Context, modcache.Key, []byte, bool) error { return errors.New("status 502") }, get: busy{10 * time.Minute}, max: 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.has, f.put = c.has, c.put
				s := over(t, f, remote.Options{Signer: signer})
				defer s.Close()
				if c.get != nil {
					f.get = func(context.Context, modcache.Key) (io.ReadCloser, error) { return nil, c.get }
					_, _, err := s.Get(t.Context(), key(1))
					require.ErrorIs(t, err, c.get)
				}
				const n = 200
				for i := range n {
					require.NoError(t, add(t, s, key(byte(i)), 1000))
				}
				var err error
				require.Less(t, took(func() { err = s.Flush(t.Context()) }), c.max)
				require.Error(t, err)
				require.NotContains(t, err.Error(), "\n")
				require.EqualValues(t, n, s.Report().Lost)
				require.Less(t, len(f.took()), 40)

				// One that comes when the pause is over has one attempt, and if that succeeds all have it again.
				time.Sleep(15 * time.Minute)
				require.NoError(t, add(t, s, key(n), 1000))
				require.Error(t, s.Flush(t.Context()))
				time.Sleep(15 * time.Minute)
				f.has, f.put = nil, nil
				for i := range n {
					require.NoError(t, add(t, s, key(byte(i)), 1000))
				}
				require.NoError(t, s.Flush(t.Context()))
				require.EqualValues(t, n, s.Report().Uploads)
			})
		})
	}
}

func TestStoreUploadsThatAreNotTriedAgain(t *testing.T) {
	signer := generate(t)
	f := newFake()
	f.put = func(_ context.Context, _ modcache.Key, b []byte, _ bool) error {
		if len(b) > 5000 {
			return fmt.Errorf("413: %w", modcache.ErrTooLarge)
		}
		return nil
	}
	s := over(t, f, remote.Options{Signer: signer})
	defer s.Close()
	require.NoError(t, add(t, s, key(1), 40_000))
	require.ErrorIs(t, s.Flush(t.Context()), modcache.ErrTooLarge)
	require.Equal(t, []string{"has", "put"}, f.took())
	require.NoError(t, add(t, s, key(2), 40_000))
	require.ErrorIs(t, s.Flush(t.Context()), modcache.ErrTooLarge)
	require.Equal(t, []string{"has"}, f.took(), "no upload of a size that was refused")
	require.NoError(t, add(t, s, key(3), 1000))
	require.NoError(t, s.Flush(t.Context()))
	require.NotNil(t, f.entry(key(3)))
	f.took()

	f.put = func(context.Context, modcache.Key, []byte, bool) error {
		return fmt.Errorf("403: %w", fs.ErrPermission)
	}
	require.NoError(t, add(t, s, key(4), 1000))
	require.ErrorIs(t, s.Flush(t.Context()), fs.ErrPermission)
	require.Equal(t, []string{"has", "put"}, f.took())
}

// TestStoreForgetsThatItWasTooLarge uploads again what a server refused for a moment, or until its limit was raised.
func TestStoreForgetsThatItWasTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.put = func(context.Context, modcache.Key, []byte, bool) error {
			return fmt.Errorf("413: %w", modcache.ErrTooLarge)
		}
		s := over(t, f, remote.Options{Signer: generate(t)})
		defer s.Close()
		upload := func() error {
			require.NoError(t, add(t, s, key(1), 1000))
			return s.Flush(t.Context())
		}
		require.ErrorIs(t, upload(), modcache.ErrTooLarge)
		f.put = nil
		time.Sleep(59 * time.Minute)
		require.ErrorIs(t, upload(), modcache.ErrTooLarge)
		time.Sleep(time.Minute)
		require.NoError(t, upload())
	})
}

func TestStoreQueueIsBounded(t *testing.T) {
	signer := generate(t)
	f := newFake()
	release := make(chan struct{})
	var most, now atomic.Int64
	f.put = func(ctx context.Context, _ modcache.Key, _ []byte, _ bool) error {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		<-release
		return nil
	}
	s := over(t, f, remote.Options{Signer: signer, Queue: 5000, MaxSize: 1 << 20})
	defer s.Close()
	for i := range 5 {
		require.NoError(t, add(t, s, key(byte(i)), 1000))
		require.NoError(t, add(t, s, key(byte(i)), 1000), "queued already")
	}
	err := add(t, s, key(7), 1)
	require.ErrorContains(t, err, "1 bytes don't fit the queue, which holds 5000 of at most 5000")
	require.ErrorIs(t, err, modcache.ErrUnavailable)
	require.EqualValues(t, 5000, s.Report().Queued)
	close(release)
	require.ErrorContains(t, s.Flush(t.Context()), "1 uploads failed")
	require.EqualValues(t, 1, s.Report().Lost)
	require.NoError(t, s.Flush(t.Context()), "once")
	require.Zero(t, s.Report().Queued)
	require.EqualValues(t, 1, s.Metrics().RejectedAdds)
	require.LessOrEqual(t, most.Load(), int64(2))
	require.NoError(t, add(t, s, key(7), 5001), "one alone may be larger")
	require.NoError(t, s.Flush(t.Context()))
	require.Len(t, f.entries, 6)

	require.ErrorIs(t, s.Add(t.Context(), key(8), modcache.NewArtifact(make([]byte, 1<<20+1), info)), modcache.ErrTooLarge)
}

// TestStoreDeleteForgetsUpload has a Delete overtake an upload that waits.
func TestStoreDeleteForgetsUpload(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.put = func(context.Context, modcache.Key, []byte, bool) error { time.Sleep(time.Second); return nil }
		s := over(t, f, remote.Options{Signer: signer, Uploads: -1})
		defer s.Close()
		require.NoError(t, add(t, s, key(1), 10))
		synctest.Wait()
		require.NoError(t, add(t, s, key(2), 10))
		require.NoError(t, s.Delete(t.Context(), key(2)))
		require.NoError(t, s.Flush(t.Context()))
		require.Nil(t, f.entry(key(2)))
		require.NotNil(t, f.entry(key(1)))
	})
}

// failing is an artifact's source that can't be read.
type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errors.New("disk on fire") }

func TestStoreArtifactThatCantBeRead(t *testing.T) {
	s := over(t, newFake(), remote.Options{Signer: generate(t)})
	defer s.Close()
	err := s.Add(t.Context(), key(1), modcache.NewArtifactFrom(failing{}, 10, info))
	require.ErrorContains(t, err, "disk on fire")
	require.NoError(t, s.Flush(t.Context()))
}

// TestStoreContainsItsBackend survives what a Backend does, in the background and for a caller.
func TestStoreContainsItsBackend(t *testing.T) {
	signer := generate(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.get = func(ctx context.Context, _ modcache.Key) (io.ReadCloser, error) { return nil, hang(ctx) }
		s := over(t, f, remote.Options{Signer: signer, Retries: -1, OnEvent: func(modcache.Event) { panic("observer") }})
		defer s.Close()
		f.has = func(context.Context, modcache.Key) (bool, error) { panic("boom") }
		require.NoError(t, add(t, s, key(1), 10))
		require.ErrorContains(t, s.Flush(t.Context()), "boom")
		f.has = func(context.Context, modcache.Key) (bool, error) { runtime.Goexit(); return false, nil }
		require.NoError(t, add(t, s, key(1), 10))
		require.ErrorContains(t, s.Flush(t.Context()), "ended its goroutine")
		require.EqualValues(t, 2, s.Report().Lost)

		f.has = func(context.Context, modcache.Key) (bool, error) { panic("boom") }
		require.Nil(t, first(s.Get(t.Context(), key(2))))
		require.True(t, s.Report().Paused)
		for range 3 {
			time.Sleep(2 * time.Minute)
			require.Nil(t, first(s.Get(t.Context(), key(2))))
			synctest.Wait()
		}
		require.EqualValues(t, 3, s.Report().Probes)
		require.True(t, s.Report().Paused)
	})
	for want, end := range map[string]func(){"boom": func() { panic("boom") }, "ended its goroutine": runtime.Goexit} {
		f := newFake()
		s := over(t, f, remote.Options{Signer: signer})
		for _, get := range []func(context.Context, modcache.Key) (io.ReadCloser, error){
			func(context.Context, modcache.Key) (io.ReadCloser, error) { end(); return nil, nil },
			func(context.Context, modcache.Key) (io.ReadCloser, error) { return io.NopCloser(ending(end)), nil },
			func(context.Context, modcache.Key) (io.ReadCloser, error) {
				return nil, fmt.Errorf("%s: %w", want, leaving{end})
			},
		} {
			f.get = get
			err := error(contain.ErrExited) // of this goroutine
			var wg sync.WaitGroup
			wg.Go(func() { _, _, err = s.Get(t.Context(), key(1)) })
			wg.Wait()
			require.ErrorContains(t, err, "remote a fake: get")
			require.ErrorContains(t, err, want)
		}
		require.NoError(t, s.Close())
	}
}

// leaving is an error that ends the goroutine, or panics, when it is asked for how long.
type leaving struct{ end func() }

func (leaving) Error() string               { return "busy" }
func (b leaving) RetryAfter() time.Duration { b.end(); return 0 }

// ending is a reader that does something else.
type ending func()

func (e ending) Read([]byte) (int, error) { e(); return 0, io.EOF }

func TestStoreErrors(t *testing.T) {
	f := newFake()
	f.get = func(context.Context, modcache.Key) (io.ReadCloser, error) { return nil, errors.New("status 500") }
	f.put = func(context.Context, modcache.Key, []byte, bool) error { return fs.ErrPermission }
	s := over(t, f, remote.Options{Signer: generate(t), MaxSize: 100})
	k := key(1).String()
	_, _, err := s.Get(t.Context(), key(1))
	require.EqualError(t, err, "modcache: remote a fake: get "+k+": status 500")
	l := modcache.NewLayered(nil, modcache.Layer{Store: s, Name: "fleet", Timeout: -1})
	defer l.Close()
	_, _, err = l.Get(t.Context(), key(1))
	require.EqualError(t, err, "modcache: layer fleet: get "+k+": remote a fake: status 500")
	require.EqualError(t, add(t, s, key(1), 101), "modcache: remote a fake: add "+k+": artifact is too large: 101 bytes, at most 100 are uploaded")
	require.NoError(t, add(t, s, key(1), 10))
	require.EqualError(t, s.Flush(t.Context()), "modcache: remote a fake: flush: 1 uploads failed, the last that of "+k+": permission denied")
	require.NoError(t, s.Close())
	require.EqualError(t, s.Delete(t.Context(), key(1)), "modcache: remote a fake: delete "+k+": closed")
	require.EqualError(t, s.Flush(t.Context()), "modcache: remote a fake: flush: closed")
}

// TestStoreReportsEachGetOnce: each Get is followed by one hit or miss, whatever becomes of it.
func TestStoreReportsEachGetOnce(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	f := newFake()
	var got []modcache.Reason
	s := over(t, f, remote.Options{Signer: generate(t), AbsentFor: -1, OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventHit || e.Kind == modcache.EventMiss {
			got = append(got, e.Reason)
		}
	}})
	require.Nil(t, get(t, s, key(1)))
	_, _, err := s.Get(ended, key(1))
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, add(t, s, key(1), 10))
	require.NoError(t, s.Flush(t.Context()))
	require.NotNil(t, get(t, s, key(1)))
	require.NoError(t, s.Close())
	for _, ctx := range []context.Context{t.Context(), ended} {
		_, _, err = s.Get(ctx, key(1))
		require.ErrorIs(t, err, modcache.ErrClosed)
	}
	require.Equal(t, []modcache.Reason{modcache.ReasonAbsent, modcache.ReasonTimeout, 0, modcache.ReasonIO, modcache.ReasonIO}, got)
	m := s.Metrics()
	require.Equal(t, [3]uint64{5, 1, 4}, [3]uint64{m.Lookups, m.Hits, m.Misses})

	b, err := json.Marshal(s.Report())
	require.NoError(t, err)
	require.Contains(t, string(b), `"too_large":0,"downloaded":`)
}

// TestStoreUploadsBesideWhatCantBeReplaced has a server that keeps what a revoked signer has left.
func TestStoreUploadsBesideWhatCantBeReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const entries = 20
		f, revoked := newFake(), generate(t)
		upload := func(o remote.Options, from, n int) (remote.Report, error) {
			s := over(t, f, o)
			defer s.Close()
			for i := range n {
				require.NoError(t, add(t, s, key(byte(from+i)), 10))
			}
			err := s.Flush(t.Context())
			return s.Report(), err
		}
		_, err := upload(remote.Options{Signer: revoked}, 0, entries)
		require.NoError(t, err)
		f.put = func(_ context.Context, k modcache.Key, entry []byte, _ bool) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.entries[k] != nil {
				return fmt.Errorf("immutable: %w", fs.ErrExist)
			}
			f.entries[k] = entry
			return nil
		}
		r, err := upload(remote.Options{Signer: generate(t), Keyring: remote.Keyring{Revoked: []remote.KeyID{revoked.Public().ID()}}}, 0, 2*entries)
		require.ErrorContains(t, err, "20 uploads failed")
		require.ErrorContains(t, err, "lets nobody replace it")
		require.EqualValues(t, entries, r.Uploads)
		require.EqualValues(t, entries, r.Lost)
		require.Zero(t, r.Retries)
	})
}

// TestStoreUploadsNothingInThePlaceOfWhatWasMended: what was damaged was replaced by another node meanwhile, and can't be again.
func TestStoreUploadsNothingInThePlaceOfWhatWasMended(t *testing.T) {
	f, o := newFake(), remote.Options{Signer: generate(t)}
	s := over(t, f, o)
	defer s.Close()
	f.entries[key(1)] = []byte("damage")
	require.Nil(t, get(t, s, key(1)))
	f.entries[key(1)] = entry(t, o, key(1), 10)
	f.put = func(context.Context, modcache.Key, []byte, bool) error { return fs.ErrExist }
	require.NoError(t, add(t, s, key(1), 10))
	require.NoError(t, s.Flush(t.Context()))
	require.EqualValues(t, 1, s.Report().Present)
}

// TestStoreUploadInThePlaceOfAnAlias counts it as present where the server doesn't let anything be replaced.
func TestStoreUploadInThePlaceOfAnAlias(t *testing.T) {
	f := newFake()
	s := over(t, f, remote.Options{Signer: generate(t)})
	defer s.Close()
	alias := modcache.NewArtifact([]byte("alias"), modcache.Info{Engine: info.Engine, Module: info.Module})
	require.NoError(t, s.Add(t.Context(), key(1), alias))
	require.NoError(t, s.Flush(t.Context()))

	f.put = func(context.Context, modcache.Key, []byte, bool) error {
		return fmt.Errorf("immutable: %w", fs.ErrExist)
	}
	f.took()
	require.NoError(t, add(t, s, key(1), 1000))
	require.NoError(t, s.Flush(t.Context()))
	require.Equal(t, []string{"has", "get", "replace"}, f.took())
	require.EqualValues(t, 1, s.Report().Present)

	f.put = func(context.Context, modcache.Key, []byte, bool) error {
		f.put = nil
		return errors.New("status 502")
	}
	require.NoError(t, add(t, s, key(1), 1000))
	require.NoError(t, s.Flush(t.Context()))
	require.EqualValues(t, 2, s.Report().Uploads, "it is tried again")
	require.NoError(t, s.Add(t.Context(), key(1), alias))
	require.NoError(t, s.Flush(t.Context()))
	require.EqualValues(t, 2, s.Report().Present)
	got, err := get(t, s, key(1)).Bytes()
	require.NoError(t, err)
	require.Equal(t, code(1000), got)
}
