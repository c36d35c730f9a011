package modcache

import "fmt"

// Metrics is a snapshot of a store's counters. Entries and Bytes are levels;
// everything else only grows.
type Metrics struct {
	Lookups      uint64 // calls of Get
	Hits         uint64
	Misses       uint64 // Lookups = Hits + Misses at rest
	Adds         uint64 // artifacts accepted
	RejectedAdds uint64 // artifacts not accepted: too large, not worth it, store failed
	Evictions    uint64 // entries dropped to make room
	EvictedBytes uint64
	Flushes      uint64
	FlushErrors  uint64
	Corrupt      uint64 // entries found damaged or not authentic
	Errors       uint64 // operations that failed for any other reason
	Promotions   uint64 // entries copied into a faster layer
	Entries      uint64 // held now
	Bytes        uint64 // held now
}

// HitRatePPM returns hits per million lookups; 0 if there were none.
func (m Metrics) HitRatePPM() uint32 {
	if m.Lookups == 0 {
		return 0
	}
	hits := min(m.Hits, m.Lookups)
	return uint32(float64(hits) / float64(m.Lookups) * 1e6)
}

// MetricError says which counter cannot be added or subtracted.
type MetricError struct {
	Op    string // "plus" or "sub"
	Field string
	A, B  uint64
}

func (e *MetricError) Error() string {
	return fmt.Sprintf("modcache: metrics %s overflows in %s: %d and %d", e.Op, e.Field, e.A, e.B)
}

// Plus adds two snapshots, field by field. A sum that doesn't fit is a
// [*MetricError].
func (m Metrics) Plus(o Metrics) (Metrics, error) {
	return m.combine(o, "plus", func(a, b uint64) (uint64, bool) { return a + b, a+b >= a })
}

// Sub returns what was added to the counters since the earlier snapshot o. A
// counter that went backwards is a [*MetricError]; so is a level (Entries,
// Bytes) that fell.
func (m Metrics) Sub(o Metrics) (Metrics, error) {
	return m.combine(o, "sub", func(a, b uint64) (uint64, bool) { return a - b, a >= b })
}

func (m Metrics) combine(o Metrics, op string, f func(a, b uint64) (uint64, bool)) (Metrics, error) {
	mine, theirs := m.fields(), o.fields()
	for i := range mine {
		a, b := *mine[i].v, *theirs[i].v
		sum, ok := f(a, b)
		if !ok {
			return Metrics{}, &MetricError{Op: op, Field: mine[i].name, A: a, B: b}
		}
		*mine[i].v = sum
	}
	return m, nil
}

type metricField struct {
	name string
	v    *uint64
}

func (m *Metrics) fields() []metricField {
	return []metricField{
		{"Lookups", &m.Lookups}, {"Hits", &m.Hits}, {"Misses", &m.Misses},
		{"Adds", &m.Adds}, {"RejectedAdds", &m.RejectedAdds},
		{"Evictions", &m.Evictions}, {"EvictedBytes", &m.EvictedBytes},
		{"Flushes", &m.Flushes}, {"FlushErrors", &m.FlushErrors},
		{"Corrupt", &m.Corrupt}, {"Errors", &m.Errors}, {"Promotions", &m.Promotions},
		{"Entries", &m.Entries}, {"Bytes", &m.Bytes},
	}
}
