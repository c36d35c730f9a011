// Command bench measures modcache beside what else there is, on this machine.
//
//	go run .                      # everything, about ten minutes; writes ../docs/bench
//	go run . -quick               # shows in two minutes that everything works; writes out
//	go run . -only warmstart,herd # some parts; writes out
//	go run . -only warmstart my.wasm
//
// Run it in the directory bench, on a machine that does nothing else. A part
// that fails says so, the others go on, and the exit code is 1.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/modcache/modcache/bench/internal/chart"
	"github.com/modcache/modcache/bench/internal/report"
)

// parts are the comparisons, in the order of the report.
var parts = []part{warmStart, firstCall, plugins, instances, herd, repeat, request, disk, stores, hitRatio, slots, importCost}

func main() {
	if len(os.Args) > 1 && os.Args[1] == childFlag {
		os.Exit(childMain(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	quick := flag.Bool("quick", false, "a short version, to see that everything works")
	only := flag.String("only", "", "names of parts, separated by commas: "+strings.Join(names(), ", "))
	dir := flag.String("out", "", "directory for results.json, README.md, summary.md and the charts; parts of an earlier run there that are not run again stay (default ../docs/bench for a full run, else out)")
	jsonTo := flag.String("json", "", "write the results of this run to this file as well; - is standard output")
	render := flag.Bool("render", false, "measure nothing, and write the documents again from results.json")
	flag.Parse()
	if *dir == "" {
		*dir = "out"
		if !*quick && *only == "" && flag.NArg() == 0 {
			*dir = filepath.Join("..", "docs", "bench")
		}
	}
	old, err := load(*dir)
	if err != nil {
		return err
	}
	if *render {
		return write(*dir, old)
	}
	selected, err := choose(*only)
	if err != nil {
		return err
	}
	b, err := newBench(ctx, *quick, flag.Args())
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.tmp)
	r := report.Report{Machine: machine(ctx)}
	fmt.Fprintln(os.Stderr, r.Machine)
	var failed []string
	if load := load1(); load > 0.5 {
		fmt.Fprintf(os.Stderr, "load average %.1f: something else is running, and it will show\n", load)
	}
	for _, p := range selected {
		result := b.measure(ctx, p)
		if ctx.Err() != nil {
			return errors.New("interrupted, nothing is written")
		}
		if result.Error != "" {
			failed = append(failed, p.name)
		}
		r.Parts = append(r.Parts, result)
	}
	if *jsonTo != "" {
		if err := writeJSON(*jsonTo, r); err != nil {
			return err
		}
	}
	if old.Parts != nil && old.Machine != r.Machine {
		fmt.Fprintln(os.Stderr, "the earlier results are of another machine, and go:", old.Machine)
	}
	r = order(r.Merge(old))
	if err := write(*dir, r); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "\nwritten:", filepath.Join(*dir, "README.md"))
	if *jsonTo != "-" {
		r.Summary(os.Stdout)
	}
	if failed != nil {
		return fmt.Errorf("failed: %s", strings.Join(failed, ", "))
	}
	return nil
}

func names() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

func choose(only string) ([]part, error) {
	if only == "" {
		return parts, nil
	}
	var chosen []part
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only %s: there is no part %q, but %s", only, name, strings.Join(names(), ", "))
		}
		chosen = append(chosen, parts[i])
	}
	return chosen, nil
}

// order sorts the parts of a report as they are run.
func order(r report.Report) report.Report {
	place := func(p report.Part) int { return slices.Index(names(), p.Name) }
	slices.SortStableFunc(r.Parts, func(a, b report.Part) int { return place(a) - place(b) })
	return r
}

// measure runs a part and makes the best of its failures.
func (b *bench) measure(ctx context.Context, p part) report.Part {
	begin := time.Now()
	result := report.Part{Name: p.name, Title: p.title, About: p.about,
		Begin: begin.UTC().Truncate(time.Second), Load: load1(), Commit: commit(ctx), Quick: b.quick}
	fmt.Fprintf(os.Stderr, "%-10s ", p.name)
	cases, err := p.contained(ctx, b)
	for _, c := range cases { // what is complete
		c.Rows = slices.DeleteFunc(c.Rows, func(r report.Row) bool { return len(r.Samples) == 0 })
		if len(c.Rows) > 0 {
			result.Cases = append(result.Cases, c)
		}
	}
	if err == nil && len(cases) == 0 {
		err = errors.New("nothing was measured")
	}
	if _, unfit := json.Marshal(result.Cases); unfit != nil { // infinite, or not a number
		result.Cases, err = nil, errors.Join(err, unfit)
	}
	took := time.Since(begin).Round(time.Second)
	result.Took = took.Seconds()
	if err != nil {
		result.Error = strings.ReplaceAll(err.Error(), b.tmp, "TMP")
		fmt.Fprintf(os.Stderr, "FAILED after %v: %v\n", took, err)
	} else {
		fmt.Fprintf(os.Stderr, "ok %v\n", took)
	}
	return result
}

// contained runs the part within a limit of time. A panic is an error.
func (p part) contained(ctx context.Context, b *bench) (cases []report.Case, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return p.run(ctx, b)
}

const resultsFile = "results.json"

// load returns the report of an earlier run, or an empty one.
func load(dir string) (r report.Report, err error) {
	b, err := os.ReadFile(filepath.Join(dir, resultsFile))
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		err = fmt.Errorf("read the results of an earlier run (delete the file to start anew): %w", err)
	}
	return r, err
}

func writeJSON(name string, r report.Report) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if name == "-" {
		_, err = os.Stdout.Write(b)
		return err
	}
	return os.WriteFile(name, b, 0o644)
}

// write makes the directory's files anew from the report.
func write(dir string, r report.Report) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(dir, resultsFile), r); err != nil {
		return err
	}
	for _, p := range r.Parts {
		if !p.Charted() {
			continue
		}
		drawing := p.Draw(r.Machine)
		for suffix, theme := range map[string]chart.Theme{"": chart.Light, "-dark": chart.Dark} {
			if err := os.WriteFile(filepath.Join(dir, p.Name+suffix+".svg"), drawing.SVG(theme), 0o644); err != nil {
				return err
			}
		}
	}
	for name, text := range map[string]func(io.Writer){"README.md": func(w io.Writer) { r.Full(w, "go run .") }, "summary.md": r.Summary} {
		var buf bytes.Buffer
		text(&buf)
		if err := os.WriteFile(filepath.Join(dir, name), buf.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
