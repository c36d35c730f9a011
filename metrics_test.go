package modcache_test

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/modcachetest"
	"github.com/stretchr/testify/require"
)

// metricsOf fills every field with its own value.
func metricsOf(t testing.TB, value func(i int) uint64) modcache.Metrics {
	t.Helper()
	var m modcache.Metrics
	v := reflect.ValueOf(&m).Elem()
	for i := range v.NumField() {
		v.Field(i).SetUint(value(i))
	}
	return m
}

func TestMetricsPlusAndSubCoverEveryField(t *testing.T) {
	a := metricsOf(t, func(i int) uint64 { return uint64(100 + i) })
	b := metricsOf(t, func(i int) uint64 { return uint64(10 * i) })
	sum, err := a.Plus(b)
	require.NoError(t, err)
	require.Equal(t, metricsOf(t, func(i int) uint64 { return uint64(100 + 11*i) }), sum)

	diff, err := sum.Sub(b)
	require.NoError(t, err)
	want := a
	want.Entries, want.Bytes = sum.Entries, sum.Bytes // levels stay
	require.Equal(t, want, diff)
}

func TestMetricsErrorsNameTheField(t *testing.T) {
	typ := reflect.TypeFor[modcache.Metrics]()
	for i := range typ.NumField() {
		name := typ.Field(i).Name
		one := metricsOf(t, func(j int) uint64 {
			if i == j {
				return 1
			}
			return 0
		})
		full := metricsOf(t, func(int) uint64 { return math.MaxUint64 })

		sum, err := one.Plus(full)
		var e *modcache.MetricError
		require.ErrorAs(t, err, &e)
		require.Equal(t, modcache.MetricError{Op: "plus", Field: name, A: 1, B: math.MaxUint64}, *e)
		require.Zero(t, sum)
		require.ErrorContains(t, err, name)

		diff, err := modcache.Metrics{}.Sub(one)
		if name == "Entries" || name == "Bytes" {
			require.NoError(t, err, "a level may fall")
			continue
		}
		require.True(t, errors.As(err, &e))
		require.Equal(t, modcache.MetricError{Op: "sub", Field: name, A: 0, B: 1}, *e)
		require.Zero(t, diff)
	}
}

func FuzzHitRatePPM(f *testing.F) {
	for _, s := range [][2]uint64{{0, 0}, {1, 3}, {3, 3}, {5, 3}, {math.MaxUint64, math.MaxUint64}, {math.MaxUint64 - 1, math.MaxUint64}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, hits, lookups uint64) {
		got := modcache.Metrics{Hits: hits, Lookups: lookups}.HitRatePPM()
		if lookups == 0 {
			require.Zero(t, got)
			return
		}
		want := new(big.Int).SetUint64(min(hits, lookups))
		want.Mul(want, big.NewInt(1e6)).Div(want, new(big.Int).SetUint64(lookups))
		require.Equal(t, want.Uint64(), uint64(got))
	})
}

func TestMetricsInWords(t *testing.T) {
	m := modcache.Metrics{Lookups: 3, Hits: 2, Misses: 1, Adds: 4, Entries: 2, Bytes: 1_250_000}
	require.Equal(t, "3 lookups, 66.7% hits; 4 adds, 0 rejected; 2 entries, 1.2 MB; 0 evicted, 0 corrupt, 0 errors", m.String())
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_949: "999.9 kB", 999_950: "1.0 MB", math.MaxUint64: "18.4 EB"} {
		require.Contains(t, modcache.Metrics{Bytes: n}.String(), "entries, "+want+";")
	}
	c := modcache.CacheMetrics{Lookups: 4, Hits: 1, Misses: 3, Compiles: 2, CompileTime: 1500 * time.Millisecond, Saved: time.Minute, Store: m}
	require.Equal(t, "4 lookups, 25.0% hits; 2 compiles in 1.5s, 0 failed, 0 coalesced; 0 stubbed, 0 retained, 1m0s saved; store: "+m.String(), c.String())
	s := modcache.SlotMetrics{Live: 1, Lent: 2, Inserts: 3, Removes: 4, Full: 5, Retired: 6, Faults: 7}
	require.Equal(t, "1 live, 2 lent; 3 inserts, 4 removes; 5 refused as full, 6 slots retired, 7 faults", s.String())
}

func TestMetricsAsJSON(t *testing.T) {
	m := metricsOf(t, func(i int) uint64 { return uint64(i + 1) })
	c := modcache.CacheMetrics{Compiles: 1, CompileTime: time.Second, Store: m}
	b, err := json.Marshal(c)
	require.NoError(t, err)
	require.Contains(t, string(b), `"compile_time_ns":1000000000`)
	require.Contains(t, string(b), `"evicted_bytes":7`)
	var back modcache.CacheMetrics
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, c, back)
}

func TestLayeredLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for took, bucket := range map[time.Duration]int{
			0: 0, time.Microsecond - 1: 0, time.Microsecond: 1, 2*time.Microsecond - 1: 1, 2 * time.Microsecond: 2,
			time.Millisecond: 10, time.Second: 20, 60 * time.Second: 26, time.Hour: 27,
		} {
			slow, _ := faulty(modcachetest.Fault{Delay: took, Op: modcachetest.OpGet}, modcachetest.Fault{Delay: took, Op: modcachetest.OpAdd})
			l := layered(t, nil, direct(newShelf()), modcache.Layer{Store: slow, Timeout: 24 * time.Hour})
			miss(t, l, keyNo(1))
			put(t, l, keyNo(1))
			hit(t, l, keyNo(1))
			m := l.Layers()
			want := modcache.Latency{Buckets: make([]uint64, bucket+1), Total: took}
			want.Buckets[bucket] = 1
			require.Equal(t, want, m[1].Get, "%v", took)
			require.Equal(t, want, m[1].Add, "%v", took)
			require.Zero(t, m[0].Get, "a hit in memory isn't timed")
			require.Zero(t, m[0].Add)
		}
	})
}

func TestLatencyQuantile(t *testing.T) {
	var l modcache.Latency
	require.Zero(t, l.Quantile(0.5))
	l.Buckets = []uint64{90, 0, 0, 9, 0, 0, 0, 0, 0, 0, 1}
	require.EqualValues(t, 100, l.Count())
	for q, want := range map[float64]time.Duration{
		-1: time.Microsecond, 0: time.Microsecond, 0.5: time.Microsecond, 0.9: time.Microsecond,
		0.91: 8 * time.Microsecond, 0.99: 8 * time.Microsecond, 1: 1024 * time.Microsecond, 7: 1024 * time.Microsecond,
	} {
		require.Equal(t, want, l.Quantile(q), "%v", q)
	}
}
