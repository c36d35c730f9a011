package main

import "testing"

// TestMemorySavesMore guards the policy: on one trace of each kind, Memory saves
// more compile time than LRU, SIEVE and S3-FIFO do.
func TestMemorySavesMore(t *testing.T) {
	for _, r := range recipes {
		w := r.workload(1)
		ours := simulate(w, newMemory(w.budget)).cost
		for _, c := range contenders {
			switch c.name {
			case "lru", "sieve", "s3-fifo":
				if theirs := simulate(w, c.make(w.budget)).cost; theirs > ours {
					t.Errorf("%s: %s saves %.2f %%, Memory %.2f %%", r.name, c.name, theirs, ours)
				}
			}
		}
	}
}

// TestModelsKeepTheBudget checks the models that Memory is compared with.
func TestModelsKeepTheBudget(t *testing.T) {
	w := recipes[0].workload(2)
	for _, c := range contenders {
		model := c.make(w.budget)
		b, ok := model.(interface{ held() (sum, booked int64) })
		if !ok {
			continue
		}
		for i, m := range w.requests[:20_000] {
			model.request(m)
			if i%100 == 0 {
				if sum, booked := b.held(); sum != booked || sum > w.budget {
					t.Fatalf("%s holds %d bytes, has booked %d of %d", c.name, sum, booked, w.budget)
				}
			}
		}
	}
}
