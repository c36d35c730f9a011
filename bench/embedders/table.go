package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
)

func header(w io.Writer) {
	fmt.Fprintln(w, "| | | open | compile | instantiate | first call | total | of the directory's | peak RSS, MB |")
	fmt.Fprintln(w, "|---|---|---:|---:|---:|---:|---:|---:|---:|")
}

// table writes the rows of an embedder. Rounds are compared pair by pair: the ratio is the
// median of the rounds' ratios.
func table(w io.Writer, name string, sides []side, rounds [][]started) {
	reference := rounds[slices.IndexFunc(sides, func(s side) bool { return s.name == directory })]
	for i, s := range sides {
		column := func(f func(started) float64) string { return number(median(rounds[i], f)) }
		n := -1
		ratio := median(rounds[i], func(r started) float64 { n++; return r.Total / reference[n].Total })
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", name, s.name,
			column(func(r started) float64 { return r.Open }),
			column(func(r started) float64 { return r.Compile }),
			column(func(r started) float64 { return r.Instantiate }),
			column(started.Call),
			column(func(r started) float64 { return r.Total }),
			strconv.FormatFloat(ratio, 'f', 2, 64),
			column(func(r started) float64 { return r.PeakMB }))
		name = ""
	}
}

func median(rounds []started, f func(started) float64) float64 {
	values := make([]float64, len(rounds))
	for i, r := range rounds {
		values[i] = f(r)
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// number writes three digits, or all before the point.
func number(v float64) string {
	switch {
	case v < 10:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}
