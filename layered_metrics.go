package modcache

import (
	"context"
	"sync"
	"time"
)

// LayerMetrics is a snapshot of what a [Layered] knows of one layer.
type LayerMetrics struct {
	Name        string  `json:"name"`
	Hits        uint64  `json:"hits"`         // lookups that this layer answered
	Errors      uint64  `json:"errors"`       // calls that failed, panicked or were given up
	Timeouts    uint64  `json:"timeouts"`     // those that were given up
	Skipped     uint64  `json:"skipped"`      // calls not made, because the layer kept failing, or leaves its server alone
	Dropped     uint64  `json:"dropped"`      // background writes that found the queue full
	Queued      uint64  `json:"queued"`       // background writes under way, now
	QueuedBytes uint64  `json:"queued_bytes"` // now
	Hung        uint64  `json:"hung"`         // calls given up that haven't returned, now
	Open        bool    `json:"open"`         // the layer's reads or writes are being skipped, now
	Get         Latency `json:"get"`          // of calls of Get, failed ones included; none if the layer is Direct
	Add         Latency `json:"add"`          // likewise
	Store       Metrics `json:"store"`        // what the store itself says, other users of it included
	MaxBytes    int64   `json:"max_bytes"`    // the store's limit; -1 is none, 0 is unknown
}

// metricsTimeout is how long a layer may take for its Metrics.
const metricsTimeout = time.Second

// Layers returns a snapshot of every layer, fastest first. A store that doesn't
// return its metrics within a second is listed with those it returned last.
func (l *Layered) Layers() []LayerMetrics {
	all := make([]LayerMetrics, len(l.layers))
	var asking sync.WaitGroup // several may hang
	for i, ly := range l.layers {
		asking.Go(func() {
			all[i] = LayerMetrics{
				Name:     ly.Name,
				Hits:     ly.hits.Load(),
				Errors:   ly.errs.Load(),
				Timeouts: ly.timeouts.Load(),
				Skipped:  ly.skipped.Load(),
				Hung:     uint64(max(ly.hung.Load(), 0)),
				Open:     ly.reads.Open() || ly.writes.Open() || ly.artifacts.Hangs(),
				Get:      ly.getTime.read(),
				Add:      ly.addTime.read(),
				Store:    ly.metrics(),
				MaxBytes: limitOf(ly.Store),
			}
		})
	}
	asking.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, ly := range l.layers {
		jobs, size := ly.queue.Held()
		all[i].Dropped = ly.dropped
		all[i].Queued, all[i].QueuedBytes = uint64(jobs), uint64(size)
	}
	return all
}

// limitOf returns the MaxBytes of a store; 0 if that isn't known.
func limitOf(s Store) int64 {
	switch s := s.(type) {
	case *Disk:
		return s.o.MaxBytes
	case *Memory:
		return s.limit()
	}
	return 0
}

func (ly *layer) metrics() Metrics {
	m, err := within(context.Background(), ly, ly.calls, min(ly.Timeout, metricsTimeout),
		func(context.Context) (Metrics, error) { return ly.Store.Metrics(), nil }, nil)
	if err == nil {
		ly.lastMetrics.Store(&m)
	} else if last := ly.lastMetrics.Load(); last != nil {
		m = *last
	}
	return m
}

// Metrics implements [Store], from the caller's view: a lookup counts once,
// however many layers it asked, and is a hit if any of them had the entry.
// Errors are failed calls of layers, Promotions entries that faster layers took.
// Corrupt, Evictions and EvictedBytes are what the layers' own counters add up
// to. Entries and Bytes are those of the fullest layer, because most entries are
// in several. [Layered.Layers] has the figures of each layer.
func (l *Layered) Metrics() Metrics {
	m := Metrics{
		Misses:       l.misses.Load(),
		Adds:         l.adds.Load(),
		RejectedAdds: l.rejected.Load(),
		Flushes:      l.flushes.Load(),
		FlushErrors:  l.flushErrors.Load(),
		Promotions:   l.PromotionReport().Promoted,
	}
	for _, ly := range l.Layers() {
		m.Hits += ly.Hits
		m.Errors += ly.Errors
		m.Corrupt += ly.Store.Corrupt
		m.Evictions += ly.Store.Evictions
		m.EvictedBytes += ly.Store.EvictedBytes
		m.Entries = max(m.Entries, ly.Store.Entries)
		m.Bytes = max(m.Bytes, ly.Store.Bytes)
	}
	m.Lookups = m.Hits + m.Misses
	return m
}

// PromotionReport says what a [Layered] copied into faster layers. It is one
// consistent snapshot: the totals are the sums of the layers, and Last is one
// event.
type PromotionReport struct {
	PromotionCount
	Layers []LayerPromotions `json:"layers"` // fastest first
	Last   PromotionEvent    `json:"last"`   // zero if there was none
}

// PromotionCount counts promotions by what became of them.
type PromotionCount struct {
	Promoted uint64 `json:"promoted"` // entries that the layer took
	Bytes    uint64 `json:"bytes"`    // of them
	Refused  uint64 `json:"refused"`  // too large for the layer, or it is read-only
	Failed   uint64 `json:"failed"`   // the layer failed
	Dropped  uint64 `json:"dropped"`  // not attempted: the queue was full, or the layer is skipped
}

// LayerPromotions are the promotions of one layer.
type LayerPromotions struct {
	Layer          string `json:"layer"`
	PromotionCount        // into the layer
	Source         uint64 `json:"source"` // entries promoted out of this layer, once per layer that took them
}

// PromotionEvent is one promotion that was attempted.
type PromotionEvent struct {
	Key      Key           `json:"key"`
	From     string        `json:"from"` // the name of a layer
	To       string        `json:"to"`   // likewise
	Bytes    int64         `json:"bytes"`
	Time     time.Time     `json:"time"` // when it ended
	Duration time.Duration `json:"duration_ns"`
	Err      error         `json:"-"` // nil if the layer took the entry
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
