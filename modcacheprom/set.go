package modcacheprom

import (
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/modcache/modcache"
)

// set is all the series that are read from one snapshot of type T.
type set[T any] struct {
	prefix   string
	whose    []string // the label that tells one snapshot from another, if there are several
	constant prometheus.Labels
	figures  []figure[T]
}

// figure is one series.
type figure[T any] struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	values []string // of the labels beside that of the set
	of     func(T) (value float64, known bool)
}

func (s *set[T]) add(kind prometheus.ValueType, name, help string, labels, values []string, of func(T) (float64, bool)) {
	desc := prometheus.NewDesc(s.prefix+name, help, slices.Concat(s.whose, labels), s.constant)
	s.figures = append(s.figures, figure[T]{desc, kind, values, of})
}

// number is what snapshots are made of.
type number interface{ ~int | ~int64 | ~uint64 }

func known[T any, N number](of func(T) N) func(T) (float64, bool) {
	return func(v T) (float64, bool) { return float64(of(v)), true }
}

func (s *set[T]) counter(name, help string, of func(T) uint64) {
	s.add(prometheus.CounterValue, name, help, nil, nil, known(of))
}

// part is one value of a label, of several that add up to something.
type part[T any] struct {
	value string
	of    func(T) uint64
}

func (s *set[T]) counters(name, help, label string, parts ...part[T]) {
	for _, p := range parts {
		s.add(prometheus.CounterValue, name, help, []string{label}, []string{p.value}, known(p.of))
	}
}

func (s *set[T]) seconds(name, help string, of func(T) time.Duration) {
	s.add(prometheus.CounterValue, name, help, nil, nil, func(v T) (float64, bool) { return of(v).Seconds(), true })
}

func (s *set[T]) gauge(name, help string, of func(T) uint64) {
	s.add(prometheus.GaugeValue, name, help, nil, nil, known(of))
}

func (s *set[T]) flag(name, help string, of func(T) bool) {
	s.add(prometheus.GaugeValue, name, help, nil, nil, func(v T) (float64, bool) {
		if of(v) {
			return 1, true
		}
		return 0, true
	})
}

func (s *set[T]) describe(ch chan<- *prometheus.Desc) {
	for _, f := range s.figures {
		ch <- f.desc
	}
}

func (s *set[T]) collect(ch chan<- prometheus.Metric, v T, whose ...string) {
	for _, f := range s.figures {
		if value, known := f.of(v); known {
			ch <- prometheus.MustNewConstMetric(f.desc, f.kind, value, slices.Concat(valid(whose), f.values)...)
		}
	}
}

// valid returns the values of labels, such as the names of layers, as Prometheus takes them.
func valid(labels []string) []string {
	for i, l := range labels {
		if !utf8.ValidString(l) {
			l = strconv.Quote(l)
			labels[i] = l[1 : len(l)-1]
		}
	}
	return labels
}

// Of the limits of modcache's buckets, which double, every second one is a limit here, up to the
// last one below infinity: 1 µs, 4 µs, … 67 s.
const (
	bucketStep  = 2
	bucketLimit = 27
)

// histogram returns l as Prometheus has it.
func histogram(desc *prometheus.Desc, l modcache.Latency, labels ...string) prometheus.Metric {
	buckets := map[float64]uint64{}
	var seen uint64
	for i := range bucketLimit {
		if i < len(l.Buckets) {
			seen += l.Buckets[i]
		}
		if i%bucketStep == 0 {
			buckets[(time.Microsecond << i).Seconds()] = seen
		}
	}
	return prometheus.MustNewConstHistogram(desc, l.Count(), l.Total.Seconds(), buckets, valid(labels)...)
}
