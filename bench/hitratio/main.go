// Command hitratio compares what eviction policies save. It feeds the same
// synthetic traces of module requests to modcache.Memory, to other caches and to
// plain models of known policies, and prints the share of requests, of bytes and
// of compile time that each serves from memory, and how far each is from
// modcache.Memory, seed by seed.
//
//	go run ./hitratio [-from 101] [-seeds 7] [-workload zipf1.0] [-policy modcache,sieve]
//
// Memory's constants were chosen on seeds 1 to 7. Judge it by others.
package main

import (
	"flag"
	"fmt"
	"math"
	"slices"
	"strings"
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

func (r ratios) String() string {
	return fmt.Sprintf("%6.2f %6.2f %6.2f", r.objects, r.bytes, r.cost)
}

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

func main() {
	seeds := flag.Int("seeds", 7, "how many traces of each workload")
	from := flag.Uint64("from", 101, "the first seed")
	only := flag.String("workload", "", "names of workloads, separated by commas; all if empty")
	policy := flag.String("policy", "", "names of contenders besides modcache; all if empty")
	flag.Parse()
	wanted := func(list, name string) bool {
		return list == "" || slices.Contains(strings.Split(list, ","), name)
	}
	total := make([]float64, len(contenders))
	rows := 0
	for _, recipe := range recipes {
		if !wanted(*only, recipe.name) {
			continue
		}
		rows++
		results := make([][]ratios, len(contenders))
		for seed := range *seeds {
			w := recipe.workload(*from + uint64(seed))
			for i, c := range contenders {
				if i == 0 || wanted(*policy, c.name) {
					results[i] = append(results[i], simulate(w, c.make(w.budget)))
				}
			}
		}
		fmt.Printf("%-12s objects  bytes   cost   cost less than modcache's, 95 %% interval\n", recipe.name)
		for i, c := range contenders {
			if results[i] == nil {
				continue
			}
			mean, diff, interval := compare(results[0], results[i])
			fmt.Printf("  %-10s %v", c.name, mean)
			if i > 0 {
				fmt.Printf("  %6.2f ± %.2f", diff, interval)
			}
			fmt.Println()
			total[i] += mean.cost
		}
	}
	fmt.Println("mean cost")
	for i, c := range contenders {
		if total[i] > 0 {
			fmt.Printf("  %-10s %6.2f\n", c.name, total[i]/float64(rows))
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
