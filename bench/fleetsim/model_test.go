package main

import (
	"bytes"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestModelLimits(t *testing.T) {
	m := defaults()
	m.nodes, m.cached, m.early = 500, true, true

	fast := m
	fast.server = math.Inf(1)
	r := fast.run()
	require.Equal(t, 500, r.hits)
	require.Zero(t, r.compiles)
	want := m.rtt + m.size/m.node
	for _, got := range []float64{r.median, r.p99, r.worst} {
		require.InDelta(t, want, got, 1e-9, "a round trip and the node's own rate")
	}
	require.Equal(t, 500*m.size, r.egress)

	slow := m
	slow.server = 1
	r = slow.run()
	require.Equal(t, 500, r.gaveUp)
	require.InDelta(t, m.compile*1.25, r.worst, 1e-6, "never slower than this")
	require.InDelta(t, m.window+m.budget(), r.egress, 0.1, "a byte a second while anybody waits")

	// All share for a fifth of the compile time, which is in time, or for three tenths.
	crowd := m
	crowd.window, crowd.server = 0, 500*m.size/(0.2*m.compile)
	r = crowd.run()
	require.Equal(t, [2]int{500, 0}, [2]int{r.hits, r.compiles})
	require.Zero(t, r.cpu)
	require.InDelta(t, 0.2*m.compile, r.worst, 0.1)
	crowd.server = 500 * m.size / (0.3 * m.compile)
	r = crowd.run()
	require.Equal(t, [3]int{0, 500, 500}, [3]int{r.hits, r.gaveUp, r.compiles})
	require.InDelta(t, 500*m.compile, r.cpu, 1e-6)

	one := m
	one.nodes, one.early, one.server = 1, false, m.node
	r = one.run()
	require.Equal(t, [3]int{1, 1, 0}, [3]int{r.compiles, r.uploads, r.hits})

	none := m
	none.cached, none.early = false, false
	r = none.run()
	require.Equal(t, [3]int{500, 0, 0}, [3]int{r.compiles, r.uploads, r.hits})
	require.Equal(t, m.compile, r.median)
}

// TestModelOverload is why servers need a bound: without, each gets a share too small to
// be of use.
func TestModelOverload(t *testing.T) {
	m := defaults()
	m.nodes, m.cached, m.early, m.server = 10_000, true, true, 25*gbit
	r := m.run()
	require.Greater(t, r.gaveUp, 9000)
	b := m.bounded().run()
	require.Zero(t, b.gaveUp)
	require.Equal(t, 10_000, b.hits+b.turned)
	require.Greater(t, b.hits, 2500)
	require.InDelta(t, m.server*m.window/m.size, b.hits, 200, "all that the server can send")
	require.Less(t, b.worst, m.compile+2*m.rtt)
}

// TestModelShare has two transfers that overlap: 1 s alone, 1 s shared, 1 s alone.
func TestModelShare(t *testing.T) {
	m := model{nodes: 2, window: 2, compile: 100, size: 1.5, node: 1, server: 1, cached: true, early: true}
	r := m.run()
	require.Equal(t, 2, r.hits)
	require.InDelta(t, 2, r.worst, 1e-9)
	require.InDelta(t, 1, r.peak, 1e-9)
	require.InDelta(t, 3, r.egress, 1e-9)
}

// TestModelDocument has docs/remote.md show what the program prints.
func TestModelDocument(t *testing.T) {
	doc, err := os.ReadFile("../../docs/remote.md")
	require.NoError(t, err)
	var out bytes.Buffer
	table(&out, defaults())
	require.Contains(t, string(doc), out.String(), "go run ./fleetsim in bench, and paste")
}
