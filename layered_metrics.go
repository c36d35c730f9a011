package modcache

import (
	"context"
	"time"
)

// LayerMetrics is a snapshot of what a [Layered] knows of one layer.
type LayerMetrics struct {
	Name        string  `json:"name"`
	Hits        uint64  `json:"hits"`         // lookups that this layer answered
	Errors      uint64  `json:"errors"`       // calls that failed, panicked or were given up
	Timeouts    uint64  `json:"timeouts"`     // those that were given up
	Skipped     uint64  `json:"skipped"`      // calls not made, because the layer kept failing
	Dropped     uint64  `json:"dropped"`      // background writes that found the queue full
	Queued      uint64  `json:"queued"`       // background writes under way, now
	QueuedBytes uint64  `json:"queued_bytes"` // now
	Hung        uint64  `json:"hung"`         // calls given up that haven't returned, now
	Open        bool    `json:"open"`         // the layer's reads or writes are being skipped, now
	Get         Latency `json:"get"`          // of calls of Get, failed ones included; none if the layer has no Timeout
	Add         Latency `json:"add"`          // likewise
	Store       Metrics `json:"store"`        // what the store itself says, other users of it included
}

// metricsTimeout is how long a layer may take for its Metrics.
const metricsTimeout = time.Second

// Layers returns a snapshot of every layer, fastest first. A store that doesn't
// tell its metrics within a second is listed with those it told last.
func (l *Layered) Layers() []LayerMetrics {
	all := make([]LayerMetrics, len(l.layers))
	for i, ly := range l.layers {
		all[i] = LayerMetrics{
			Name:     ly.Name,
			Hits:     ly.hits.Load(),
			Errors:   ly.errs.Load(),
			Timeouts: ly.timeouts.Load(),
			Skipped:  ly.skipped.Load(),
			Hung:     uint64(max(ly.hung.Load(), 0)),
			Open:     ly.reads.isOpen() || ly.writes.isOpen(),
			Get:      ly.getTime.read(),
			Add:      ly.addTime.read(),
			Store:    ly.metrics(),
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, ly := range l.layers {
		q := &ly.queue
		all[i].Dropped = q.dropped
		all[i].Queued = uint64(len(q.pending))
		all[i].QueuedBytes = uint64(max(q.bytes, 0))
	}
	return all
}

func (ly *layer) metrics() Metrics {
	m, err := within(context.Background(), ly, ly.slots, min(ly.Timeout, metricsTimeout),
		func(context.Context) (Metrics, error) { return ly.Store.Metrics(), nil },
		func(Metrics) {})
	if err == nil {
		ly.told.Store(&m)
	} else if told := ly.told.Load(); told != nil {
		m = *told
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
		FlushErrors:  l.unclean.Load(),
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
