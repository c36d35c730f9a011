package gobench

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/bench/internal/report"
)

// output is of two rounds, on one CPU and on two.
const output = `goos: linux
goarch: amd64
pkg: example.com/stores
BenchmarkGet/ours         	 8000000	        14.00 ns/op	       0 B/op	       0 allocs/op
BenchmarkGet/ours-2       	 8000000	         7.00 ns/op	       0 B/op	       0 allocs/op
BenchmarkGet/hashicorp-lru  	 1000000	       100.0 ns/op	       8 B/op	       1 allocs/op
BenchmarkGet/hashicorp-lru-2	 1000000	       200.0 ns/op	       8 B/op	       1 allocs/op
BenchmarkClose-2          	     100	   5000000 ns/op	        48.50 B/slot	        25.00 ns/slot
PASS
goos: linux
BenchmarkGet/ours         	 8000000	        16.00 ns/op	       0 B/op	       2 allocs/op
BenchmarkGet/hashicorp-lru  	 1000000	       110.0 ns/op	       8 B/op	       1 allocs/op
BenchmarkAdd/16_MiB/a_peer-2	       3	  400000.0 ns/op
PASS
ok  	example.com/stores	3.1s
`

var ours = regexp.MustCompile("^ours")

func TestParse(t *testing.T) {
	allocs := map[string]report.Figure{"allocs/op": {Name: "allocs"}}
	cases, err := Parse(strings.NewReader(output), []Rule{
		{Pattern: `Add/(.+)/(.+)`, Case: report.Case{Name: "Add, $1", Unit: "µs"}, Side: "$2", Ours: ours, Scale: 1e-3},
		{Pattern: `Get/(.+)`, CPUs: 1, Case: report.Case{Name: "Get, one", Unit: "ns", Reference: "ours", Chart: true}, Side: "$1", Ours: ours, Figures: allocs},
		{Pattern: `Get/(.+)`, CPUs: 2, Case: report.Case{Name: "Get, two", Unit: "ns"}, Side: "$1", Ours: ours, Yardstick: "hashicorp-lru"},
		{Pattern: `Close`, Unit: "B/slot", Case: report.Case{Name: "Memory", Unit: "B"}, Side: "ours", Ours: ours},
		{Pattern: `Close`, Unit: "ns/slot", Case: report.Case{Name: "Close", Unit: "ns"}, Side: "ours", Ours: ours},
	})
	require.NoError(t, err)
	require.Equal(t, []report.Case{
		{Name: "Add, 16 MiB", Unit: "µs", Rows: []report.Row{{Side: "a peer", Role: report.Peer, Samples: []float64{400}}}},
		{Name: "Get, one", Unit: "ns", Reference: "ours", Chart: true, Rows: []report.Row{
			{Side: "ours", Role: report.Ours, Samples: []float64{14, 16}, Figures: []report.Figure{{Name: "allocs", Value: 1}}},
			{Side: "hashicorp-lru", Role: report.Peer, Samples: []float64{100, 110}, Figures: []report.Figure{{Name: "allocs", Value: 1}}},
		}},
		{Name: "Get, two", Unit: "ns", Rows: []report.Row{
			{Side: "ours", Role: report.Ours, Samples: []float64{7}},
			{Side: "hashicorp-lru", Role: report.Yardstick, Samples: []float64{200}},
		}},
		{Name: "Memory", Unit: "B", Rows: []report.Row{{Side: "ours", Role: report.Ours, Samples: []float64{48.5}}}},
		{Name: "Close", Unit: "ns", Rows: []report.Row{{Side: "ours", Role: report.Ours, Samples: []float64{25}}}},
	}, cases)
}

// TestParseSaysWhatIsMissing has a benchmark that was renamed, and keeps the others.
func TestParseSaysWhatIsMissing(t *testing.T) {
	cases, err := Parse(strings.NewReader(output), []Rule{
		{Pattern: `Get/(.+)`, CPUs: 1, Case: report.Case{Name: "Get"}, Side: "$1", Ours: ours},
		{Pattern: `Put/(.+)`, Case: report.Case{Name: "Put"}, Side: "$1", Ours: ours},
	})
	require.ErrorContains(t, err, "no benchmark like Put/(.+)")
	require.Len(t, cases, 1)
}

func TestParseRejectsDamage(t *testing.T) {
	_, err := Parse(strings.NewReader("BenchmarkGet/ours 10 fast ns/op\n"), []Rule{{Pattern: `Get/(.+)`, Side: "$1", Ours: ours}})
	require.Error(t, err)
}
