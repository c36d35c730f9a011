package modcache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/queue"
)

// write is an artifact on its way into a layer: a deferred write, which is owed, or a
// promotion.
type write struct {
	a      *Artifact     // a handle of its own
	from   *layer        // where a promotion comes from; nil if it is none
	sealed bool          // a Cache wanted it, which uses nothing without its seal
	took   time.Duration // once it has been done
}

// writeBehind queues a deferred write.
func (l *Layered) writeBehind(ly *layer, key Key, a *Artifact) error {
	l.mu.Lock()
	err := l.enqueue(ly, key, a, write{})
	if err != nil {
		ly.queue.Lose(key, err)
	}
	l.mu.Unlock()
	if err != nil {
		notify(ly.observe, Event{Kind: EventStoreFailed, Key: key, Layer: ly.Name, Err: err})
	}
	return err
}

// enqueue leaves the writing of a to the layer's worker; mu is held. Close can't have
// returned, because the caller is an operation too.
func (l *Layered) enqueue(ly *layer, key Key, a *Artifact, w write) error {
	owed := w.from == nil
	if j := ly.queue.Find(key); j != nil { // on its way already
		j.Owed = j.Owed || owed
		return nil
	}
	if err := ly.queue.Fits(a.Size()); err != nil {
		ly.dropped++
		return ly.wrap("add", key, fmt.Errorf("%w: %w", ErrUnavailable, err))
	}
	own, err := a.shareIn(ly.artifacts)
	if err != nil {
		return ly.wrap("add", key, err)
	}
	w.a = own
	return ly.queue.Add(&queue.Job[Key, write]{Key: key, Value: w, Size: own.Size(), Owed: owed})
}

// write does a job: it stores the artifact in the layer.
func (l *Layered) write(ly *layer, j *queue.Job[Key, write]) error {
	w, start := &j.Value, time.Now()
	err := ly.wrap("add", j.Key, contain.ErrExited) // unless add returns
	defer func() {
		w.took = time.Since(start)
		l.changes.Add(1)
		contain.Close(w.a)
		if w.from != nil {
			l.mu.Lock()
			l.countPromotion(ly, j, err)
			l.mu.Unlock()
		}
	}()
	a, failed := ly.readable(j.Key, w)
	if failed != nil {
		kind := EventStoreFailed
		if isDamage(failed) {
			kind = EventCorrupt
		}
		err = ly.report(kind, "add", j.Key, failed)
		return err
	}
	err = ly.add(context.Background(), j.Key, a)
	return err
}

// readable returns the artifact as the layer is to get it. What is promoted is read before: where it hangs, it is in the layer
// that it comes from. A Cache waits no longer for that.
func (ly *layer) readable(key Key, w *write) (*Artifact, error) {
	seals := w.sealed && !instant(ly.Store)
	switch {
	case w.a.InMemory() && seals:
		return sealedCopy(key, w.a, believedCode)
	case w.a.InMemory(), w.from == nil && !ly.changesAtOnce(): // Add is bounded
		return w.a, nil
	}
	return bounded.Do(context.Background(), w.a.lane, unknownWait, func(context.Context) (_ *Artifact, err error) {
		own, err := w.a.share()
		if err != nil {
			return nil, err
		}
		defer contain.Close(own)
		read := own
		if seals {
			if read, err = sealedCopy(key, own, believedCode); err != nil {
				return nil, err
			}
		}
		b, err := read.Bytes()
		return NewArtifact(b, own.Info()), err
	}, nil)
}

// written reports what became of a job; add has reported a failure already.
func (ly *layer) written(j *queue.Job[Key, write], err error) {
	kind := EventStored
	if j.Value.from != nil {
		kind = EventPromoted
	}
	if err == nil {
		ly.stored(kind, j.Key, j.Value.a, j.Value.took)
	}
}

// onItsWay returns a handle on the artifact that is about to enter the layer,
// if there is one.
func (l *Layered) onItsWay(ly *layer, key Key) *Artifact {
	l.mu.Lock()
	defer l.mu.Unlock()
	j := ly.queue.Find(key)
	if j == nil {
		return nil
	}
	a, err := j.Value.a.share()
	if err != nil { // the job is about to end, and the layer has what it will have
		return nil
	}
	return a
}

// callOff drops the jobs of key that wait, and returns what they held, to be closed, and
// what tells when the running ones have ended; mu is held.
func callOff(key Key, layers []*layer) (dropped []*Artifact, running []<-chan struct{}) {
	for _, ly := range layers {
		j, ends := ly.queue.CallOff(key)
		if j != nil {
			dropped = append(dropped, j.Value.a)
		}
		if ends != nil {
			running = append(running, ends)
		}
	}
	return dropped, running
}

// underWay returns what tells when the jobs that are pending now have ended.
func (l *Layered) underWay() (jobs []<-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ly := range l.layers {
		jobs = append(jobs, ly.queue.Pending()...)
	}
	return jobs
}

// lost says which deferred writes came to nothing, and forgets them.
func (l *Layered) lost(op string) (errs []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ly := range l.layers {
		if lost := ly.queue.TakeLost(); lost.N > 0 {
			errs = append(errs, ly.wrap(op, Key{}, &annotated{
				before: fmt.Sprintf("%d deferred writes were lost, the last: ", lost.N), err: lost.Err}))
		}
	}
	return errs
}

// promote copies what a lookup found into the layers above the one that had it. What
// takes no time is done on return, the rest is queued. stale is called under mu.
func (l *Layered) promote(key Key, a *Artifact, w write, stale func() bool) {
	for _, ly := range l.layers {
		if ly == w.from {
			return
		}
		if ly == l.front && l.alone {
			continue // Get does it, on its caller's goroutine
		}
		if ly.takesPromotions() {
			l.promoteInto(ly, key, a, w, stale)
		}
	}
}

func (ly *layer) takesPromotions() bool {
	return ly.Promote != PromoteNever && ly.Write != WriteNever
}

func (l *Layered) promoteInto(ly *layer, key Key, a *Artifact, w write, stale func() bool) {
	var j *queue.Job[Key, write]
	l.mu.Lock()
	switch {
	case stale() || l.deleting[key] > 0 || ly.queue.Find(key) != nil:
	case ly.changesAtOnce() && a.InMemory():
		w.a = a
		j = &queue.Job[Key, write]{Key: key, Value: w, Size: a.Size()}
		ly.queue.Begin(j)
	case l.enqueue(ly, key, a, w) != nil:
		ly.promotions.Dropped++
	}
	l.mu.Unlock()
	if j != nil {
		ly.queue.Do(j)
	}
}

// countPromotion takes note of how a promotion ended; mu is held.
func (l *Layered) countPromotion(ly *layer, j *queue.Job[Key, write], err error) {
	c, a, from := &ly.promotions, j.Value.a, j.Value.from
	switch {
	case err == nil:
		c.Promoted++
		c.Bytes += uint64(a.Size())
		from.promotions.Source++
	case errors.Is(err, ErrUnavailable):
		c.Dropped++
		return
	case refused(err):
		c.Refused++
	default:
		c.Failed++
	}
	l.last = PromotionEvent{
		Key: j.Key, From: from.Name, To: ly.Name, Bytes: a.Size(),
		Time: time.Now(), Duration: j.Value.took, Err: err,
	}
}
