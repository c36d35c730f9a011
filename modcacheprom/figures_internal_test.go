package modcacheprom

import (
	"reflect"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// TestFiguresAreComplete sets each field of each snapshot, and sees that a series changes.
func TestFiguresAreComplete(t *testing.T) {
	complete(t, cacheSet(nil), "Lookups", "Store") // hits and misses; collected as stores
	complete(t, statusSet(nil), "Entries", "Bytes", "MaxBytes")
	complete(t, storeSet(nil), "Lookups", "Promotions")           // those of layers have more to say
	complete(t, layerSet(nil), "Get", "Add", "Store", "MaxBytes") // histograms; collected as stores
	complete(t, promotionSet(nil))
	complete(t, remoteSet(nil))
	complete(t, slotSet(nil))
}

func complete[T any](t *testing.T, s set[T], elsewhere ...string) {
	t.Helper()
	before := values(t, s, *new(T))
	missing := map[string]bool{}
	for _, name := range elsewhere {
		missing[name] = true
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		var v T
		field := reflect.ValueOf(&v).Elem().FieldByIndex(f.Index)
		switch {
		case missing[f.Name], f.Anonymous:
			continue
		case field.CanInt():
			field.SetInt(3)
		case field.CanUint():
			field.SetUint(3)
		case field.Kind() == reflect.Bool:
			field.SetBool(true)
		default:
			continue // no number
		}
		after := values(t, s, v)
		changed := 0
		for i := range s.figures {
			if before[i] != after[i] {
				changed++
			}
		}
		require.Equal(t, 1, changed, "series that show %T.%s", v, f.Name)
	}
}

func values[T any](t *testing.T, s set[T], v T) (all []float64) {
	for _, f := range s.figures {
		value, _ := f.of(v)
		all = append(all, value)
		m := prometheus.MustNewConstMetric(f.desc, f.kind, value, append(make([]string, len(s.whose)), f.values...)...)
		require.NoError(t, m.Write(&dto.Metric{}))
	}
	return all
}

func TestHistogram(t *testing.T) {
	desc := prometheus.NewDesc("x", "x", nil, nil)
	buckets := make([]uint64, 28)
	buckets[0], buckets[1], buckets[2], buckets[27] = 1, 10, 100, 1000
	var m dto.Metric
	require.NoError(t, histogram(desc, modcache.Latency{Buckets: buckets, Total: 5e9}).Write(&m))
	h := m.GetHistogram()
	require.EqualValues(t, 1111, h.GetSampleCount())
	require.Equal(t, 5.0, h.GetSampleSum())
	require.Equal(t, 1e-6, h.GetBucket()[0].GetUpperBound())
	require.EqualValues(t, 1, h.GetBucket()[0].GetCumulativeCount())
	require.Equal(t, 4e-6, h.GetBucket()[1].GetUpperBound())
	require.EqualValues(t, 111, h.GetBucket()[1].GetCumulativeCount())
	last := h.GetBucket()[len(h.GetBucket())-1]
	require.InDelta(t, 67, last.GetUpperBound(), 0.2)
	require.EqualValues(t, 111, last.GetCumulativeCount(), "what took longer is in the last bucket, which is infinite")
}
