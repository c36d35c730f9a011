package report

import (
	"math"
	"slices"
	"strconv"
)

// Quantile returns the q-quantile of the samples, interpolated between the two
// nearest; NaN of none.
func Quantile(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(samples))
	at := q * float64(len(sorted)-1)
	below := int(at)
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (at-float64(below))*(sorted[above]-sorted[below])
}

// number writes v with three significant digits, and large ones with all before
// the point.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case v == math.Trunc(v) && a < 1e6:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case a >= 99.95:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 0.9995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case a >= 0.0995:
		return strconv.FormatFloat(v, 'f', 3, 64)
	default:
		return strconv.FormatFloat(v, 'g', 2, 64)
	}
}

// scales are the units that numbers are shown in when they become unreadable in
// their own.
var scales = map[string][]string{"ns": {"ns", "µs", "ms", "s"}, "µs": {"ns", "µs", "ms", "s"}, "ms": {"ns", "µs", "ms", "s"}}

// quantity writes v with its unit, in a larger or smaller one of time where
// that reads better.
func quantity(v float64, unit string) string {
	names := scales[unit]
	i := slices.Index(names, unit)
	for ; i >= 0 && i+1 < len(names) && v >= 999.5; i++ {
		v /= 1000
	}
	for ; i > 0 && v > 0 && v < 0.0995; i-- {
		v *= 1000
	}
	if i >= 0 {
		unit = names[i]
	}
	if unit == "" {
		return number(v)
	}
	return number(v) + " " + unit
}
