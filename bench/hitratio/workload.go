package main

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"sort"
	"time"

	"github.com/modcache/modcache"
)

// module is what a request is for.
type module struct {
	key      modcache.Key
	artifact *modcache.Artifact
}

func (m *module) size() int64   { return m.artifact.Size() }
func (m *module) cost() float64 { return m.artifact.Info().CompileTime.Seconds() }

// workload is a trace of requests, and the budget they are served under.
type workload struct {
	name     string
	budget   int64
	requests []*module
}

// recipe says how to draw a workload.
type recipe struct {
	name   string
	alpha  float64 // Zipf exponent of the popularity
	churn  float64 // probability that a request changes the catalogue first
	oneOff float64 // share of requests for modules that never come back
	budget float64 // share of the catalogue's bytes
}

// recipes are the workloads: three popularities; modules that are released anew
// or change their rank; a third of requests for things never seen again.
var recipes = []recipe{
	{name: "zipf0.9", alpha: 0.9, budget: 0.1},
	{name: "zipf1.0", alpha: 1.0, budget: 0.1},
	{name: "zipf1.1", alpha: 1.1, budget: 0.1},
	{name: "churn", alpha: 1.0, budget: 0.1, churn: 0.02},
	{name: "churn-fast", alpha: 1.0, budget: 0.1, churn: 0.1},
	{name: "one-off", alpha: 1.0, budget: 0.1, oneOff: 0.33},
	{name: "tight", alpha: 1.0, budget: 0.02},
	{name: "roomy", alpha: 1.0, budget: 0.33},
}

const (
	catalogue = 2000
	requests  = 60_000
	smallest  = 200e3 // median sizes are drawn between these, evenly on a logarithmic scale
	largest   = 90e6
	most      = 256 << 20
)

// zeros is what artifacts are made of: they share it, so a trace of terabytes
// takes no memory.
var zeros = make([]byte, most)

// draw makes a module with a lognormal size around a median of its own kind, and
// 50 ns of compile time for each byte, give or take.
func draw(r *rand.Rand) *module {
	median := smallest * math.Pow(largest/smallest, r.Float64())
	size := min(int64(median*math.Exp(0.5*r.NormFloat64())), most)
	perByte := 50e-9 * math.Exp(0.5*r.NormFloat64())
	m := &module{artifact: modcache.NewArtifact(zeros[:size:size], modcache.Info{
		CompileTime: time.Duration(float64(size) * perByte * 1e9),
	})}
	for i := 0; i < len(m.key); i += 8 {
		binary.LittleEndian.PutUint64(m.key[i:], r.Uint64())
	}
	return m
}

func (c recipe) workload(seed uint64) workload {
	r := rand.New(rand.NewPCG(seed, 1))
	modules := make([]*module, catalogue)
	var bytes int64
	for i := range modules {
		modules[i] = draw(r)
		bytes += modules[i].size()
	}
	cdf := make([]float64, catalogue)
	sum := 0.0
	for i := range cdf {
		sum += math.Pow(float64(i+1), -c.alpha)
		cdf[i] = sum
	}
	w := workload{name: c.name, budget: int64(float64(bytes) * c.budget)}
	for range requests {
		if r.Float64() < c.churn {
			i, j := r.IntN(catalogue), r.IntN(catalogue)
			if r.IntN(2) == 0 {
				modules[i] = draw(r) // a new release takes the rank of the old
			} else {
				modules[i], modules[j] = modules[j], modules[i]
			}
		}
		if r.Float64() < c.oneOff {
			w.requests = append(w.requests, draw(r))
		} else {
			w.requests = append(w.requests, modules[sort.SearchFloat64s(cdf, r.Float64()*sum)])
		}
	}
	return w
}
