package queue

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/contain"
)

// owner is who a queue belongs to.
type owner struct {
	Queue[string, int]
	mu      sync.Mutex
	workers sync.WaitGroup
	ended   []string // keys; guarded by mu
}

func newOwner(limit int64, workers int, run func(*Job[string, int]) error) *owner {
	o := new(owner)
	o.Queue = Queue[string, int]{Lock: &o.mu, Workers: &o.workers, Max: workers, Limit: limit, Run: run,
		Ended: func(j *Job[string, int], err error) {
			<-j.done
			o.mu.Lock()
			defer o.mu.Unlock()
			o.ended = append(o.ended, j.Key)
		}}
	return o
}

func (o *owner) add(key string, size int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.Add(&Job[string, int]{Key: key, Size: size, Owed: true})
}

func (o *owner) wait(ctx context.Context) error {
	o.mu.Lock()
	all := o.Pending()
	o.mu.Unlock()
	return Wait(ctx, all)
}

func (o *owner) takeLost() Lost[string] {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.TakeLost()
}

func (o *owner) callOff(key string) (*Job[string, int], <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.CallOff(key)
}

func TestQueueRunsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order string
		o := newOwner(100, 1, func(j *Job[string, int]) error {
			time.Sleep(time.Second)
			order += j.Key
			return nil
		})
		start := time.Now()
		for _, key := range []string{"a", "b", "c"} {
			require.NoError(t, o.add(key, 10))
		}
		o.mu.Lock()
		require.Equal(t, "b", o.Find("b").Key)
		require.Nil(t, o.Find("d"))
		jobs, size := o.Held()
		require.Equal(t, 3, jobs)
		require.EqualValues(t, 30, size)
		o.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		require.ErrorIs(t, o.wait(ctx), context.DeadlineExceeded)
		require.NoError(t, o.wait(t.Context()))
		require.Equal(t, "abc", order)
		require.Equal(t, 3*time.Second, time.Since(start))
		o.workers.Wait()
		require.NoError(t, o.add("d", 10), "there is a worker again when there is work")
		require.NoError(t, o.wait(t.Context()))
		require.Equal(t, "abcd", order)
		o.workers.Wait()
		require.Equal(t, []string{"a", "b", "c", "d"}, o.ended)
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var now atomic.Int64
		o := newOwner(100, 2, func(*Job[string, int]) error {
			now.Add(1)
			<-release
			return nil
		})
		for _, key := range []string{"a", "b", "c"} {
			require.NoError(t, o.add(key, 33))
		}
		require.EqualError(t, o.add("d", 2), "2 bytes don't fit the queue, which holds 99 of at most 100")
		require.NoError(t, o.add("d", 1))
		synctest.Wait()
		require.EqualValues(t, 2, now.Load(), "workers")
		close(release)
		require.NoError(t, o.wait(t.Context()))
		require.EqualValues(t, 4, now.Load())
		_, size := o.Held()
		require.Zero(t, size)
		o.workers.Wait()

		release = make(chan struct{})
		require.NoError(t, o.add("e", 101), "alone")
		require.NoError(t, o.add("f", 100), "beside it")
		require.Error(t, o.add("g", 1))
		require.Error(t, o.add("h", 101))
		close(release)
		require.NoError(t, o.wait(t.Context()))
		require.NoError(t, o.add("h", 101))
		o.workers.Wait()
	})
}

func TestQueueCallsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var done []string
		o := newOwner(100, 1, func(j *Job[string, int]) error {
			time.Sleep(time.Second)
			done = append(done, j.Key)
			return nil
		})
		for _, key := range []string{"a", "b", "c"} {
			require.NoError(t, o.add(key, 10))
		}
		synctest.Wait()
		dropped, running := o.callOff("b")
		require.Equal(t, "b", dropped.Key)
		require.Nil(t, running)
		dropped, running = o.callOff("a")
		require.Nil(t, dropped)
		<-running
		dropped, running = o.callOff("a")
		require.Nil(t, dropped)
		require.Nil(t, running)
		require.NoError(t, o.wait(t.Context()))
		require.Equal(t, []string{"a", "c"}, done)
		_, size := o.Held()
		require.Zero(t, size)
	})
}

func TestQueueRemembersLosses(t *testing.T) {
	boom := errors.New("boom")
	for name, run := range map[string]func() error{
		"fails":  func() error { return boom },
		"panics": func() error { panic(boom) },
		"exits":  func() error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			o := newOwner(100, 1, func(j *Job[string, int]) error {
				if j.Key == "good" {
					return nil
				}
				return run()
			})
			for _, key := range []string{"a", "good", "b", "good too"} {
				require.NoError(t, o.add(key, 1))
			}
			o.mu.Lock()
			o.Lose("early", boom)
			o.mu.Unlock()
			require.NoError(t, o.wait(t.Context()))
			lost := o.takeLost()
			require.Equal(t, 4, lost.N)
			if name == "exits" {
				require.ErrorIs(t, lost.Err, contain.ErrExited)
			} else {
				require.ErrorIs(t, lost.Err, boom)
			}
			require.Zero(t, o.takeLost(), "once")
			o.workers.Wait()
		})
	}
}

func TestQueueOfJobsTheCallerDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(1, 1, func(j *Job[string, int]) error { time.Sleep(time.Second); return errors.New("nobody minds") })
		j := &Job[string, int]{Key: "a", Size: 1}
		o.mu.Lock()
		o.Begin(j)
		o.mu.Unlock()
		require.Error(t, o.add("b", 1))
		go o.Do(j)
		_, running := o.callOff("a")
		<-running
		require.Zero(t, o.takeLost())
		require.NoError(t, o.add("b", 1))
		o.workers.Wait()
	})
}
