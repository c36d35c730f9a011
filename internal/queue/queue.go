// Package queue does work in the background: by key, in order, and bounded by what the
// work holds in memory.
package queue

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/modcache/modcache/internal/contain"
)

// Queue is the jobs that wait and those under way, one for each key. Worker goroutines
// exist only while there is something to do. It is used under a lock of the owner's, so
// that looking at something else and adding a job are one step.
type Queue[K comparable, V any] struct {
	Lock    sync.Locker             // guards the queue
	Workers *sync.WaitGroup         // counts them, for who waits for their end
	Max     int                     // of them
	Limit   int64                   // of the sizes of all jobs together
	Run     func(*Job[K, V]) error  // does the work, without Lock; contained
	Ended   func(*Job[K, V], error) // if set, is called without Lock when nobody waits for the job any more

	waiting []*Job[K, V]
	pending map[K]*Job[K, V] // waiting and running
	size    int64            // of those
	large   int64            // of those that are larger than Limit
	workers int
	lost    Lost[K]
}

// Job is one piece of work.
type Job[K comparable, V any] struct {
	Key   K
	Value V
	Size  int64
	Owed  bool // that it fails is remembered, for TakeLost; guarded by Lock

	running bool          // guarded by Lock
	done    chan struct{} // closed when it has ended, or was called off
}

// Fits returns an error if there is no room for a job of that size. One that is larger than Limit has room of its own, if it is the only
// one: else it would be left out each time. Lock is held.
func (q *Queue[K, V]) Fits(size int64) error {
	switch {
	case size > q.Limit && q.large == 0:
	case size > q.Limit-(q.size-q.large):
		return fmt.Errorf("%d bytes don't fit the queue, which holds %d of at most %d", size, q.size, q.Limit)
	}
	return nil
}

// Find returns the job for key, or nil. Lock is held.
func (q *Queue[K, V]) Find(key K) *Job[K, V] { return q.pending[key] }

// Add has the job done, for whose key there is none, once a worker has time. Lock is held.
func (q *Queue[K, V]) Add(j *Job[K, V]) error {
	if err := q.Fits(j.Size); err != nil {
		return err
	}
	q.enter(j)
	q.waiting = append(q.waiting, j)
	if q.workers < q.Max {
		q.workers++
		q.Workers.Add(1)
		go q.work()
	}
	return nil
}

// Begin enters a job, for whose key there is none, that the caller does itself, by Do.
// There is always room for it. Lock is held.
func (q *Queue[K, V]) Begin(j *Job[K, V]) {
	q.enter(j)
	j.running = true
}

func (q *Queue[K, V]) enter(j *Job[K, V]) {
	if q.pending == nil {
		q.pending = make(map[K]*Job[K, V])
	}
	j.done = make(chan struct{})
	q.pending[j.Key] = j
	q.size += j.Size
	if j.Size > q.Limit {
		q.large += j.Size
	}
}

// leave ends a job; Lock is held.
func (q *Queue[K, V]) leave(j *Job[K, V]) {
	delete(q.pending, j.Key)
	q.size -= j.Size
	if j.Size > q.Limit {
		q.large -= j.Size
	}
	close(j.done)
}

func (q *Queue[K, V]) work() {
	ended := false
	defer func() {
		if !ended { // a job has ended this goroutine
			go q.work()
			return
		}
		q.Workers.Done()
	}()
	for j := q.next(); j != nil; j = q.next() {
		q.Do(j)
	}
	ended = true
}

// next returns the job that a worker does next; nil if the worker has to end.
func (q *Queue[K, V]) next() *Job[K, V] {
	q.Lock.Lock()
	defer q.Lock.Unlock()
	if len(q.waiting) == 0 {
		q.waiting = nil
		q.workers--
		return nil
	}
	j := q.waiting[0]
	q.waiting[0] = nil
	q.waiting = q.waiting[1:]
	j.running = true
	return j
}

// Do does a job that has begun. Lock isn't held.
func (q *Queue[K, V]) Do(j *Job[K, V]) {
	err := contain.ErrExited // unless Run returns
	defer func() {
		q.Lock.Lock()
		q.leave(j)
		if j.Owed && err != nil {
			q.Lose(j.Key, err)
		}
		q.Lock.Unlock()
		if q.Ended != nil {
			q.Ended(j, err)
		}
	}()
	err = contain.Call(func() error { return q.Run(j) })
}

// CallOff drops the job for key if it is waiting, and returns it. If it is running, the
// channel is closed when it has ended. Lock is held.
func (q *Queue[K, V]) CallOff(key K) (dropped *Job[K, V], running <-chan struct{}) {
	j := q.pending[key]
	switch {
	case j == nil:
		return nil, nil
	case j.running:
		return nil, j.done
	}
	i := slices.Index(q.waiting, j)
	q.waiting = slices.Delete(q.waiting, i, i+1)
	q.leave(j)
	return j, nil
}

// Pending returns channels that are closed when the jobs which are there now have ended.
// Lock is held.
func (q *Queue[K, V]) Pending() (all []<-chan struct{}) {
	for _, j := range q.pending {
		all = append(all, j.done)
	}
	return all
}

// Wait returns when all channels are closed, or an error if ctx ends first.
func Wait(ctx context.Context, all []<-chan struct{}) error {
	for _, done := range all {
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("background writes are still under way: %w", ctx.Err())
		}
	}
	return nil
}

// Held returns the number of jobs and the sum of their sizes. Lock is held.
func (q *Queue[K, V]) Held() (jobs int, size int64) { return len(q.pending), q.size }

// Lost says which owed jobs came to nothing.
type Lost[K comparable] struct {
	N   int
	Key K     // of the last
	Err error // of the last
}

// Lose notes that an owed job came to nothing, perhaps before it was added. Lock is held.
func (q *Queue[K, V]) Lose(key K, err error) { q.lost = Lost[K]{q.lost.N + 1, key, err} }

// TakeLost returns what was lost since it was called before. Lock is held.
func (q *Queue[K, V]) TakeLost() (lost Lost[K]) {
	lost, q.lost = q.lost, lost
	return lost
}
