package report

import (
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

var sample = Report{
	Machine: Machine{CPU: "Some CPU", CPUs: 2, RAM: "24 GiB", OS: "linux/amd64", Go: "go1.26", Wazero: "v1.12.0"},
	Parts: []Part{{
		Name: "warmstart", Title: "Warm start", About: "How it is measured.",
		Begin: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Took: 61.4, Load: 0.25, Commit: "abc1234",
		Cases: []Case{
			{Name: "small, 1.4 MB", Unit: "ms", Reference: "wazero, directory", Chart: true, Headline: true, Rows: []Row{
				{Side: "no cache", Role: Peer, Aside: true, Samples: []float64{1500, 1700}},
				{Side: "wazero, directory", Role: Peer, Samples: []float64{12, 13, 11, 10, 14}, Figures: []Figure{{Name: "peak RSS, MB", Value: 20}}},
				{Side: "modcache, Runtime", Role: Ours, Samples: []float64{3, 2, 4}, Figures: []Figure{{Name: "peak RSS, MB", Value: 25}}},
				{Side: "modcache, drop-in", Role: Ours, Samples: []float64{15}},
			}},
			{Name: "saved", Unit: "%", Higher: true, Rows: []Row{
				{Side: "peer|pipe", Role: Peer, Samples: []float64{70}},
				{Side: "modcache, *Module", Role: Ours, Samples: []float64{65}},
				{Side: "floor", Role: Yardstick, Samples: []float64{99}},
			}},
		},
	}, {
		Name: "herd", Title: "Herd", About: "More.", Quick: true, Error: "the process died\nof something",
	}},
}

func TestDocuments(t *testing.T) {
	var full, summary strings.Builder
	sample.Full(&full, "go run .")
	sample.Summary(&summary)
	for name, got := range map[string]string{"full.md": full.String(), "summary.md": summary.String()} {
		file := filepath.Join("testdata", name)
		if *update {
			require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, strings.ReplaceAll(string(want), "\r\n", "\n"), got)
	}
}

func TestLosses(t *testing.T) {
	require.Equal(t, []string{
		"small, 1.4 MB, peak RSS, MB: modcache, Runtime 25, wazero, directory 20",
		"small, 1.4 MB: modcache, drop-in 15 ms, wazero, directory 12 ms",
		`saved: modcache, \*Module 65 %, peer\|pipe 70 %`,
	}, sample.Parts[0].losses(true))
	require.Len(t, sample.Parts[0].losses(false), 2)
}

func TestJSON(t *testing.T) {
	b, err := json.Marshal(sample)
	require.NoError(t, err)
	require.Contains(t, string(b), `"side":"wazero, directory","role":"peer","median":12,"lower_quartile":11,"upper_quartile":13,`)
	var back Report
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, sample, back)
}

func TestDraw(t *testing.T) {
	c := sample.Parts[0].Draw(sample.Machine)
	require.Len(t, c.Groups, 1, "of charted cases")
	require.Equal(t, "less is better; no cache: 1.60 s", c.Groups[0].Note)
	require.Len(t, c.Groups[0].Bars, 3, "all but what stands aside")
	require.Equal(t, "3 ms", c.Groups[0].Bars[1].Text)
	require.True(t, c.Groups[0].Bars[1].Ours)
}

func TestQuantile(t *testing.T) {
	samples := []float64{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{0: 1, 0.25: 2, 0.5: 3, 0.75: 4, 1: 5, 0.375: 2.5} {
		require.InDelta(t, want, Quantile(samples, q), 1e-12)
	}
	require.Equal(t, []float64{5, 1, 4, 2, 3}, samples, "left as they were")
	require.Equal(t, 7.0, Quantile([]float64{7}, 0.75))
	require.InDelta(t, 1.5, Quantile([]float64{2, 1}, 0.5), 1e-12)
	require.True(t, math.IsNaN(Quantile(nil, 0.5)))
}

func TestQuantity(t *testing.T) {
	for _, c := range []struct {
		v          float64
		unit, want string
	}{
		{12.345, "ms", "12.3 ms"}, {1.2345, "ms", "1.23 ms"}, {999.4, "ms", "999 ms"}, {1234, "ms", "1.23 s"},
		{0.05, "ms", "50 µs"}, {2e-5, "µs", "0.02 ns"}, {9.999, "ns", "10.0 ns"}, {99.96, "ns", "100 ns"},
		{2.5e9, "ns", "2.50 s"}, {7.2e12, "ns", "7200 s"}, {0, "ns", "0 ns"}, {1536.5, "MB", "1536 MB"}, {48, "B", "48 B"}, {3, "", "3"},
		{math.NaN(), "ms", "– ms"},
	} {
		require.Equal(t, c.want, quantity(c.v, c.unit))
	}
}

func TestMerge(t *testing.T) {
	here, there := Machine{CPU: "here"}, Machine{CPU: "there"}
	old := Report{here, []Part{{Name: "a", Took: 1}, {Name: "b", Took: 1}}}
	again := Report{here, []Part{{Name: "b", Took: 2}, {Name: "c", Took: 2}}}
	require.Equal(t, []Part{{Name: "a", Took: 1}, {Name: "b", Took: 2}, {Name: "c", Took: 2}}, again.Merge(old).Parts)
	require.Len(t, old.Parts, 2)
	elsewhere := Report{there, again.Parts}
	require.Equal(t, elsewhere, elsewhere.Merge(old))
}
