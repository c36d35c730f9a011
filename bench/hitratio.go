package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/modcache/modcache/bench/internal/report"
)

var hitRatio = part{
	name:  "hitratio",
	title: "Compile time saved by eviction policies",
	about: "Simulated: 60,000 requests for 2,000 modules of lognormal sizes whose medians are between 200 KB and 90 MB, under a\n" +
		"budget of 10 % of their bytes (tight: 2 %, roomy: 33 %), 7 seeds. Policies in lower case without a library's name are\n" +
		"plain models. \"behind\" is how much less than modcache.Memory a side saves, seed by seed, with its 95 % interval. Run\n" +
		"`go run ./hitratio` for other seeds.",
	run: runHitRatio,
}

// simulated is what the command hitratio prints for a workload.
type simulated struct {
	Workload string
	Policies []struct {
		Name                              string
		Saved                             []float64 // percent of compile time, by seed
		Objects, Bytes, Behind, Plusminus float64
	}
}

// charted are the workloads that differ most.
var charted = map[string]bool{"zipf1.0": true, "churn-fast": true, "one-off": true}

func runHitRatio(ctx context.Context, b *bench) (cases []report.Case, err error) {
	binary := filepath.Join(b.tmp, "hitratio.exe")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "./hitratio").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build hitratio: %w\n%s", err, out)
	}
	args := []string{"-json"}
	if b.quick {
		args = append(args, "-seeds", "2", "-workload", "zipf1.0,churn")
	}
	out, err := exec.CommandContext(ctx, binary, args...).Output()
	if err != nil {
		if e, ok := err.(*exec.ExitError); ok {
			err = fmt.Errorf("hitratio: %w\n%s", err, e.Stderr)
		}
		return nil, err
	}
	var workloads []simulated
	if err := json.Unmarshal(out, &workloads); err != nil {
		return nil, fmt.Errorf("hitratio: %w", err)
	}
	for _, w := range workloads {
		c := report.Case{Name: w.Workload, Unit: "%", Higher: true, Chart: charted[w.Workload], Reference: "modcache"}
		for _, p := range w.Policies {
			row := report.Row{Side: p.Name, Role: report.Peer, Samples: p.Saved, Figures: []report.Figure{
				{Name: "objects, %", Value: p.Objects, Higher: true}, {Name: "bytes, %", Value: p.Bytes, Higher: true},
			}}
			if p.Name == "modcache" {
				row.Role = report.Ours
			} else {
				row.Figures = append(row.Figures, report.Figure{Name: "behind", Value: p.Behind}, report.Figure{Name: "±", Value: p.Plusminus})
			}
			c.Rows = append(c.Rows, row)
		}
		cases = append(cases, c)
	}
	return append(cases, meanOf(cases)), nil
}

// meanOf returns the mean of all workloads, seed by seed.
func meanOf(cases []report.Case) report.Case {
	mean := report.Case{Name: "mean of these", Unit: "%", Higher: true, Chart: true, Headline: true, Reference: "modcache"}
	for _, c := range cases {
		for i, r := range c.Rows {
			if i == len(mean.Rows) {
				mean.Rows = append(mean.Rows, report.Row{Side: r.Side, Role: r.Role, Samples: make([]float64, len(r.Samples))})
			}
			for seed, v := range r.Samples {
				mean.Rows[i].Samples[seed] += v / float64(len(cases))
			}
		}
	}
	return mean
}
