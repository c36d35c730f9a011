package modcache_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/modcachetest"
)

func TestLatencyOfLayers(t *testing.T) {
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
			var want modcache.Latency
			want.Buckets[bucket], want.Total = 1, took
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
	l.Buckets[0], l.Buckets[3], l.Buckets[10] = 90, 9, 1
	require.EqualValues(t, 100, l.Count())
	for q, want := range map[float64]time.Duration{
		-1: time.Microsecond, 0: time.Microsecond, 0.5: time.Microsecond, 0.9: time.Microsecond,
		0.91: 8 * time.Microsecond, 0.99: 8 * time.Microsecond, 1: 1024 * time.Microsecond, 7: 1024 * time.Microsecond,
	} {
		require.Equal(t, want, l.Quantile(q), "%v", q)
	}
}
