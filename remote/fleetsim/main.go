// Command fleetsim computes what a deploy to a fleet costs with and without a remote
// layer, and prints it as a table.
//
// The model: every node starts within a window, evenly spread, and needs one
// module that nobody has on disk. Without the layer it compiles it. With
// the layer it asks the server, one round trip. If the entry is there, it downloads it, at its
// own rate or an even share of the server's, whichever is less; if that takes longer than
// half of the compile time, it gives up and compiles. If the entry isn't there, it compiles and
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

// servers are what entries are kept on.
var servers = []struct {
	name  string
	rate  float64
	edges int
	most  int // nodes that it is shown for
}{
	{"one nginx, 1 Gbit/s", gbit, 0, 10_000},
	{"one nginx, 25 Gbit/s", 25 * gbit, 0, 100_000},
	{"object storage, 1 Tbit/s", 1000 * gbit, 0, 1_000_000},
	{"CDN, 200 edges of 100 Gbit/s", 100 * gbit, 200, 10_000_000},
}

var fleets = []int{40, 1000, 10_000, 100_000, 1_000_000, 10_000_000}

func table(w io.Writer, m model) {
	fmt.Fprintln(w, "| nodes | server | compiles | gave up | CPU, h | sent to nodes | sent by origin | peak, Gbit/s | median, s | p99, s |")
	fmt.Fprintln(w, "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, n := range fleets {
		m.nodes = n
		row(w, m, "none")
		for _, s := range servers {
			if n > s.most || n < s.most/1000 {
				continue
			}
			c := m
			c.cached, c.server, c.edges = true, s.rate, s.edges
			if s.edges == 0 {
				row(w, c, s.name)
			}
			c.early = true
			row(w, c, s.name+", uploaded before")
		}
	}
}

func row(w io.Writer, m model, server string) {
	r := m.run()
	fmt.Fprintf(w, "| %d | %s | %d | %d | %.3g | %s | %s | %.3g | %.2f | %.2f |\n",
		m.nodes, server, r.compiles, r.gaveUp, r.cpu/3600, bytes(r.egress), bytes(r.origin), r.peak/gbit, r.median, r.p99)
}

func bytes(n float64) string {
	for _, unit := range []string{"B", "kB", "MB", "GB"} {
		if n < 1000 {
			return fmt.Sprintf("%.3g %s", n, unit)
		}
		n /= 1000
	}
	return fmt.Sprintf("%.0f TB", n)
}

func quantiles(times []float64) (median, p99, worst float64) {
	if len(times) == 0 {
		return 0, 0, 0
	}
	slices.Sort(times)
	return times[len(times)/2], times[len(times)*99/100], times[len(times)-1]
}
