package modcache

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache/internal/bytesize"
)

// Metrics is a snapshot of a store's counters. Entries and Bytes are levels,
// which rise and fall; everything else only grows. Its JSON form suits expvar:
//
//	expvar.Publish("modcache", expvar.Func(func() any { return cache.Metrics() }))
type Metrics struct {
	Lookups      uint64 `json:"lookups"` // calls of Get
	Hits         uint64 `json:"hits"`
	Misses       uint64 `json:"misses"`        // Lookups = Hits + Misses, but for lookups under way
	Adds         uint64 `json:"adds"`          // artifacts accepted
	RejectedAdds uint64 `json:"rejected_adds"` // artifacts not accepted: too large, not worth it, store failed
	Evictions    uint64 `json:"evictions"`     // entries dropped to make room
	EvictedBytes uint64 `json:"evicted_bytes"`
	Flushes      uint64 `json:"flushes"`
	FlushErrors  uint64 `json:"flush_errors"`
	Corrupt      uint64 `json:"corrupt"`    // entries found damaged or not authentic
	Errors       uint64 `json:"errors"`     // operations that failed for any other reason
	Promotions   uint64 `json:"promotions"` // entries copied into a faster layer
	Entries      uint64 `json:"entries"`    // held now
	Bytes        uint64 `json:"bytes"`      // held now
}

// HitRatePPM returns hits per million lookups, rounded down; 0 if there were
// no lookups.
func (m Metrics) HitRatePPM() uint32 { return partsPerMillion(m.Hits, m.Lookups) }

func partsPerMillion(part, whole uint64) uint32 {
	if whole == 0 {
		return 0
	}
	hi, lo := bits.Mul64(min(part, whole), 1e6)
	ppm, _ := bits.Div64(hi, lo, whole) // no overflow: hi < whole, since part <= whole
	return uint32(ppm)
}

// String sums the snapshot up in one line for people; its form may change.
func (m Metrics) String() string {
	return fmt.Sprintf("%d lookups, %.1f%% hits; %d adds, %d rejected; %d entries, %s; %d evicted, %d corrupt, %d errors",
		m.Lookups, float64(m.HitRatePPM())/1e4, m.Adds, m.RejectedAdds,
		m.Entries, bytesize.Format(m.Bytes), m.Evictions, m.Corrupt, m.Errors)
}

// MetricError says which counter cannot be added or subtracted.
type MetricError struct {
	Op    string // "plus" or "sub"
	Field string
	A, B  uint64
}

func (e *MetricError) Error() string {
	if e.Op == "sub" {
		return fmt.Sprintf("modcache: metrics: %s went backwards, from %d to %d: these are not two snapshots of one store in order", e.Field, e.B, e.A)
	}
	return fmt.Sprintf("modcache: metrics: the sum of %s does not fit 64 bits: %d and %d", e.Field, e.A, e.B)
}

// Plus adds two snapshots field by field, levels included: what several stores
// did and hold together. A sum that doesn't fit is a [*MetricError].
func (m Metrics) Plus(o Metrics) (Metrics, error) { return m.combine("plus", bits.Add64, o) }

// Sub returns what happened since the earlier snapshot o of the same store: the
// growth of every counter, and the levels as they are in m, since a level may
// well have fallen. A counter that went backwards is a [*MetricError].
func (m Metrics) Sub(o Metrics) (Metrics, error) {
	o.Entries, o.Bytes = 0, 0
	return m.combine("sub", bits.Sub64, o)
}

func (m Metrics) combine(op string, f func(a, b, carry uint64) (v, over uint64), o Metrics) (Metrics, error) {
	theirs := o.fields()
	for i, mine := range m.fields() {
		a, b := *mine.v, *theirs[i].v
		v, over := f(a, b, 0)
		if over != 0 {
			return Metrics{}, &MetricError{op, mine.name, a, b}
		}
		*mine.v = v
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

// CacheMetrics is a snapshot of what a Cache did with its store.
type CacheMetrics struct {
	Lookups          uint64        `json:"lookups"` // of modules that needed code; Hits + Misses, but for lookups under way
	Hits             uint64        `json:"hits"`    // code that could be used
	Misses           uint64        `json:"misses"`
	Corrupt          uint64        `json:"corrupt"`            // artifacts that came from the store and were not what they should be
	StoreErrors      uint64        `json:"store_errors"`       // calls of the store that failed or panicked
	Compiles         uint64        `json:"compiles"`           // modules compiled in full, failed ones included
	Direct           uint64        `json:"direct"`             // of Compiles: small modules that were compiled for one use (Options.SmallModules)
	CompileErrors    uint64        `json:"compile_errors"`     // the drop-in's are not known
	CompileTime      time.Duration `json:"compile_time_ns"`    // the drop-in's is not known
	Saved            time.Duration `json:"saved_ns"`           // compile time that hits made unnecessary; artifacts of unknown compile time count as 0
	Coalesced        uint64        `json:"coalesced"`          // callers that were served by somebody else's compile
	Stubbed          uint64        `json:"stubbed"`            // modules loaded without decoding their bodies
	Retained         uint64        `json:"retained"`           // compiled modules kept for the next caller, now
	RetainedBytes    uint64        `json:"retained_bytes"`     // what they take, and what runtimes keep of modules that others use, as Options.Retain says, now
	RetainedMaxBytes uint64        `json:"retained_max_bytes"` // the limit of RetainedBytes: Options.Retain or its default; 0 if nothing is kept
	DroppedEvents    uint64        `json:"dropped_events"`     // not reported, because an observer or a logger didn't return from a call
	Templates        uint64        `json:"templates"`          // made
	Snapshots        uint64        `json:"snapshots"`          // taken, after Init ran
	SnapshotsFound   uint64        `json:"snapshots_found"`    // taken from the store, without Init
	OffHeap          uint64        `json:"off_heap"`           // memories of instances made outside of Go's heap
	OffHeapFailed    uint64        `json:"off_heap_failed"`    // those that couldn't be, and are on the heap
	Store            Metrics       `json:"store"`              // what the store says, or said last: see [Cache.Metrics]
}

// HitRatePPM returns hits per million lookups, rounded down; 0 if there were
// no lookups.
func (m CacheMetrics) HitRatePPM() uint32 { return partsPerMillion(m.Hits, m.Lookups) }

// String sums the snapshot up in one line for people; its form may change.
func (m CacheMetrics) String() string {
	return fmt.Sprintf("%d lookups, %.1f%% hits; %d compiles in %v, %d failed, %d coalesced; %d stubbed, %d retained, %v saved; store: %v",
		m.Lookups, float64(m.HitRatePPM())/1e4, m.Compiles, m.CompileTime.Round(time.Millisecond), m.CompileErrors, m.Coalesced,
		m.Stubbed, m.Retained, m.Saved.Round(time.Millisecond), m.Store)
}

// Latency is a histogram of how long calls took.
type Latency struct {
	// Buckets[i] is the number of calls that took less than 1 µs << i, and no less than half of
	// that. The slice ends with the last bucket that isn't empty. Calls that took
	// more than 134 s are counted in the bucket of 134 s.
	Buckets []uint64      `json:"buckets"`
	Total   time.Duration `json:"total_ns"` // of all calls
}

const latencyBuckets = 28 // at most

// Count returns the number of calls.
func (l Latency) Count() (n uint64) {
	for _, b := range l.Buckets {
		n += b
	}
	return n
}

// Quantile returns a time that the part q of the calls, from 0 to 1, did not exceed. It
// is the upper end of a bucket: up to twice the true time. It returns 0 if there were no
// calls.
func (l Latency) Quantile(q float64) time.Duration {
	want := max(uint64(min(max(q, 0), 1)*float64(l.Count())+0.5), 1)
	var seen uint64
	for i, b := range l.Buckets {
		if seen += b; seen >= want {
			return time.Microsecond << i
		}
	}
	return 0
}

// stopwatch collects a Latency.
type stopwatch struct {
	buckets [latencyBuckets]atomic.Uint64
	total   atomic.Int64
}

func (s *stopwatch) since(start time.Time) {
	d := max(time.Since(start), 0)
	s.buckets[min(bits.Len64(uint64(d/time.Microsecond)), latencyBuckets-1)].Add(1)
	s.total.Add(int64(d))
}

func (s *stopwatch) read() (l Latency) {
	for i := range s.buckets {
		if n := s.buckets[i].Load(); n > 0 {
			l.Buckets = append(l.Buckets, make([]uint64, i-len(l.Buckets))...)
			l.Buckets = append(l.Buckets, n)
		}
	}
	l.Total = time.Duration(s.total.Load())
	return l
}
