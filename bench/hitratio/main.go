// Command hitratio compares what eviction policies save. It feeds the same
// synthetic traces of module requests to modcache.Memory, to other caches and to
// plain models of known policies, and prints the share of requests, of bytes and
// of compile time that each serves from memory, and how far each is from
// modcache.Memory, seed by seed.
//
//	go run ./hitratio [-from 101] [-seeds 7] [-workload zipf1.0] [-policy modcache,sieve] [-json]
//
// Memory's constants were chosen on seeds 1 to 7. Judge it by others.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// cache serves a request for m and reports whether it held m before. If it
// didn't, m is offered to it.
type cache interface {
	request(m *module) bool
	close()
}

type contender struct {
	name string
	make func(budget int64) cache
}

var contenders = []contender{
	{"modcache", newMemory},
	{"otter", newOtter},
	{"theine", newTheine},
	{"ristretto", newRistretto},
	{"lru", newLRU},
	{"sieve", newSieve},
	{"sieve/16", func(budget int64) cache { return newSharded(budget, 16, newSieve) }},
	{"s3-fifo", newS3FIFO},
	{"w-tinylfu", newTinyLFU},
	{"gdsf", newGDSF},
}

// ratios are percentages served from memory.
type ratios struct{ objects, bytes, cost float64 }

func simulate(w workload, c cache) ratios {
	defer c.close()
	var hit, all ratios
	for _, m := range w.requests {
		size, cost := float64(m.size()), m.cost()
		all = ratios{all.objects + 1, all.bytes + size, all.cost + cost}
		if c.request(m) {
			hit = ratios{hit.objects + 1, hit.bytes + size, hit.cost + cost}
		}
	}
	return ratios{100 * hit.objects / all.objects, 100 * hit.bytes / all.bytes, 100 * hit.cost / all.cost}
}

// outcome is what the contenders saved on one workload, and how JSON shows it.
type outcome struct {
	Workload string
	Policies []saved
}

type saved struct {
	Name           string
	Saved          []float64 // percent of the compile time, by seed
	Objects, Bytes float64   // percent, on average
	Behind         float64   // modcache's percentage of compile time less this one's, on average
	Plusminus      float64   // its 95 % interval
}

func main() {
	seeds := flag.Int("seeds", 7, "how many traces of each workload")
	from := flag.Uint64("from", 101, "the first seed")
	only := flag.String("workload", "", "names of workloads, separated by commas; all if empty")
	policy := flag.String("policy", "", "names of contenders besides modcache; all if empty")
	asJSON := flag.Bool("json", false, "print JSON")
	flag.Parse()
	wanted := func(list, name string) bool {
		return list == "" || slices.Contains(strings.Split(list, ","), name)
	}
	var chosen []contender
	for i, c := range contenders {
		if i == 0 || wanted(*policy, c.name) {
			chosen = append(chosen, c)
		}
	}
	var outcomes []outcome
	for _, recipe := range recipes {
		if wanted(*only, recipe.name) {
			outcomes = append(outcomes, play(recipe, chosen, *from, *seeds))
		}
	}
	if !*asJSON {
		table(outcomes)
		return
	}
	b, err := json.Marshal(outcomes)
	if err != nil {
		fmt.Fprintln(os.Stderr, "hitratio:", err)
		os.Exit(1)
	}
	fmt.Printf("%s\n", b)
}

// play lets the contenders serve the traces of a workload, as many seeds at a time as there are CPUs.
func play(r recipe, chosen []contender, from uint64, seeds int) outcome {
	results := make([][]ratios, len(chosen))
	for i := range results {
		results[i] = make([]ratios, seeds)
	}
	var wg sync.WaitGroup
	limit := make(chan struct{}, runtime.NumCPU())
	for seed := range seeds {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			w := r.workload(from + uint64(seed))
			for i, c := range chosen {
				results[i][seed] = simulate(w, c.make(w.budget))
			}
		})
	}
	wg.Wait()
	o := outcome{Workload: r.name}
	for i, c := range chosen {
		s := saved{Name: c.name}
		var mean ratios
		mean, s.Behind, s.Plusminus = compare(results[0], results[i])
		s.Objects, s.Bytes = mean.objects, mean.bytes
		for _, r := range results[i] {
			s.Saved = append(s.Saved, r.cost)
		}
		o.Policies = append(o.Policies, s)
	}
	return o
}

// table prints the outcomes, and each contender's mean over the workloads.
func table(outcomes []outcome) {
	total := map[string]float64{}
	for _, o := range outcomes {
		fmt.Printf("%-12s objects  bytes   cost   cost less than modcache's, 95 %% interval\n", o.Workload)
		for i, p := range o.Policies {
			cost := 0.0
			for _, c := range p.Saved {
				cost += c / float64(len(p.Saved))
			}
			total[p.Name] += cost
			fmt.Printf("  %-10s %6.2f %6.2f %6.2f", p.Name, p.Objects, p.Bytes, cost)
			if i > 0 {
				fmt.Printf("  %6.2f ± %.2f", p.Behind, p.Plusminus)
			}
			fmt.Println()
		}
	}
	fmt.Println("mean cost")
	for _, c := range contenders {
		if sum, ok := total[c.name]; ok {
			fmt.Printf("  %-10s %6.2f\n", c.name, sum/float64(len(outcomes)))
		}
	}
}

// compare returns the mean of b, and the mean and the 95 % interval of what its
// cost ratio lacks to a's, trace by trace.
func compare(a, b []ratios) (mean ratios, diff, interval float64) {
	n := float64(len(b))
	var squares float64
	for i := range b {
		mean = ratios{mean.objects + b[i].objects/n, mean.bytes + b[i].bytes/n, mean.cost + b[i].cost/n}
		diff += (a[i].cost - b[i].cost) / n
	}
	for i := range b {
		d := a[i].cost - b[i].cost - diff
		squares += d * d
	}
	// Student's t for few traces, which is 2.447 for seven.
	t := map[float64]float64{2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447}[n]
	if t == 0 {
		t = 2.4
	}
	return mean, diff, t * math.Sqrt(squares/max(n-1, 1)/n)
}
