package modcacheprom_test

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metricsql"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/modcacheprom"
	"github.com/modcache/modcache/modcachetest"
	"github.com/modcache/modcache/remote"
)

// everything registers a Collector that has all there is to collect.
func everything(t *testing.T) (*prometheus.Registry, *modcache.Layered) {
	t.Helper()
	key, err := remote.GenerateKey()
	require.NoError(t, err)
	server, err := remote.New("http://127.0.0.1:1", &remote.Options{Signer: key, FirstByte: time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	layered := modcache.NewLayered(nil,
		modcache.Layer{Name: "memory", Store: modcache.NewMemory(nil), Timeout: time.Minute},
		modcache.Layer{Name: "slow", Store: modcache.NewMemory(nil), Timeout: time.Minute})
	t.Cleanup(func() { require.NoError(t, layered.Close()) })
	cache, err := modcache.New(layered, &modcache.Options{EngineID: "test"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cache.Close(context.Background())) })
	return register(t, cache, &modcacheprom.Options{
		Labels:  prometheus.Labels{"cache": "plugins"},
		Remotes: map[string]*remote.Store{"fleet": server},
		Slots: func(yield func(string, modcache.SlotMetrics) bool) {
			_ = yield("files", modcache.SlotMetrics{Live: 3, Inserts: 5}) && yield("sockets", modcache.SlotMetrics{Full: 7})
		},
	}), layered
}

func register(t *testing.T, c *modcache.Cache, o *modcacheprom.Options) *prometheus.Registry {
	t.Helper()
	collector, err := modcacheprom.New(c, o)
	require.NoError(t, err)
	registry := prometheus.NewPedanticRegistry() // which compares what is collected with what was described
	require.NoError(t, registry.Register(collector))
	return registry
}

// gather returns what a registry has, by name.
func gather(t *testing.T, r *prometheus.Registry) map[string]*dto.MetricFamily {
	t.Helper()
	all, err := r.Gather()
	require.NoError(t, err)
	families := map[string]*dto.MetricFamily{}
	for _, f := range all {
		families[f.GetName()] = f
	}
	return families
}

func TestCollectorLayered(t *testing.T) {
	registry, layered := everything(t)
	ctx := t.Context()
	require.NoError(t, layered.Add(ctx, modcache.Key{1}, modcache.NewArtifact([]byte("code"), modcache.Info{})))
	require.NoError(t, layered.Flush(ctx))
	for _, k := range []byte{1, 1, 2} {
		_, _, err := layered.Get(ctx, modcache.Key{k})
		require.NoError(t, err)
	}
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP modcache_layer_hits_total Lookups that a layer answered.
# TYPE modcache_layer_hits_total counter
modcache_layer_hits_total{cache="plugins",layer="memory"} 2
modcache_layer_hits_total{cache="plugins",layer="slow"} 0
# HELP modcache_slots_live Handles that are valid.
# TYPE modcache_slots_live gauge
modcache_slots_live{cache="plugins",table="files"} 3
modcache_slots_live{cache="plugins",table="sockets"} 0
# HELP modcache_store_lookups_total Lookups of a store, by what came of them.
# TYPE modcache_store_lookups_total counter
modcache_store_lookups_total{cache="plugins",result="hit",store="memory"} 2
modcache_store_lookups_total{cache="plugins",result="hit",store="slow"} 0
modcache_store_lookups_total{cache="plugins",result="miss",store="memory"} 1
modcache_store_lookups_total{cache="plugins",result="miss",store="slow"} 1
`), "modcache_layer_hits_total", "modcache_slots_live", "modcache_store_lookups_total"))

	calls := gather(t, registry)["modcache_layer_call_seconds"]
	require.Len(t, calls.GetMetric(), 4, "two layers, two operations")
	for _, m := range calls.GetMetric() {
		h := m.GetHistogram()
		require.Len(t, h.GetBucket(), 14)
		if labels(m)["layer"] == "memory" && labels(m)["op"] == "get" {
			require.EqualValues(t, 3, h.GetSampleCount())
			require.EqualValues(t, 3, h.GetBucket()[13].GetCumulativeCount(), "none took a minute")
		}
	}
}

func labels(m *dto.Metric) map[string]string {
	all := map[string]string{}
	for _, l := range m.GetLabel() {
		all[l.GetName()] = l.GetValue()
	}
	return all
}

// TestCollectorPlain has a Cache over one store, which is collected like a layer.
func TestCollectorPlain(t *testing.T) {
	cachetest.NeedsCompiler(t) // else nothing is stored
	cache, err := modcache.Open(t.TempDir(), &modcache.Options{EngineID: "test", Disk: modcache.DiskOptions{MaxBytes: 1 << 30}})
	require.NoError(t, err)
	registry := register(t, cache, nil)
	check := func(name string, value float64) {
		t.Helper()
		f := gather(t, registry)[name]
		require.Len(t, f.GetMetric(), 1, name)
		m := f.GetMetric()[0]
		require.Equal(t, value, m.GetGauge().GetValue(), name)
		if strings.HasPrefix(name, "modcache_store_") {
			require.Equal(t, map[string]string{"store": "disk"}, labels(m))
		}
	}
	check("modcache_storing", 1)
	check("modcache_store_max_bytes", 1<<30)
	require.NotContains(t, gather(t, registry), "modcache_layer_open")
	require.NoError(t, cache.Close(context.Background()))
	check("modcache_storing", 0)

	two := prometheus.NewRegistry()
	for _, name := range []string{"a", "b"} {
		c, err := modcacheprom.New(cache, &modcacheprom.Options{Labels: prometheus.Labels{"cache": name}})
		require.NoError(t, err)
		require.NoError(t, two.Register(c), "two Caches in one registry")
	}
}

// TestCollectorStoreThatHangs has a scrape go on without a store that doesn't return.
func TestCollectorStoreThatHangs(t *testing.T) {
	hang := modcachetest.NewFaulty(modcache.NewMemory(nil), &modcachetest.Plan{Faults: []modcachetest.Fault{{Op: modcachetest.OpMetrics, Hang: true, Rate: 1}}})
	layered := modcache.NewLayered(nil, modcache.Layer{Name: "hangs", Store: hang, Timeout: time.Millisecond})
	cache, err := modcache.New(layered, &modcache.Options{EngineID: "test"})
	require.NoError(t, err)
	defer func() {
		hang.Release()
		require.NoError(t, layered.Close())
		require.NoError(t, cache.Close(context.Background()))
	}()
	require.Contains(t, gather(t, register(t, cache, nil)), "modcache_layer_hung_calls")
}

func TestCollectorSlotsThatPanic(t *testing.T) {
	cache, err := modcache.New(modcache.NewMemory(nil), &modcache.Options{EngineID: "test"})
	require.NoError(t, err)
	defer cache.Close(context.Background())
	registry := register(t, cache, &modcacheprom.Options{Slots: func(func(string, modcache.SlotMetrics) bool) { panic("oops") }})
	_, err = registry.Gather()
	require.ErrorContains(t, err, "Options.Slots panicked: oops")
}

func TestCollectorMisuse(t *testing.T) {
	_, err := modcacheprom.New(nil, nil)
	require.ErrorContains(t, err, "modcache: ")
	cache, err := modcache.New(modcache.NewMemory(nil), &modcache.Options{EngineID: "test"})
	require.NoError(t, err)
	defer cache.Close(context.Background())
	_, err = modcacheprom.New(cache, &modcacheprom.Options{Remotes: map[string]*remote.Store{"x": nil}})
	require.ErrorContains(t, err, `Remotes["x"]`)
}

// TestCollectorNames has Prometheus' own rules for names checked.
func TestCollectorNames(t *testing.T) {
	registry, _ := everything(t)
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
}

// TestReadme compares the table in README.md with what there is.
func TestReadme(t *testing.T) {
	registry, _ := everything(t)
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("`(modcache_[a-z_]+)").FindAllStringSubmatch(string(text), -1) {
		listed[m[1]] = true
	}
	there := gather(t, registry)
	there["modcache_store_max_bytes"] = nil // which no layer tells
	alerts := regexp.MustCompile(`(?m)^    expr: (.+)$`).FindAllStringSubmatch(string(text), -1)
	require.NotEmpty(t, alerts)
	for _, m := range alerts {
		require.Empty(t, problemsOf(m[1], "", hasOf(there)), m[1])
		require.NotRegexp(t, `rate\(|increase\(`, m[1], "doesn't see what a program counts before the first scrape")
	}
	require.Equal(t, slices.Sorted(maps.Keys(there)), slices.Sorted(maps.Keys(listed)))
}

// TestDashboard looks for every series that the dashboard asks for, with its labels.
func TestDashboard(t *testing.T) {
	registry, _ := everything(t)
	has := hasOf(gather(t, registry))

	text, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	var dashboard struct {
		Templating struct {
			List []struct{ Type, Query string }
		}
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	require.NoError(t, json.Unmarshal(text, &dashboard))
	queries := 0
	for _, p := range dashboard.Panels {
		for _, q := range p.Targets {
			queries++
			for _, problem := range problemsOf(q.Expr, q.LegendFormat, has) {
				t.Errorf("panel %q: %s", p.Title, problem)
			}
		}
	}
	require.Greater(t, queries, 40)
	for _, v := range dashboard.Templating.List {
		if name, ok := strings.CutPrefix(v.Query, "label_values("); ok {
			name, _, _ = strings.Cut(name, ",")
			require.Contains(t, has, name)
		}
	}

	// The test would see what is wrong.
	require.NotEmpty(t, problemsOf(`rate(modcache_no_such_total[5m])`, "", has))
	require.NotEmpty(t, problemsOf(`sum by (table) (modcache_storing)`, "", has))
	require.NotEmpty(t, problemsOf(`modcache_storing{layer="x"}`, "", has))
	require.NotEmpty(t, problemsOf(`modcache_storing`, "{{layer}}", has))
	require.NotEmpty(t, problemsOf(`sum(modcache_storing`, "", has))
}

// hasOf returns the series that there are to ask for, with their labels.
func hasOf(families map[string]*dto.MetricFamily) map[string]map[string]bool {
	has := map[string]map[string]bool{"modcache_store_max_bytes": {"store": true}} // which no layer tells
	for name, f := range families {
		if f == nil {
			continue
		}
		has[name] = map[string]bool{}
		for _, m := range f.GetMetric() {
			for l := range labels(m) {
				has[name][l] = true
			}
		}
		if f.GetType() == dto.MetricType_HISTOGRAM {
			has[name+"_bucket"] = maps.Clone(has[name])
			has[name+"_bucket"]["le"] = true
			delete(has, name)
		}
	}
	return has
}

// problemsOf returns what a query asks for that there isn't.
func problemsOf(expr, legend string, has map[string]map[string]bool) (problems []string) {
	e, err := metricsql.Parse(strings.ReplaceAll(expr, "$__rate_interval", "5m"))
	if err != nil {
		return []string{err.Error()}
	}
	known := map[string]bool{"job": true, "instance": true} // Prometheus' own
	var asked []string
	metricsql.VisitAll(e, func(e metricsql.Expr) {
		switch e := e.(type) {
		case *metricsql.MetricExpr:
			for _, filters := range e.LabelFilterss {
				for _, f := range filters {
					if f.Label != "__name__" {
						asked = append(asked, f.Label)
					} else if labels, ok := has[f.Value]; ok {
						maps.Copy(known, labels)
					} else {
						problems = append(problems, "no series "+f.Value)
					}
				}
			}
		case *metricsql.AggrFuncExpr:
			asked = append(asked, e.Modifier.Args...)
		}
	})
	for _, m := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(legend, -1) {
		asked = append(asked, m[1])
	}
	for _, l := range asked {
		if !known[l] {
			problems = append(problems, "no label "+l)
		}
	}
	return problems
}

// The names of layers and tables may be anything; Prometheus takes text only.
func TestCollectorWithNamesThatAreNoText(t *testing.T) {
	layered := modcache.NewLayered(nil, modcache.Layer{Name: "near\xff", Store: modcache.NewMemory(nil)})
	t.Cleanup(func() { require.NoError(t, layered.Close()) })
	cache, err := modcache.New(layered, &modcache.Options{EngineID: "test"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cache.Close(context.Background())) })
	registry := register(t, cache, &modcacheprom.Options{Slots: func(yield func(string, modcache.SlotMetrics) bool) {
		yield("files\xff", modcache.SlotMetrics{})
	}})
	families := gather(t, registry)
	require.Equal(t, `near\xff`, families["modcache_layer_hits_total"].GetMetric()[0].GetLabel()[0].GetValue())
	require.Equal(t, `files\xff`, families["modcache_slots_live"].GetMetric()[0].GetLabel()[0].GetValue())
}
