package modcache

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// queue holds the background writes of one layer: deferred ones and promotions.
// A worker goroutine exists only while there is work.
type queue struct {
	waiting []*job
	pending map[Key]*job // waiting and running, by what they write
	bytes   int64        // of all artifacts held here
	working bool         // there is a worker

	dropped uint64 // jobs that found no room
	lost    uint64 // deferred writes that came to nothing since the last Flush
	lastErr error  // why the last of them did
}

// job is one artifact on its way into a layer.
type job struct {
	key  Key
	a    *Artifact     // the job's own handle
	from *layer        // where a promotion comes from; nil if it is none
	done chan struct{} // closed when the job has ended, or is called off

	// Guarded by Layered.mu:
	owed    bool // a deferred write, whose loss is told
	running bool
	off     bool // called off
}

// newJob makes a pending job, which takes the handle over; mu is held.
func (l *Layered) newJob(ly *layer, key Key, own *Artifact, from *layer) *job {
	j := &job{key: key, a: own, from: from, done: make(chan struct{}), owed: from == nil}
	ly.queue.pending[key] = j
	ly.queue.bytes += own.Size()
	return j
}

// writeBehind queues a deferred write.
func (l *Layered) writeBehind(ly *layer, key Key, a *Artifact) error {
	l.mu.Lock()
	err := l.enqueue(ly, key, a, nil)
	if err != nil {
		ly.queue.lost++
		ly.queue.lastErr = err
	}
	l.mu.Unlock()
	if err != nil {
		notify(ly.observe, Event{Kind: EventStoreFailed, Key: key, Layer: ly.Name, Err: err})
	}
	return err
}

// enqueue leaves the writing of a to the layer's worker; mu is held.
func (l *Layered) enqueue(ly *layer, key Key, a *Artifact, from *layer) error {
	q := &ly.queue
	if j := q.pending[key]; j != nil { // on its way already
		j.owed = j.owed || from == nil
		return nil
	}
	if limit := l.options.QueueBytes; limit > 0 && a.Size() > limit-q.bytes {
		q.dropped++
		return ly.wrap("add", key, fmt.Errorf("%w: %d bytes don't fit its queue, which holds %d of at most %d", ErrUnavailable, a.Size(), q.bytes, limit))
	}
	own, err := a.share()
	if err != nil {
		return ly.wrap("add", key, err)
	}
	q.waiting = append(q.waiting, l.newJob(ly, key, own, from))
	if !q.working {
		q.working = true
		l.ops.Add(1) // Close can't have returned: our caller is an operation too
		go l.work(ly)
	}
	return nil
}

// work runs the layer's jobs until there are none.
func (l *Layered) work(ly *layer) {
	idle := false
	defer func() {
		if !idle { // a store ended this goroutine (runtime.Goexit)
			go l.work(ly)
			return
		}
		l.ops.Done()
	}()
	for {
		l.mu.Lock()
		q := &ly.queue
		if len(q.waiting) == 0 {
			q.waiting, q.working, idle = nil, false, true
			l.mu.Unlock()
			return
		}
		j := q.waiting[0]
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		j.running = !j.off
		if j.off {
			q.bytes -= j.a.Size()
		}
		l.mu.Unlock()
		if j.off {
			closeQuietly(j.a)
			continue
		}
		l.run(ly, j)
	}
}

// run writes a pending job into its layer.
func (l *Layered) run(ly *layer, j *job) {
	start := time.Now()
	err := ly.wrap("add", j.key, errExited) // stays if the store ends this goroutine
	defer func() {
		took := time.Since(start)
		closeQuietly(j.a) // while it is pending, so that Flush waits for this too
		l.mu.Lock()
		delete(ly.queue.pending, j.key)
		ly.queue.bytes -= j.a.Size()
		l.changes.Add(1)
		kind := EventStored
		if j.from != nil {
			kind = EventPromoted
			l.countPromotion(ly, j, took, err)
		}
		if j.owed && err != nil {
			ly.queue.lost++
			ly.queue.lastErr = err
		}
		l.mu.Unlock()
		close(j.done)
		if err == nil {
			ly.stored(kind, j.key, j.a, took)
		}
	}()
	err = ly.add(context.Background(), j.key, j.a)
}

// onItsWay returns a handle on the artifact that is about to enter the layer,
// if there is one.
func (l *Layered) onItsWay(ly *layer, key Key) *Artifact {
	l.mu.Lock()
	defer l.mu.Unlock()
	j := ly.queue.pending[key]
	if j == nil {
		return nil
	}
	a, err := j.a.share()
	if err != nil { // the job is about to end, and the layer has what it will have
		return nil
	}
	return a
}

// callOff drops the jobs of key that wait, and returns what tells when the
// running ones have ended; mu is held.
func (l *Layered) callOff(key Key) (running []<-chan struct{}) {
	for _, ly := range l.layers {
		j := ly.queue.pending[key]
		switch {
		case j == nil:
		case j.running:
			running = append(running, j.done)
		default: // the worker lets go of it when its turn comes
			j.off = true
			delete(ly.queue.pending, key)
			close(j.done)
		}
	}
	return running
}

// underWay returns what tells when the jobs that are pending now have ended.
func (l *Layered) underWay() (jobs []<-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ly := range l.layers {
		for _, j := range ly.queue.pending {
			jobs = append(jobs, j.done)
		}
	}
	return jobs
}

// waitAll waits for all channels to be closed, or for ctx.
func waitAll(ctx context.Context, all []<-chan struct{}) error {
	for _, done := range all {
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("modcache: layered store: background writes are still under way: %w", ctx.Err())
		}
	}
	return nil
}

// lost says which deferred writes came to nothing, and forgets them.
func (l *Layered) lost() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, ly := range l.layers {
		if n := ly.queue.lost; n > 0 {
			errs = append(errs, fmt.Errorf("modcache: layer %s: %d deferred writes were lost, the last because of: %w", ly.Name, n, ly.queue.lastErr))
			ly.queue.lost, ly.queue.lastErr = 0, nil
		}
	}
	return errors.Join(errs...)
}
