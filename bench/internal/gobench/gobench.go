// Package gobench runs Go benchmarks in rounds and sorts their results into
// cases.
package gobench

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"

	"github.com/modcache/modcache/bench/internal/report"
)

// Suite is a package whose benchmarks are run.
type Suite struct {
	Dir     string   // of the package
	Pattern string   // of go test -bench
	Args    []string // further flags, as -test.benchtime
	Rounds  int
	Rules   []Rule
}

// Rule says which benchmarks are the sides of a case.
type Rule struct {
	Pattern   string         // of the whole name, without "Benchmark" and without the number of CPUs
	CPUs      int            // of -test.cpu; 0 = any
	Case      report.Case    // Name may refer to groups of the pattern, as $1
	Side      string         // likewise
	Unit      string         // of the benchmark's output; ns/op if empty
	Ours      *regexp.Regexp // sides that are modcache's
	Yardstick string
	Figures   map[string]report.Figure // by unit of the benchmark's output
	Scale     float64                  // what values are multiplied with; 0 = 1
}

// dirVariable tells the benchmarks where to leave files that go with tmp.
const dirVariable = "BENCH_DIR"

// Run builds the package's tests and runs the benchmarks round by round, so that
// those of one case take turns. It returns what it has when a round fails.
func (s Suite) Run(ctx context.Context, tmp string) ([]report.Case, error) {
	binary := filepath.Join(tmp, "benchmarks.test.exe")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, ".")
	build.Dir = s.Dir
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the benchmarks in %s: %w\n%s", s.Dir, err, out)
	}
	defer os.Remove(binary)
	var out bytes.Buffer
	var failed error
	for range s.Rounds {
		args := append([]string{"-test.run=^$", "-test.bench=" + s.Pattern, "-test.benchmem", "-test.timeout=10m"}, s.Args...)
		cmd := exec.CommandContext(ctx, binary, args...)
		cmd.Dir = s.Dir
		cmd.Env = append(os.Environ(), dirVariable+"="+tmp)
		b, err := cmd.CombinedOutput()
		out.Write(b)
		if err != nil {
			failed = fmt.Errorf("benchmarks in %s: %w\n%s", s.Dir, err, tail(b))
			break
		}
	}
	cases, err := Parse(&out, s.Rules)
	return cases, errors.Join(failed, err)
}

// tail returns the last lines of a long output.
func tail(b []byte) []byte {
	const most = 2000
	return b[max(0, len(b)-most):]
}

// Parse sorts the output of benchmarks into cases. The cases are in the order of
// the rules, and those of one rule in the order of the output. A rule that
// matches nothing is an error, and so is output that can't be read.
func Parse(r io.Reader, rules []Rule) ([]report.Case, error) {
	sorted := make([]collection, len(rules))
	patterns := make([]*regexp.Regexp, len(rules))
	for i, rule := range rules {
		patterns[i] = regexp.MustCompile("^" + rule.Pattern + "$")
		sorted[i] = collection{rule: rule, figures: make(map[[3]string][]float64)}
	}
	var errs []error
	reader := benchfmt.NewReader(r, "benchmarks")
	for reader.Scan() {
		switch record := reader.Result().(type) {
		case *benchfmt.SyntaxError:
			errs = append(errs, record)
		case *benchfmt.Result:
			name, cpus := split(string(record.Name))
			for i, rule := range rules {
				m := patterns[i].FindStringSubmatchIndex(name)
				if m == nil || rule.CPUs != 0 && rule.CPUs != cpus {
					continue
				}
				expand := func(template string) string {
					s := string(patterns[i].ExpandString(nil, template, name, m))
					return strings.TrimSpace(strings.ReplaceAll(s, "_", " "))
				}
				sorted[i].add(expand(rule.Case.Name), expand(rule.Side), record)
			}
		}
	}
	errs = append(errs, reader.Err())
	var cases []report.Case
	for _, c := range sorted {
		if len(c.cases) == 0 {
			errs = append(errs, fmt.Errorf("no benchmark like %s", c.rule.Pattern))
		}
		cases = append(cases, c.cases...)
	}
	return cases, errors.Join(errs...)
}

var withCPUs = regexp.MustCompile(`^(.*)-(\d+)$`)

// split takes the number of CPUs off a benchmark's name.
func split(full string) (name string, cpus int) {
	parts := withCPUs.FindStringSubmatch(full)
	if parts == nil {
		return full, 1
	}
	_, _ = fmt.Sscan(parts[2], &cpus)
	return parts[1], cpus
}

// collection is what a rule matched.
type collection struct {
	rule    Rule
	cases   []report.Case
	figures map[[3]string][]float64 // by case, side and figure
}

// add notes a result in the case of that name.
func (c *collection) add(name, side string, record *benchfmt.Result) {
	rule := c.rule
	value, ok := measured(record, rule.unit())
	if !ok {
		return
	}
	i := slices.IndexFunc(c.cases, func(c report.Case) bool { return c.Name == name })
	if i < 0 {
		i = len(c.cases)
		c.cases = append(c.cases, rule.Case)
		c.cases[i].Name = name
	}
	role := report.Peer
	switch {
	case rule.Ours.MatchString(side):
		role = report.Ours
	case side == rule.Yardstick:
		role = report.Yardstick
	}
	row := c.cases[i].Add(side, role, value*cmp.Or(rule.Scale, 1))
	for _, unit := range slices.Sorted(maps.Keys(rule.Figures)) {
		v, ok := measured(record, unit)
		if !ok {
			continue
		}
		f := rule.Figures[unit]
		id := [3]string{name, side, f.Name}
		c.figures[id] = append(c.figures[id], v)
		f.Value = report.Quantile(c.figures[id], 0.5)
		if at := slices.IndexFunc(row.Figures, func(o report.Figure) bool { return o.Name == f.Name }); at >= 0 {
			row.Figures[at] = f
		} else {
			row.Figures = append(row.Figures, f)
		}
	}
}

func (rule Rule) unit() string {
	if rule.Unit == "" {
		return "ns/op"
	}
	return rule.Unit
}

// measured returns a value in the unit that the benchmark printed.
func measured(record *benchfmt.Result, unit string) (float64, bool) {
	for _, v := range record.Values {
		switch unit {
		case v.OrigUnit:
			return v.OrigValue, true
		case v.Unit:
			return v.Value, true
		}
	}
	return 0, false
}
