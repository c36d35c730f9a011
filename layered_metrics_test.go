package modcache_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/modcachetest"
)

func TestLayeredMetricsNeverGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner := faulty(modcachetest.Fault{Op: modcachetest.OpMetrics, Nth: 2, Hang: true})
		inner.OnMetrics = func() modcache.Metrics { return modcache.Metrics{Evictions: 7} }
		l := layered(t, nil, modcache.Layer{Store: s})
		before := l.Metrics()
		start := time.Now()
		during := l.Metrics()
		require.Equal(t, time.Second, time.Since(start))
		_, err := during.Sub(before)
		require.NoError(t, err)
		require.EqualValues(t, 7, during.Evictions)
		s.Release()
		require.EqualValues(t, 7, l.Metrics().Evictions)
	})
}

func TestLayeredPromotionReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		small := newShelf()
		small.budget = 101
		mid, midShelf := faulty(modcachetest.Fault{Op: modcachetest.OpAdd, Nth: 2, Err: errInjected}, modcachetest.Fault{Op: modcachetest.OpAdd, Delay: time.Second})
		far := newShelf()
		l := layered(t, &modcache.LayeredOptions{QueueBytes: 210},
			modcache.Layer{Store: small, Name: "memory", Direct: true}, modcache.Layer{Store: mid, Name: "disk"}, modcache.Layer{Store: far, Name: "fleet"})
		require.Zero(t, l.PromotionReport().Last)
		for n := byte(1); n <= 3; n++ {
			put(t, far, keyNo(n))
			hit(t, l, keyNo(n))
		}
		_ = l.Flush(t.Context())
		r := l.PromotionReport()
		require.Equal(t, modcache.PromotionCount{Promoted: 2, Bytes: 202, Refused: 2, Failed: 1, Dropped: 1}, r.PromotionCount)
		require.Equal(t, []modcache.LayerPromotions{
			{Layer: "memory", PromotionCount: modcache.PromotionCount{Promoted: 1, Bytes: 101, Refused: 2}},
			{Layer: "disk", PromotionCount: modcache.PromotionCount{Promoted: 1, Bytes: 101, Failed: 1, Dropped: 1}},
			{Layer: "fleet", Source: 2},
		}, r.Layers)
		require.ErrorIs(t, r.Last.Err, errInjected)
		require.Equal(t, "fleet", r.Last.From)
		require.Equal(t, "disk", r.Last.To)
		require.Equal(t, keyNo(2), r.Last.Key)
		require.EqualValues(t, 102, r.Last.Bytes)
		require.Equal(t, time.Now(), r.Last.Time)
		require.True(t, midShelf.has(keyNo(1)))
		require.EqualValues(t, 2, l.Metrics().Promotions)

		b, err := json.Marshal(r)
		require.NoError(t, err)
		var fields map[string]any
		require.NoError(t, json.Unmarshal(b, &fields))
		require.EqualValues(t, 2, fields["promoted"])
		require.EqualValues(t, 1, fields["layers"].([]any)[0].(map[string]any)["promoted"])
		last := fields["last"].(map[string]any)
		require.Equal(t, keyNo(2).String(), last["key"])
		require.Contains(t, last, "duration_ns")
	})
}

func TestLayeredLayerNames(t *testing.T) {
	l := layered(t, nil, modcache.Layer{Store: newShelf()}, modcache.Layer{Store: readOnly{newShelf()}}, modcache.Layer{Store: newShelf()}, modcache.Layer{Store: newShelf(), Name: "far"})
	var names []string
	for _, ly := range l.Layers() {
		names = append(names, ly.Name)
	}
	require.Equal(t, []string{"shelf", "readonly", "shelf#2", "far"}, names)
	for _, given := range [][]string{{"a#2", "a", "a"}, {"a", "a", "a#2"}, {"a", "a", "a"}, {"a", "a#2", "a#2", "a"}} {
		var layers []modcache.Layer
		for _, name := range given {
			layers = append(layers, modcache.Layer{Store: newShelf(), Name: name})
		}
		distinct := map[string]bool{}
		for _, ly := range layered(t, nil, layers...).Layers() {
			distinct[ly.Name] = true
		}
		require.Len(t, distinct, len(given), "%q: %v", given, distinct)
	}
}

// TestLayeredMetricsOfManyThatHang asks all layers at once.
func TestLayeredMetricsOfManyThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		var layers []modcache.Layer
		for range 4 {
			s := &storetest.Fake{OnMetrics: func() modcache.Metrics { <-hang; return modcache.Metrics{} }}
			layers = append(layers, modcache.Layer{Store: s, Timeout: -1})
		}
		l := modcache.NewLayered(nil, layers...)
		start := time.Now()
		require.Len(t, l.Layers(), 4)
		require.Equal(t, time.Second, time.Since(start))
		close(hang)
		require.NoError(t, l.Close())
	})
}
