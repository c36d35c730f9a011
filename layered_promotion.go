package modcache

import (
	"errors"
	"time"
)

// PromotionReport says what a [Layered] copied into faster layers. It is one
// consistent snapshot: the totals are the sums of the layers, and Last is one
// event.
type PromotionReport struct {
	PromotionCount
	Layers []LayerPromotions // fastest first
	Last   PromotionEvent    // zero if there was none
}

// PromotionCount counts promotions by what became of them.
type PromotionCount struct {
	Promoted uint64 // entries that the layer took
	Bytes    uint64 // of them
	Refused  uint64 // too large for the layer, or it is read-only
	Failed   uint64 // the layer failed
	Dropped  uint64 // not attempted: the queue was full, or the layer is skipped
}

// LayerPromotions are the promotions of one layer.
type LayerPromotions struct {
	Layer          string
	PromotionCount        // into the layer
	Source         uint64 // entries promoted out of this layer, once per layer that took them
}

// PromotionEvent is one promotion that was attempted.
type PromotionEvent struct {
	Key      Key
	From, To string // names of layers
	Bytes    int64
	Time     time.Time // when it ended
	Duration time.Duration
	Err      error // nil if the layer took the entry
}

// PromotionReport returns what was promoted since the start.
func (l *Layered) PromotionReport() PromotionReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := PromotionReport{Last: l.last}
	for _, ly := range l.layers {
		c := ly.promotions
		r.Layers = append(r.Layers, c)
		r.Promoted += c.Promoted
		r.Bytes += c.Bytes
		r.Refused += c.Refused
		r.Failed += c.Failed
		r.Dropped += c.Dropped
	}
	return r
}

// promote copies what a lookup found into the layers above the one that had it. What
// takes no time is done on return, the rest is queued.
func (l *Layered) promote(s *sharedLookup, key Key) {
	for _, ly := range l.layers {
		if ly == s.from {
			return
		}
		if ly == l.front && l.alone {
			continue // Get does it, on its caller's goroutine
		}
		if ly.Promote != PromoteNever && ly.Write != WriteNever {
			l.promoteInto(ly, s, key)
		}
	}
}

func (l *Layered) promoteInto(ly *layer, s *sharedLookup, key Key) {
	l.mu.Lock()
	j := (*job)(nil)
	switch {
	case s.stale || l.deleting[key] > 0 || ly.queue.pending[key] != nil:
	case ly.direct() && s.a.InMemory():
		j = l.newJob(ly, key, s.a, s.from)
		j.running = true
	case l.enqueue(ly, key, s.a, s.from) != nil:
		ly.promotions.Dropped++
	}
	l.mu.Unlock()
	if j != nil {
		l.run(ly, j)
	}
}

// countPromotion takes note of how a promotion ended; mu is held.
func (l *Layered) countPromotion(ly *layer, j *job, took time.Duration, err error) {
	c := &ly.promotions
	switch {
	case err == nil:
		c.Promoted++
		c.Bytes += uint64(j.a.Size())
		j.from.promotions.Source++
	case errors.Is(err, ErrUnavailable):
		c.Dropped++
		return
	case refused(err):
		c.Refused++
	default:
		c.Failed++
	}
	l.last = PromotionEvent{
		Key: j.key, From: j.from.Name, To: ly.Name, Bytes: j.a.Size(),
		Time: time.Now(), Duration: took, Err: err,
	}
}
