package main

import "math"

// model is a deploy: nodes that start within a window and need one module each. Times
// are in seconds, rates in bytes per second.
type model struct {
	nodes   int
	window  float64 // the nodes' starts are spread evenly over it
	compile float64 // time of compiling the module, on one core
	size    float64 // of the entry, compressed
	rtt     float64 // from a node to the server
	node    float64 // rate of one node's connection
	server  float64 // rate of the server, shared evenly by the transfers under way
	admit   int     // transfers that the server has under way at most; 0 = no bound
	edges   int     // caches in front of the server, each as fast as server; 0 = none
	cached  bool    // there is a remote layer
	early   bool    // the entry was uploaded before the deploy
}

// result is what a deploy costs.
type result struct {
	hits     int     // nodes that used the entry
	compiles int     // nodes that compiled
	gaveUp   int     // of those: the ones whose transfer exceeded its budget
	turned   int     // of those: the ones that the server turned away
	uploads  int     // nodes that uploaded the entry
	cpu      float64 // seconds of compiling
	egress   float64 // bytes sent to nodes, those of transfers given up included
	origin   float64 // bytes sent by the server itself: to nodes, or to the edges
	peak     float64 // highest rate of sending to nodes, over all servers
	median   float64 // of the nodes' times from start to a compiled module
	p99      float64
	worst    float64
}

// budget is how long a node waits for an entry before it compiles.
func (m model) budget() float64 { return math.Max(0.5, m.compile/4) }

// bounded returns the model with as many transfers at once as end within half of the
// budget.
func (m model) bounded() model {
	m.admit = max(1, int(m.server*(m.budget()/2-m.rtt)/m.size))
	return m
}

// run computes a deploy. All entries have one size and all transfers progress at one rate at any
// moment, so that they end in the order in which they began: one queue is enough.
func (m model) run() result {
	if !m.cached {
		return result{compiles: m.nodes, cpu: float64(m.nodes) * m.compile, median: m.compile, p99: m.compile, worst: m.compile}
	}
	if m.edges > 1 {
		return m.behindEdges()
	}
	var r result
	times := make([]float64, 0, m.nodes)
	done := func(t float64) { times = append(times, t) }

	// The entry is there when the first node has compiled and uploaded it.
	upload := m.rtt + m.size/m.node
	present := m.compile + upload
	if m.early {
		present = 0
	}
	budget := m.budget()

	type transfer struct{ asked, began, until float64 } // until: what served has to reach
	var queue []transfer
	head := 0
	served := 0.0 // bytes that a transfer under way all along has received
	now := 0.0
	rate := func() float64 {
		n := len(queue) - head
		if n == 0 {
			return 0
		}
		return math.Min(m.node, m.server/float64(n))
	}
	// advance brings all transfers to time t.
	advance := func(t float64) {
		for head < len(queue) {
			q, v := queue[head], rate()
			r.peak = math.Max(r.peak, v*float64(len(queue)-head))
			ends := now + (q.until-served)/v
			gives := q.asked + budget
			next := math.Min(ends, gives)
			if next > t {
				break
			}
			served += v * (next - now)
			now = next
			head++
			if ends <= gives {
				r.hits++
				r.egress += m.size
				done(next - q.asked)
				continue
			}
			r.gaveUp++
			r.compiles++
			r.egress += m.size - (q.until - served)
			done(next - q.asked + m.compile)
		}
		if head < len(queue) {
			served += rate() * (t - now)
		}
		now = t
	}
	for i := range m.nodes {
		start := m.window * float64(i) / float64(m.nodes)
		advance(math.Max(now, start+m.rtt))
		there := now >= present
		full := m.admit > 0 && len(queue)-head >= m.admit
		if there && full {
			r.turned++
			r.compiles++
			done(m.rtt + m.compile)
			continue
		}
		if there {
			queue = append(queue, transfer{start, now, served + m.size})
			continue
		}
		r.compiles++
		if start+m.rtt+m.compile < present {
			r.uploads++
		}
		done(m.rtt + m.compile)
	}
	advance(math.Inf(1))
	if m.early {
		r.uploads = 1
	}
	r.cpu = float64(r.compiles) * m.compile
	r.origin = r.egress
	r.median, r.p99, r.worst = quantiles(times)
	return r
}

// behindEdges computes the deploy for one edge, and what all of them ask of the server.
func (m model) behindEdges() result {
	one := m
	one.edges = 0
	one.nodes = (m.nodes + m.edges - 1) / m.edges
	r := one.run()
	for _, n := range []*int{&r.hits, &r.compiles, &r.gaveUp, &r.turned} {
		*n *= m.edges
	}
	for _, x := range []*float64{&r.cpu, &r.egress, &r.peak} {
		*x *= float64(m.edges)
	}
	r.origin = m.size * float64(m.edges)
	return r
}
