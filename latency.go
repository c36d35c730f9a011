package modcache

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Latency is a histogram of how long calls took. The calls in Buckets[i] took
// less than 1 µs << i, and no less than half of that; the last bucket also
// holds all that took longer.
type Latency struct {
	Buckets [latencyBuckets]uint64 `json:"buckets"`
	Total   time.Duration          `json:"total_ns"`
}

const latencyBuckets = 28 // up to 134 s

// Count returns the number of calls.
func (l Latency) Count() (n uint64) {
	for _, b := range l.Buckets {
		n += b
	}
	return n
}

// Quantile returns a time that the part q of the calls, from 0 to 1, did not
// exceed, as closely as the buckets tell it: up to twice the true one. It returns 0 if there were no calls.
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
		l.Buckets[i] = s.buckets[i].Load()
	}
	l.Total = time.Duration(s.total.Load())
	return l
}
