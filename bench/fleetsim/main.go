// Command fleetsim computes what a deploy to a fleet costs with and without a remote
// layer, and prints it as a table.
//
// The model: every node starts within a window, evenly spread, and needs one
// module that nobody has on disk. Without the layer it compiles it. With
// the layer it asks the server, one round trip. If the entry is there, it downloads it, at its
// own rate or an even share of the server's, whichever is less. If that takes longer than a
// quarter of the compile time, but not less than half a second, it gives up and compiles.
// A bounded server turns away whom it couldn't serve in half of that time, and these compile
// at once. If the entry isn't there, the node compiles and
// uploads, unless somebody was faster. The entry is there once the first node has
// compiled and uploaded it, or from the start if a build has uploaded it before.
// Behind edges, each serves an even part of the nodes and fetches the entry once. Time on
// disk and for decompression is left out, and so are failures; real stores give up hopeless
// transfers earlier than at the end of the budget.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
)

func main() {
	m := defaults()
	flag.Float64Var(&m.window, "window", m.window, "seconds over which nodes start")
	flag.Float64Var(&m.compile, "compile", m.compile, "seconds of compiling the module")
	flag.Float64Var(&m.size, "size", m.size, "bytes of the compressed entry")
	flag.Float64Var(&m.rtt, "rtt", m.rtt, "seconds of a round trip")
	flag.Float64Var(&m.node, "node", m.node, "bytes per second of one node")
	flag.Parse()
	table(os.Stdout, m)
}

const (
	mega = 1e6
	gbit = 1e9 / 8
)

// defaults are a module of 14 MB that compiles in 4 s to 66 MB of code.
func defaults() model {
	return model{window: 10, compile: 4, size: 11 * mega, rtt: 0.002, node: gbit}
}

// servers are what entries are kept on, and the fleets they are shown for.
var servers = []struct {
	name   string
	rate   float64
	edges  int
	fleets []int
}{
	{"nginx, 1 Gbit/s", gbit, 0, []int{40, 1000}},
	{"nginx, 25 Gbit/s", 25 * gbit, 0, []int{1000, 10_000}},
	{"object storage, 1 Tbit/s", 1000 * gbit, 0, []int{10_000, 100_000, 1_000_000}},
	{"CDN, 200 edges of 100 Gbit/s", 100 * gbit, 200, []int{100_000, 1_000_000, 10_000_000}},
}

func table(w io.Writer, m model) {
	fmt.Fprintln(w, "| nodes | layer | compiled | gave up | turned away | CPU, h | sent to nodes | sent by origin | peak, Gbit/s | median, s | p99, s |")
	fmt.Fprintln(w, "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, n := range []int{40, 1000, 10_000, 100_000, 1_000_000, 10_000_000} {
		m.nodes = n
		row(w, m, "none")
		for _, s := range servers {
			if !slices.Contains(s.fleets, n) {
				continue
			}
			c := m
			c.cached, c.server, c.edges = true, s.rate, s.edges
			if s.edges == 0 {
				row(w, c, s.name)
			}
			c.early = true
			row(w, c, s.name+", uploaded before")
			if float64(n)*c.size/c.window > s.rate*float64(max(1, s.edges)) {
				row(w, c.bounded(), s.name+", uploaded before, bounded")
			}
		}
	}
}

func row(w io.Writer, m model, layer string) {
	r := m.run()
	fmt.Fprintf(w, "| %d | %s | %d | %d | %d | %s | %s | %s | %s | %.2f | %.2f |\n",
		m.nodes, layer, r.compiles, r.gaveUp, r.turned, digits(r.cpu/3600), volume(r.egress), volume(r.origin), digits(r.peak/gbit), r.median, r.p99)
}

// digits prints two significant digits, or whole numbers.
func digits(x float64) string {
	if x < 10 {
		return strconv.FormatFloat(x, 'g', 2, 64)
	}
	return strconv.FormatFloat(x, 'f', 0, 64)
}

func volume(n float64) string {
	for _, unit := range []string{"B", "kB", "MB", "GB"} {
		if n < 1000 {
			return digits(n) + " " + unit
		}
		n /= 1000
	}
	return digits(n) + " TB"
}

func quantiles(times []float64) (median, p99, worst float64) {
	if len(times) == 0 {
		return 0, 0, 0
	}
	slices.Sort(times)
	return times[len(times)/2], times[len(times)*99/100], times[len(times)-1]
}
